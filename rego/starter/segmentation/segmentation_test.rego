package gatehouse.segmentation_test

import data.gatehouse.segmentation

labels(tier, env, class) := {"labels": {"tier": tier, "env": env, "data-class": class}}

allowed(source, destination) if {
	segmentation.allow with input as {"source": source, "destination": destination}
	not segmentation.deny with input as {"source": source, "destination": destination}
}

test_web_reaches_app if allowed(labels("web", "prod", "internal"), labels("app", "prod", "internal"))

test_app_reaches_data if allowed(labels("app", "prod", "pci"), labels("data", "prod", "pci"))

test_web_does_not_reach_data if not allowed(labels("web", "prod", "pci"), labels("data", "prod", "pci"))

test_nothing_goes_up if not allowed(labels("data", "prod", "pci"), labels("app", "prod", "pci"))

test_environments_do_not_mix if {
	not allowed(labels("web", "staging", "internal"), labels("app", "prod", "internal"))
	not allowed(labels("web", "prod", "internal"), labels("app", "staging", "internal"))
}

test_card_data_stays_inside if not allowed(labels("app", "prod", "internal"), labels("data", "prod", "pci"))

test_an_unlabelled_caller_is_denied if {
	not allowed({}, labels("app", "prod", "internal"))
	not allowed({"labels": {}}, labels("data", "prod", "pci"))
}

test_an_unlabelled_destination_is_closed if not allowed(labels("web", "prod", "internal"), {})

test_production_denies_other_environments_whatever_else_allows if {
	segmentation.deny with input as {"source": labels("app", "dev", "pci"), "destination": labels("data", "prod", "pci")}
	not segmentation.deny with input as {"source": labels("app", "dev", "pci"), "destination": labels("data", "dev", "pci")}
}
