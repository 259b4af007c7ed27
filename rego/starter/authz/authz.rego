# METADATA
# title: Who may call whom, and how
# description: |
#   One question at a time: may `input.source` make this call to `input.destination`? What no rule allows is denied, and
#   `deny` wins over `allow`. The rules below protect a small shop: a front end, a payment service and a card database.
#   Replace them with your own; `gatehouse policy check` knows every field of `input`.
package gatehouse.authz

import data.gatehouse.lib.spiffe
import future.keywords.not

default allow := false

default deny := false

frontend := spiffe.mesh_id("shop", "frontend")

payments := spiffe.mesh_id("shop", "payments")

# METADATA
# title: Anyone with an identity of ours may read the shop's pages
allow if {
	to("frontend")
	input.source.trust_domain == data.inventory.trust_domain
	input.request.method in {"GET", "HEAD"}
}

# METADATA
# title: The front end creates and reads charges
allow if {
	to("payments")
	input.source.spiffe_id == frontend
	input.request.method in {"GET", "POST"}
	startswith(input.request.path, "/v1/charges")
}

# METADATA
# title: The front end watches payments over gRPC
allow if {
	to("payments")
	input.source.spiffe_id == frontend
	input.request.method == "POST"
	input.request.path == "/shop.payments.v1.Payments/Watch"
}

# METADATA
# title: Only the payment service opens connections to the card database
allow if {
	to("card-db")
	input.source.spiffe_id == payments
	input.destination.port == 5432
}

# METADATA
# title: Refunds are not for machines
deny if {
	to("payments")
	startswith(input.request.path, "/v1/charges/refund")
}

to(service) if {
	input.destination.namespace == "shop"
	input.destination.service == service
}
