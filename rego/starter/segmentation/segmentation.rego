# METADATA
# title: Which segments may reach which
# description: |
#   The coarse question under every call: may these two workloads exchange packets at all? Decided from labels alone, so
#   that it can be enforced below HTTP, by NetworkPolicy and ztunnel. Three labels cut the estate:
#   tier (edge, web, app, data), env (prod, staging, dev) and data-class (public, internal, pci).
package gatehouse.segmentation

import future.keywords.not

default allow := false

default deny := false

# METADATA
# title: Traffic goes down one tier at a time, inside one environment
allow if {
	input.source.labels.env == input.destination.labels.env
	input.destination.labels.tier in below[input.source.labels.tier]
}

below := {"edge": {"web"}, "web": {"app"}, "app": {"app", "data"}}

# METADATA
# title: Stores of card data are reached only from workloads that may hold it
deny if {
	input.destination.labels.tier == "data"
	input.destination.labels["data-class"] == "pci"
	not input.source.labels["data-class"] == "pci"
}

# METADATA
# title: Production answers production only
deny if {
	input.destination.labels.env == "prod"
	not input.source.labels.env == "prod"
}
