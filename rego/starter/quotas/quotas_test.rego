package gatehouse.quotas_test

import data.gatehouse.quotas

limits := {"shop": {"replicas": 5, "memory_mib": 2048}}

deployment(count, memory) := {"request": {
	"kind": {"kind": "Deployment"},
	"namespace": "shop",
	"name": "payments",
	"object": {"spec": {"replicas": count, "template": {"spec": {"containers": [{
		"name": "main",
		"resources": {"limits": {"memory": memory}},
	}]}}}},
}}

reasons(review, usage) := found if {
	found := quotas.deny with input as review with data.quotas as limits with data.usage as usage
}

test_within_the_quota_is_admitted if {
	count(reasons(deployment(3, "256Mi"), {"shop": {"replicas": 2}})) == 0
}

test_the_last_replica_is_admitted if {
	count(reasons(deployment(5, "1Mi"), {})) == 0
}

test_one_replica_too_many_is_refused if {
	reasons(deployment(4, "1Mi"), {"shop": {"replicas": 2}}) == {"6 replicas would run in \"shop\"; its quota is 5"}
}

test_memory_counts_every_replica if {
	reasons(deployment(5, "512Mi"), {}) == {"2560 MiB would be promised in \"shop\"; its quota is 2048 MiB"}
}

test_a_missing_memory_limit_is_refused if {
	review := json.remove(deployment(1, "1Mi"), ["/request/object/spec/template/spec/containers/0/resources"])
	reasons(review, {}) == {"container \"main\" states no memory limit"}
}

test_an_unreadable_memory_limit_is_refused if {
	reasons(deployment(1, "plenty"), {}) == {"container \"main\" states no memory limit"}
}

test_a_namespace_without_quota_runs_nothing if {
	review := json.patch(deployment(1, "1Mi"), [{"op": "replace", "path": "/request/namespace", "value": "lab"}])
	reasons(review, {}) == {"namespace \"lab\" has no quota; ask for one before deploying to it"}
}

test_other_kinds_are_not_counted if {
	review := json.patch(deployment(99, "1Mi"), [{"op": "replace", "path": "/request/kind/kind", "value": "ConfigMap"}])
	count(reasons(review, {})) == 0
}

test_a_deployment_without_a_count_runs_one_replica if {
	review := json.remove(deployment(1, "1Gi"), ["/request/object/spec/replicas"])
	count(reasons(review, {"shop": {"replicas": 4}})) == 0
	count(reasons(review, {"shop": {"replicas": 5}})) == 1
}
