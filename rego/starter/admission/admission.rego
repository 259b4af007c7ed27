# METADATA
# title: What may run in the cluster
# description: |
#   Decides a Kubernetes AdmissionReview. `input.request` is the review's request; `data.images`
#   holds what the build system attested for an image, by digest:
#   {"sha256:…": {"signed_by": "release", "scanned_at": "2026-01-31T00:00:00Z", "critical": 0}}.
#   A reason in `deny` refuses the object; no reason admits it.
# scope: package
# schemas:
#   - input: {type: object}
package gatehouse.admission

import future.keywords.not

required_labels := {"app.kubernetes.io/name", "gatehouse.dev/owner", "gatehouse.dev/data-class"}

workload_kinds := {"Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"}

# METADATA
# title: The pod that the object describes
# description: Undefined for objects that run nothing.
pod := input.request.object if input.request.kind.kind == "Pod"

pod := input.request.object.spec.jobTemplate.spec.template if input.request.kind.kind == "CronJob"

pod := input.request.object.spec.template if {
	input.request.kind.kind in {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}
}

containers contains container if {
	some field in ["containers", "initContainers", "ephemeralContainers"]
	some container in pod.spec[field]
}

digest(image) := split(image, "@")[1]

# METADATA
# title: A workload whose pod cannot be found is refused
deny contains reason if {
	input.request.kind.kind in workload_kinds
	not pod.spec.containers
	reason := sprintf("%s %q describes no containers", [input.request.kind.kind, input.request.name])
}

# METADATA
# title: Images are named by digest
deny contains reason if {
	some container in containers
	not digest(container.image)
	reason := sprintf("container %q: image %q has no digest; name it as name@sha256:…", [container.name, container.image])
}

# METADATA
# title: Images come from our release pipeline
deny contains reason if {
	some container in containers
	image := digest(container.image)
	not data.images[image].signed_by == "release"
	reason := sprintf("container %q: image %s is not signed by the release pipeline", [container.name, image])
}

# METADATA
# title: Images are scanned and have no critical findings
deny contains reason if {
	some container in containers
	image := digest(container.image)
	not data.images[image].critical == 0
	reason := sprintf("container %q: image %s has critical findings or was never scanned", [container.name, image])
}

# METADATA
# title: Workloads say what they are, whose they are and what data they touch
deny contains reason if {
	input.request.kind.kind in workload_kinds
	some label in required_labels
	not pod.metadata.labels[label]
	reason := sprintf("label %q is missing on the pod of %s %q", [label, input.request.kind.kind, input.request.name])
}

# METADATA
# title: No privileged containers
deny contains reason if {
	some container in containers
	container.securityContext.privileged == true
	reason := sprintf("container %q asks to be privileged", [container.name])
}

# METADATA
# title: No containers that may gain privileges
deny contains reason if {
	some container in containers
	not container.securityContext.allowPrivilegeEscalation == false
	reason := sprintf("container %q: set securityContext.allowPrivilegeEscalation to false", [container.name])
}

# METADATA
# title: No part in the node's own namespaces
deny contains reason if {
	some field in ["hostNetwork", "hostPID", "hostIPC"]
	pod.spec[field] == true
	reason := sprintf("the pod shares the node's namespace: %s", [field])
}
