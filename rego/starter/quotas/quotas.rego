# METADATA
# title: How much a namespace may ask for
# description: |
#   Decides a Kubernetes AdmissionReview against the quotas of its namespace:
#   data.quotas.<namespace> = {"replicas": 20, "memory_mib": 65536}, and what already runs there:
#   data.usage.<namespace> = {"replicas": 3, "memory_mib": 4096}, counted without the object under review.
#   A namespace without a quota may run nothing.
# scope: package
# schemas:
#   - input: {type: object}
package gatehouse.quotas

import future.keywords.not

scaled_kinds := {"Deployment", "StatefulSet", "ReplicaSet"}

namespace := input.request.namespace

quota := data.quotas[namespace]

used(resource) := object.get(data.usage, [namespace, resource], 0)

default replicas := 1

replicas := input.request.object.spec.replicas if input.request.kind.kind in scaled_kinds

memory_mib := sum([mebibytes(container.resources.limits.memory) |
	some container in input.request.object.spec.template.spec.containers
]) * replicas

mebibytes(quantity) := units.parse_bytes(quantity) / 1048576

# METADATA
# title: A namespace without a quota may run nothing
deny contains reason if {
	input.request.kind.kind in scaled_kinds
	not quota
	reason := sprintf("namespace %q has no quota; ask for one before deploying to it", [namespace])
}

# METADATA
# title: Replicas stay under the quota
deny contains reason if {
	input.request.kind.kind in scaled_kinds
	wanted := used("replicas") + replicas
	wanted > quota.replicas
	reason := sprintf("%d replicas would run in %q; its quota is %d", [wanted, namespace, quota.replicas])
}

# METADATA
# title: Every container states a memory limit
deny contains reason if {
	input.request.kind.kind in scaled_kinds
	some container in input.request.object.spec.template.spec.containers
	not mebibytes(container.resources.limits.memory)
	reason := sprintf("container %q states no memory limit", [container.name])
}

# METADATA
# title: Memory stays under the quota
deny contains reason if {
	input.request.kind.kind in scaled_kinds
	wanted := used("memory_mib") + memory_mib
	wanted > quota.memory_mib
	reason := sprintf("%v MiB would be promised in %q; its quota is %v MiB", [wanted, namespace, quota.memory_mib])
}
