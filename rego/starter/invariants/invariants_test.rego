package gatehouse.invariants_test

import data.gatehouse.invariants

broken(question) := found if {
	found := invariants.never with input as question with data.inventory.trust_domain as "example.org"
}

source(trust_domain, service_account) := {
	"trust_domain": trust_domain,
	"spiffe_id": sprintf("spiffe://%s/ns/shop/sa/%s", [trust_domain, service_account]),
}

test_payments_may_reach_the_card_database if {
	broken({"source": source("example.org", "payments"), "destination": {"service": "card-db"}}) == set()
}

test_the_front_end_may_not if {
	broken({"source": source("example.org", "frontend"), "destination": {"service": "card-db"}}) == {"card-db is reached by payments only"}
}

test_a_foreigner_breaks_both if {
	count(broken({"source": source("partner.example", "payments"), "destination": {"service": "card-db"}})) == 2
}

test_a_caller_without_identity_breaks_both if {
	count(broken({"destination": {"service": "card-db"}})) == 2
}
