package gatehouse.authz_test

import data.gatehouse.authz

inventory := {"trust_domain": "example.org"}

caller(namespace, service_account) := {
	"spiffe_id": sprintf("spiffe://example.org/ns/%s/sa/%s", [namespace, service_account]),
	"trust_domain": "example.org",
	"namespace": namespace,
	"service_account": service_account,
}

call(source, service, port, request) := {
	"source": source,
	"destination": {"namespace": "shop", "service": service, "port": port},
	"request": request,
}

allowed(question) if authz.allow with input as question with data.inventory as inventory

denied(question) if authz.deny with input as question with data.inventory as inventory

frontend := caller("shop", "frontend")

payments := caller("shop", "payments")

test_the_front_end_charges if {
	allowed(call(frontend, "payments", 8080, {"method": "POST", "path": "/v1/charges"}))
	allowed(call(frontend, "payments", 8080, {"method": "GET", "path": "/v1/charges/17"}))
}

test_the_front_end_watches if {
	allowed(call(frontend, "payments", 8080, {"method": "POST", "path": "/shop.payments.v1.Payments/Watch"}))
}

test_the_front_end_does_nothing_else_to_payments if {
	not allowed(call(frontend, "payments", 8080, {"method": "DELETE", "path": "/v1/charges/17"}))
	not allowed(call(frontend, "payments", 8080, {"method": "GET", "path": "/admin"}))
}

test_nobody_refunds if {
	denied(call(frontend, "payments", 8080, {"method": "POST", "path": "/v1/charges/refund"}))
	denied(call(payments, "payments", 8080, {"method": "POST", "path": "/v1/charges/refund/17"}))
}

test_others_do_not_charge if {
	not allowed(call(caller("lab", "frontend"), "payments", 8080, {"method": "POST", "path": "/v1/charges"}))
}

test_a_namesake_in_a_foreign_trust_domain_does_not_charge if {
	stranger := object.union(frontend, {"spiffe_id": "spiffe://partner.example/ns/shop/sa/frontend", "trust_domain": "partner.example"})
	not allowed(call(stranger, "payments", 8080, {"method": "POST", "path": "/v1/charges"}))
	not allowed(call(stranger, "frontend", 8080, {"method": "GET", "path": "/"}))
}

test_only_payments_reaches_the_card_database if {
	allowed(call(payments, "card-db", 5432, {}))
	not allowed(call(payments, "card-db", 22, {}))
	not allowed(call(frontend, "card-db", 5432, {}))
}

test_a_caller_without_identity_reaches_nothing if {
	every service in ["frontend", "payments", "card-db"] {
		not allowed({"destination": {"namespace": "shop", "service": service, "port": 5432}, "request": {"method": "GET", "path": "/"}})
	}
}

test_an_unknown_service_is_closed if {
	not allowed(call(frontend, "ledger", 8080, {"method": "GET", "path": "/"}))
}

test_everyone_of_ours_reads_the_shops_pages if {
	allowed(call(caller("lab", "probe"), "frontend", 8080, {"method": "GET", "path": "/"}))
	not allowed(call(caller("lab", "probe"), "frontend", 8080, {"method": "POST", "path": "/"}))
}
