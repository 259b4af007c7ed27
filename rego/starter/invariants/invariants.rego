# METADATA
# title: What must hold whatever the policies say
# description: |
#   Each rule names a class of calls that must never be allowed. On every compile it is proved for all inputs that no
#   call is both allowed and in that class; where the proof fails, one such call is shown.
package gatehouse.invariants

import data.gatehouse.lib.spiffe
import future.keywords.not

# METADATA
# title: Nothing but the payment service reaches the card database
never contains "card-db is reached by payments only" if {
	input.destination.service == "card-db"
	not input.source.spiffe_id == spiffe.mesh_id("shop", "payments")
}

# METADATA
# title: Foreign trust domains reach nothing of ours
never contains "foreign trust domains stay outside" if {
	not input.source.trust_domain == data.inventory.trust_domain
}
