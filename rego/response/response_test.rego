package gatehouse.response_test

import data.gatehouse.response

web := {"spiffe_id": "spiffe://example.org/web", "selectors": ["unix:path:/usr/bin/web"]}

pay := {"spiffe_id": "spiffe://example.org/pay", "selectors": ["unix:uid:1000"]}

decided(priority, tags, candidates) := found if {
	found := response.decision with input as {
		"alert": {"rule": "Terminal shell in container", "priority": priority, "tags": tags, "output_fields": {}},
		"candidates": candidates,
	}
}

test_what_is_severe_cuts_off if {
	every priority in ["Emergency", "Alert", "Critical"] {
		found := decided(priority, [], [web])
		found.action == "quarantine"
		found.spiffe_id == "spiffe://example.org/web"
		found.reason == sprintf("Falco: Terminal shell in container (%s)", [priority])
	}
}

test_the_rest_does_not if {
	every priority in ["Error", "Warning", "Notice", "Informational", "Debug", ""] {
		decided(priority, ["shell"], [web]).action == "ignore"
	}
}

test_a_tag_asks_for_it if decided("Notice", ["gatehouse_quarantine"], [web]).action == "quarantine"

test_a_tag_forbids_it if decided("Critical", ["gatehouse_ignore", "gatehouse_quarantine"], [web]).action == "ignore"

test_several_entries_of_one_identity_are_one if decided("Critical", [], [web, web]).action == "quarantine"

test_who_it_was_has_to_be_certain if {
	decided("Critical", [], []).action == "ignore"
	contains(decided("Critical", [], [web, pay]).reason, "2 identities")
	decided("Critical", [], [web, pay]).action == "ignore"
}
