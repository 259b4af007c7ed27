package gatehouse.admin_test

import data.gatehouse.admin

everything := "spiffe://example.org"

subject(role, scope) := {"id": "ada", "kind": "oidc", "grants": [{"role": role, "scope": scope}]}

call(role, scope, action) := {"subject": subject(role, scope), "action": action, "resource": {"spiffe_id": "spiffe://example.org/ns/shop/sa/payments"}, "change": {"author": "grace"}}

allowed(question) if admin.allow with input as question with data.inventory.trust_domain as "example.org"

actions := {action | some action in admin.permissions[_]}

# The whole table, written out a second time: role by role, what it may do.
expected := {
	"viewer": admin.read,
	"auditor": admin.read | {"audit.search", "audit.export", "ledger.read", "report.read"},
	"author": admin.read | {"policy.propose", "policy.plan", "policy.withdraw"},
	"approver": admin.read | {"policy.approve", "policy.reject"},
	"operator": admin.read | {
		"entry.write", "agent.evict", "agent.ban", "token.create", "authority.rotate",
		"policy.apply", "policy.rollback", "quarantine.set", "quarantine.release",
	},
	"sensor": {"alert.report"},
}

test_every_role_against_every_action if {
	answers == {role: permitted | some role, permitted in expected}
}

answers[role] contains action if {
	some role, _ in expected
	some action in actions
	allowed(call(role, everything, action))
}

test_an_unknown_role_may_nothing if {
	every action in actions {
		not allowed(call("owner", everything, action))
	}
}

test_a_scope_covers_what_is_below_it if {
	allowed(call("operator", "spiffe://example.org/ns/shop", "agent.ban"))
	allowed(call("operator", "spiffe://example.org/ns/shop/", "agent.ban"))
	allowed(call("operator", "spiffe://example.org/ns/shop/sa/payments", "agent.ban"))
}

test_a_scope_ends_at_a_segment if {
	not allowed(call("operator", "spiffe://example.org/ns/sho", "agent.ban"))
	not allowed(call("operator", "spiffe://example.org/ns/lab", "agent.ban"))
}

test_the_whole_trust_domain_needs_a_grant_on_it if {
	narrow := json.remove(call("operator", "spiffe://example.org/ns/shop", "authority.rotate"), ["/resource"])
	wide := json.remove(call("operator", everything, "authority.rotate"), ["/resource"])
	not allowed(narrow)
	allowed(wide)
}

test_nobody_approves_their_own_change if {
	question := json.patch(call("approver", everything, "policy.approve"), [{"op": "replace", "path": "/change/author", "value": "ada"}])
	not allowed(question)
	result := admin.reasons with input as question with data.inventory.trust_domain as "example.org"
	"nobody decides on a change of their own" in result
}

test_a_change_without_an_author_is_not_approved if {
	not allowed(json.remove(call("approver", everything, "policy.approve"), ["/change"]))
}

test_two_roles_do_not_lift_the_four_eyes_rule if {
	question := {"subject": {"id": "ada", "kind": "oidc", "grants": [{"role": "author", "scope": everything}, {"role": "approver", "scope": everything}]}, "action": "policy.approve", "change": {"author": "ada"}}
	not allowed(question)
}

test_the_anonymous_may_nothing if {
	question := json.remove(call("operator", everything, "agent.ban"), ["/subject/id"])
	not allowed(question)
	not allowed(json.patch(question, [{"op": "add", "path": "/subject/id", "value": ""}]))
}

test_root_on_the_machine_breaks_the_glass if {
	allowed({"subject": {"kind": "local", "uid": 0, "id": "root"}, "action": "policy.approve"})
	not allowed({"subject": {"kind": "local", "uid": 1000, "id": "local"}, "action": "policy.approve"})
	not allowed({"subject": {"kind": "oidc", "uid": 0, "id": "root"}, "action": "policy.approve"})
}

reasons(question) := found if {
	found := admin.reasons with input as question with data.inventory.trust_domain as "example.org"
}

test_a_refusal_says_who_what_and_where if {
	reasons(call("viewer", everything, "agent.ban")) == {"ada has no role that permits agent.ban on spiffe://example.org/ns/shop/sa/payments"}
	narrow := json.remove(call("operator", "spiffe://example.org/ns/shop", "authority.rotate"), ["/resource"])
	reasons(narrow) == {"ada has no role that permits authority.rotate on the whole trust domain"}
}

test_a_refusal_of_the_anonymous_names_nobody if {
	reasons({"action": "agent.ban"}) == {"the caller is anonymous"}
}
