"""From the starter policies and the demo's inventory to proved manifests, for every target."""

from pathlib import Path

import pytest

from control_plane.core.errors import InvalidInput
from policies import formula as f
from policies.compilation import compile_project
from policies.inventory_file import parse_inventory
from policies.language.diagnostics import Diagnostics
from policies.project import Project
from policies.proof.verdict import Outcome
from policies.targets.registry import TARGETS

ROOT = Path(__file__).parents[2]
INVENTORY = parse_inventory((ROOT / "deploy" / "demo" / "inventory.yaml").read_text())


def starter() -> dict[str, str]:
    files = sorted((ROOT / "rego").rglob("*.rego"))
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


def small(authz: str, **other: str) -> Project:
    return Project.of(
        {"authz.rego": f"package gatehouse.authz\nimport future.keywords.not\n{authz}", **other}
    )


def verdicts(project: Project, target: str) -> dict[str, Outcome]:
    return {
        verdict.workload: verdict.outcome
        for verdict in compile_project(project, INVENTORY, target).proved.verdicts
    }


@pytest.mark.parametrize("target", TARGETS)
def test_the_starter_policies_compile_and_admit_nothing_more(target: str) -> None:
    compilation = compile_project(Project.of(starter()), INVENTORY, target)
    assert compilation.accepted
    assert not compilation.warnings
    assert compilation.files()["kustomization.yaml"]


@pytest.mark.parametrize("target", ["istio-sidecar", "istio-waypoint", "envoy-rbac"])
def test_what_sees_requests_says_the_starter_policies_exactly(target: str) -> None:
    compilation = compile_project(Project.of(starter()), INVENTORY, target)
    assert compilation.exact
    assert {verdict.workload for verdict in compilation.proved.verdicts} == {
        "shop/frontend",
        "shop/payments",
        "shop/card-db",
    }


def test_ztunnel_cannot_see_requests_and_says_which_it_refuses() -> None:
    compilation = compile_project(Project.of(starter()), INVENTORY, "istio-ztunnel")
    narrowed = {
        verdict.workload: verdict
        for verdict in compilation.proved.verdicts
        if verdict.outcome is Outcome.NARROWER
    }
    assert set(narrowed) == {"shop/frontend", "shop/payments"}
    witness = narrowed["shop/payments"].witness
    assert witness is not None
    assert "authz.rego" in str(narrowed["shop/payments"].origins[0])


def test_a_policy_that_allows_nothing_closes_every_workload() -> None:
    compilation = compile_project(small("default allow := false\nallow if false"), INVENTORY, "istio-sidecar")
    assert compilation.exact
    for workload in ("frontend", "payments", "card-db"):
        allow = next(text for name, text in compilation.files().items() if f"{workload}-allow" in name)
        assert "action: ALLOW" in allow
        assert "rules" not in allow


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("services", ["", "\n  services: [{name: nightly}]"])
def test_a_workload_that_nobody_can_call_is_no_question(target: str, services: str) -> None:
    """A job has no service, so `input.destination.service` is absent there, and never undecided."""
    text = (ROOT / "deploy" / "demo" / "inventory.yaml").read_text()
    job = "\n- name: nightly\n  namespace: jobs\n  service_account: nightly\n  labels: {app: nightly}"
    rule = 'allow if input.destination.service == "payments"\nallow if not input.destination.service == "x"'
    project = small(
        rule, **{"seg.rego": f"package gatehouse.segmentation\nimport future.keywords.not\n{rule}"}
    )
    compilation = compile_project(project, parse_inventory(text + job + services), target)
    outcomes = {one.workload: one.outcome for one in compilation.proved.verdicts}
    assert outcomes["jobs/nightly"] is Outcome.EXACT, compilation.proved.verdicts
    assert not compilation.blocked()[0]


BOTH = {
    "seg.rego": """package gatehouse.segmentation
import future.keywords.not
allow if input.source.labels.env == "prod"
deny if input.source.service_account == "card-db"
"""
}


