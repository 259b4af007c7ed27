package gatehouse.admission_test

import data.gatehouse.admission

signed := "sha256:1111111111111111111111111111111111111111111111111111111111111111"

unscanned := "sha256:2222222222222222222222222222222222222222222222222222222222222222"

images := {
	signed: {"signed_by": "release", "critical": 0},
	unscanned: {"signed_by": "release"},
}

labels := {
	"app.kubernetes.io/name": "payments",
	"gatehouse.dev/owner": "shop",
	"gatehouse.dev/data-class": "pci",
}

container := {
	"name": "main",
	"image": sprintf("registry.example/payments@%s", [signed]),
	"securityContext": {"allowPrivilegeEscalation": false},
}

review(kind, object) := {"request": {"kind": {"kind": kind}, "name": "payments", "object": object}}

good_pod := {"metadata": {"labels": labels}, "spec": {"containers": [container]}}

reasons(pod) := found if {
	found := admission.deny with input as review("Pod", pod) with data.images as images
}

test_a_good_pod_is_admitted if {
	count(reasons(good_pod)) == 0
}

test_a_good_deployment_is_admitted if {
	workload := {"spec": {"template": good_pod}}
	result := admission.deny with input as review("Deployment", workload) with data.images as images
	count(result) == 0
}

test_a_cron_job_is_looked_into if {
	workload := {"spec": {"jobTemplate": {"spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": [object.union(container, {"image": "busybox"})]}}}}}}
	result := admission.deny with input as review("CronJob", workload) with data.images as images
	count(result) == 1
}

test_a_workload_without_containers_is_refused if {
	"Pod \"payments\" describes no containers" in reasons({"metadata": {"labels": labels}, "spec": {}})
}

test_an_image_without_a_digest_is_refused if {
	pod := json.patch(good_pod, [{"op": "replace", "path": "/spec/containers/0/image", "value": "registry.example/payments:latest"}])
	some reason in reasons(pod)
	contains(reason, "has no digest")
}

test_an_unsigned_image_is_refused if {
	unknown := "registry.example/payments@sha256:3333"
	pod := json.patch(good_pod, [{"op": "replace", "path": "/spec/containers/0/image", "value": unknown}])
	some reason in reasons(pod)
	contains(reason, "not signed by the release pipeline")
}

test_an_unscanned_image_is_refused if {
	pod := json.patch(good_pod, [{"op": "replace", "path": "/spec/containers/0/image", "value": sprintf("r@%s", [unscanned])}])
	some reason in reasons(pod)
	contains(reason, "never scanned")
}

test_each_required_label_is_asked_for if {
	pod := object.remove(good_pod, ["metadata"])
	count(reasons(pod)) == count(admission.required_labels)
}

test_privileged_is_refused_in_init_containers if {
	bad := object.union(container, {"name": "init", "securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})
	pod := json.patch(good_pod, [{"op": "add", "path": "/spec/initContainers", "value": [bad]}])
	reasons(pod) == {"container \"init\" asks to be privileged"}
}

test_privilege_escalation_must_be_switched_off if {
	pod := json.patch(good_pod, [{"op": "remove", "path": "/spec/containers/0/securityContext"}])
	some reason in reasons(pod)
	contains(reason, "allowPrivilegeEscalation")
}

test_host_namespaces_are_refused if {
	some field in ["hostNetwork", "hostPID", "hostIPC"]
	pod := json.patch(good_pod, [{"op": "add", "path": sprintf("/spec/%s", [field]), "value": true}])
	reasons(pod) == {sprintf("the pod shares the node's namespace: %s", [field])}
}

test_a_config_map_runs_nothing if {
	result := admission.deny with input as review("ConfigMap", {"data": {}}) with data.images as images
	count(result) == 0
}
