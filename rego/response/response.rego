# METADATA
# title: What follows from an alert of Falco
# description: |
#   Decides one alert: ignore it, or cut an identity off.
#   input.alert: what Falco sent (falco.org, "Alert formatting", with json_output): `rule`, `priority`, `source`, `tags`,
#   `hostname`, `time`, `output`, and `output_fields`, such as "proc.exepath" or "k8s.ns.name".
#   input.candidates: whom the alert can be about, [{"spiffe_id": "…", "selectors": ["unix:path:/usr/bin/cart"]}]: the
#   registration entries of which every selector agrees with the alert's fields.
#   The answer is `decision`: {"action": "ignore" | "quarantine", "spiffe_id": "…", "reason": "…"}. Only an identity or an
#   agent of this trust domain can be cut off, and only so many a minute; the server sees to that.
# scope: package
# schemas:
#   - input: {type: object}
package gatehouse.response

import future.keywords.not

# METADATA
# title: Priorities that cut off without anybody being asked
severe := {"emergency", "alert", "critical"}

# METADATA
# title: A tag that says of a Falco rule that it is meant to cut off, whatever its priority
wanted_tag := "gatehouse_quarantine"

# METADATA
# title: A tag that says of a Falco rule that it never cuts off
spared_tag := "gatehouse_ignore"

# METADATA
# title: What is to be done
# scope: document
# entrypoint: true
default decision := {"action": "ignore", "spiffe_id": "", "reason": "neither its priority nor a tag asks for more"}

decision := {"action": "quarantine", "spiffe_id": culprit, "reason": why} if {
	serious
	count(suspects) == 1
	some culprit in suspects
}

decision := {"action": "ignore", "spiffe_id": "", "reason": "it fits no identity that is registered"} if {
	serious
	count(suspects) == 0
}

decision := {"action": "ignore", "spiffe_id": "", "reason": sprintf("it fits %d identities, a person has to choose", [count(suspects)])} if {
	serious
	count(suspects) > 1
}

serious if {
	not spared
	asked_for
}

asked_for if lower(input.alert.priority) in severe

asked_for if wanted_tag in input.alert.tags

spared if spared_tag in input.alert.tags

suspects contains one.spiffe_id if some one in input.candidates

why := sprintf("Falco: %s (%s)", [input.alert.rule, input.alert.priority])