def test_a_waypoint_answers_both_questions() -> None:
    """The pod behind it sees nobody else, so that no other object could hold segmentation."""
    everybody = "allow if input.connection.mtls"
    both, alone = (
        compile_project(small(everybody, **more), INVENTORY, "istio-waypoint") for more in (BOTH, {})
    )
    everyone = {"frontend", "payments", "card-db"}
    for compiled, allowed, denied in ((both, everyone, {"card-db"}), (alone, set(), set())):
        assert compiled.exact
        named: dict[str, set[str]] = {"allow": set(), "deny": set()}
        for name, text in compiled.files().items():
            if "payments" in name and "targetRefs" in text:
                part = "allow" if "-allow-" in name else "deny"
                named[part] |= {one for one in everyone if f"ns/shop/sa/{one}" in text}
        assert named == {"allow": allowed, "deny": denied}


def test_a_waypoint_holds_segmentation_that_is_asked_alone() -> None:
    project = Project.of(BOTH)
    compiled = compile_project(project, INVENTORY, "istio-waypoint")
    assert compiled.exact
    assert {one.workload for one in compiled.proved.verdicts} == {one.key for one in INVENTORY.workloads}
    assert not compile_project(project, INVENTORY, "istio-sidecar").proved.verdicts


def test_what_a_waypoint_cannot_say_of_segmentation_is_told_with_its_line() -> None:
    segmentation = 'package gatehouse.segmentation\nallow if net.cidr_contains("10.0.0.0/8", input.source.ip)'
    compiled = compile_project(
        small("allow if input.connection.mtls", **{"seg.rego": segmentation}), INVENTORY, "istio-waypoint"
    )
    told = {str(line) for one in compiled.result.shortfalls for line in one.origins}
    assert told == {"authz.rego:3", "seg.rego:2"}
    assert compiled.accepted
    assert not compiled.exact


def test_compiling_twice_gives_the_same_bytes() -> None:
    first, second = (compile_project(Project.of(starter()), INVENTORY, "istio-sidecar") for _ in range(2))
    assert first.files() == second.files()


def test_an_edit_changes_only_the_objects_that_it_touches() -> None:
    before = starter()
    name = "rego/starter/authz/authz.rego"
    after = {**before, name: before[name].replace("5432", "5433")}
    old, new = (compile_project(Project.of(one), INVENTORY, "istio-sidecar") for one in (before, after))
    changed = set(old.files()).symmetric_difference(new.files())
    assert changed
    assert all("card-db-allow" in one for one in changed)


def test_rules_that_contradict_each_other_for_some_request_are_refused() -> None:
    text = 'allow := true if input.request.method == "GET"\nallow := false if input.request.path == "/"'
    with pytest.raises(Diagnostics, match=r"authz\.rego:3"):
        compile_project(small(text), INVENTORY, "istio-sidecar")


def test_a_default_that_allows_is_refused() -> None:
    with pytest.raises(Diagnostics, match=r"the default of data\.gatehouse\.authz\.allow must be false"):
        compile_project(small("default allow := true"), INVENTORY, "istio-sidecar")


def test_iterating_over_the_request_is_refused_with_its_line() -> None:
    with pytest.raises(Diagnostics, match=r"authz\.rego:4"):
        compile_project(
            small('allow if {\n\tsome v in input.request.headers\n\tv == "x"\n}'), INVENTORY, "istio-sidecar"
        )


def test_a_condition_of_no_proxy_never_widens_what_is_allowed() -> None:
    project = small('allow if upper(input.request.path) == "/A"')
    compilation = compile_project(project, INVENTORY, "istio-sidecar")
    assert all(verdict.outcome is not Outcome.WIDER for verdict in compilation.proved.verdicts)
    assert not compilation.exact
    assert any(
        "upper" in str(shortfall) or "unknown value" in str(shortfall)
        for shortfall in compilation.proved.emission.shortfalls
    )


def test_data_of_the_project_and_of_the_inventory_are_both_seen() -> None:
    rule = "allow if input.source.spiffe_id == data.inventory.workloads[data.shop.caller].spiffe_id"
    project = small(rule, **{"shop/data.json": '{"caller": "shop/frontend"}'})
    assert set(verdicts(project, "istio-sidecar").values()) == {Outcome.EXACT}
    files = compile_project(project, INVENTORY, "istio-sidecar").files()
    assert sum("gatehouse.test/ns/shop/sa/frontend" in text for text in files.values()) == 3


