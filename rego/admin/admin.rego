# METADATA
# title: Who may do what to Gatehouse itself
# description: |
#   Decides one call of the management API.
#   input.subject: {"id": "…", "kind": "oidc" | "svid" | "local" | "webhook", "grants": [{"role": "author", "scope": "spiffe://…"}]}
#   input.action: one of the actions below; input.resource.spiffe_id: what it touches, absent for the whole trust domain;
#   input.change.author: who wrote the policy version that is to be approved or applied.
#   Every role is scoped by a SPIFFE prefix that ends at a path segment. A call that touches the whole trust domain needs
#   a grant on the whole trust domain.
# scope: package
# schemas:
#   - input: {type: object}
package gatehouse.admin

import future.keywords.not

# METADATA
# title: What each role may do
permissions := {
	"viewer": read,
	"auditor": read | {"audit.search", "audit.export", "ledger.read", "report.read"},
	"author": read | {"policy.propose", "policy.plan", "policy.withdraw"},
	"approver": read | {"policy.approve", "policy.reject"},
	"operator": read | {
		"entry.write", "agent.evict", "agent.ban", "token.create", "authority.rotate",
		"policy.apply", "policy.rollback", "quarantine.set", "quarantine.release",
	},
	"sensor": {"alert.report"},
}

read := {"entry.read", "agent.read", "bundle.read", "authority.read", "policy.read", "status.read", "explain"}

default allow := false

# METADATA
# title: A grant on the resource permits the action
# scope: document
# entrypoint: true
allow if {
	some grant in input.subject.grants
	input.action in permissions[grant.role]
	covers(grant.scope)
	not own_change
	not anonymous
}

# METADATA
# title: Break-glass
# description: Root on the server's machine may do anything; it is recorded and said loudly.
allow if break_glass

break_glass if {
	input.subject.kind == "local"
	input.subject.uid == 0
}

# METADATA
# title: Nobody approves, rejects or applies what they wrote
own_change if {
	input.action in {"policy.approve", "policy.reject"}
	not input.change.author != input.subject.id
}

anonymous if not input.subject.id

anonymous if input.subject.id == ""

covers(scope) if {
	input.resource.spiffe_id
	input.resource.spiffe_id == scope
}

covers(scope) if {
	input.resource.spiffe_id
	startswith(input.resource.spiffe_id, concat("", [trim_suffix(scope, "/"), "/"]))
}

covers(scope) if {
	not input.resource.spiffe_id
	scope == concat("", ["spiffe://", data.inventory.trust_domain])
}

# METADATA
# title: Why a call was refused
# scope: document
# entrypoint: true
reasons contains "the caller is anonymous" if anonymous

reasons contains "nobody decides on a change of their own" if own_change

reasons contains reason if {
	not permitted
	not anonymous
	reason := sprintf("%s has no role that permits %s on %s", [input.subject.id, input.action, resource])
}

permitted if {
	some grant in input.subject.grants
	input.action in permissions[grant.role]
	covers(grant.scope)
}

default resource := "the whole trust domain"

resource := input.resource.spiffe_id