def test_two_data_files_that_say_different_things_are_refused() -> None:
    with pytest.raises(InvalidInput, match="stands in another data file too"):
        small("allow if false", **{"data.json": '{"a": 1}', "data.yaml": "a: 2"})


def test_tests_do_not_change_the_digest_and_everything_else_does() -> None:
    base = small("allow if false")
    assert small("allow if false", **{"x_test.rego": "package x_test\ntest_a if true"}).digest == base.digest
    assert small("allow if false", **{"data.json": "{}"}).digest != base.digest
    assert small("allow if  false").digest != base.digest


def test_an_unknown_target_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidInput, match="known: istio-sidecar"):
        compile_project(small("allow if false"), INVENTORY, "istio")


def test_an_inventory_without_workloads_is_refused() -> None:
    """Its manifests would be none, which leave open whatever there is."""
    nobody = parse_inventory("mesh: {trust_domain: gatehouse.test}")
    with pytest.raises(InvalidInput, match="no workload to guard"):
        compile_project(Project.of(starter()), nobody, "istio-sidecar")


def test_a_project_without_rego_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"no \.rego file"):
        Project.of({"data.json": "{}"})


@pytest.mark.parametrize(
    "policy",
    [
        "package gatehouse.auhtz\nallow if input.connection.mtls",
        "package gatehouse.lib.mine\nsame(x) := x",
        'package gatehouse.invariants\nnever contains "x" if not input.connection.mtls',
    ],
    ids=["misspelt package", "library", "invariants alone"],
)
def test_a_policy_that_decides_nothing_is_refused(policy: str) -> None:
    """Its manifests would be none, and a GitOps folder without manifests lets everybody in."""
    with pytest.raises(InvalidInput, match="it decides nothing"):
        compile_project(Project.of({"a.rego": policy}), INVENTORY, "istio-sidecar")


def test_a_deny_without_an_allow_is_refused() -> None:
    with pytest.raises(Diagnostics, match="deny and no allow"):
        compile_project(small('deny if input.request.method == "TRACE"'), INVENTORY, "istio-sidecar")


SHARED = """
mesh: {trust_domain: gatehouse.test}
workloads:
- name: app
  namespace: shop
  labels: {app: app}
  services:
  - {name: admin, ports: [{port: 81, target_port: 8080, protocol: http}]}
  - {name: public, ports: [{port: 80, target_port: 8080, protocol: http}, {port: 90, protocol: http}]}
- {name: ops, namespace: shop, service_account: ops, labels: {app: ops}}
"""


@pytest.mark.parametrize("target", ["istio-sidecar", "istio-waypoint", "envoy-rbac"])
def test_a_port_of_several_services_admits_what_all_of_them_allow(target: str) -> None:
    """Nobody who guards the port can tell by which service a request comes."""
    rules = """
allow if {
	input.destination.service == "public"
	input.request.method == "GET"
}
allow if {
	input.destination.service == "admin"
	input.source.service_account == "ops"
}
allow if input.request.path == "/health"
"""
    compiled = compile_project(small(rules), parse_inventory(SHARED), target)
    assert compiled.exact
    asked = compiled.policies.find("shop/app")
    assert asked is not None
    assert asked.authz is not None
    formula = asked.authz.formula

    def allowed(port: int, method: str, caller: str, path: str = "/") -> bool:
        values: dict[f.Attribute, f.Value] = {f.PORT: port, f.METHOD: method, f.PATH: path}
        if caller == "ops":
            values[f.SERVICE_ACCOUNT] = caller
        return f.evaluate(formula, f.Request.of(values))

    assert [allowed(8080, method, who) for method in ("GET", "POST") for who in ("ops", "web")] == [
        True, False, False, False
    ]  # fmt: skip
    assert allowed(90, "GET", "web") and not allowed(90, "POST", "ops")
    assert allowed(8080, "POST", "web", "/health") and allowed(90, "POST", "web", "/health")


def test_what_one_of_the_services_of_a_port_denies_is_denied() -> None:
    rules = 'allow if input.request.method == "GET"\ndeny if input.destination.service == "admin"'
    compiled = compile_project(small(rules), parse_inventory(SHARED), "istio-sidecar")
    assert compiled.exact
    (allow,) = [text for name, text in compiled.files().items() if "app-deny" in name]
    assert "8080" in allow and '"90"' not in allow
