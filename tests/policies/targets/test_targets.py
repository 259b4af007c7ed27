"""Emission: golden files, the ladder, limits, names that follow content, selectors, compactness."""

import dataclasses
import os
from pathlib import Path

import pytest

from policies import formula as f
from policies.documents import read_documents
from policies.formula import Decision, Disjunct, Origin, PolicySet, Question, WorkloadPolicy
from policies.inventory_file import inventory_from_document
from policies.pipeline import compile_policies
from policies.proof.verdict import Outcome
from policies.targets.emission import Options
from policies.targets.manifest import files, source_map
from policies.targets.registry import EMITTERS, TARGETS
from policies.targets.shortfall import Step

GOLDEN = Path(__file__).parent / "golden"
HTTP = {"name": "http", "port": 80, "target_port": 8080, "protocol": "http"}
TCP = {"name": "db", "port": 5432, "protocol": "tcp"}


def workload(name: str, mode: str, **more: object) -> dict[str, object]:
    services = [{"name": name, "ports": [HTTP, TCP]}]
    return {"name": name, "namespace": "shop", "service_account": name, "labels": {"app": name}, "mode": mode,
            "services": services} | more  # fmt: skip


INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "issuers": [{"name": "staff", "issuer": "https://login", "jwks_uri": "https://login/keys",
                 "claims": {"role": "string"}}],
    "workloads": [
        workload("web", "none"), workload("batch", "none"), workload("side", "sidecar"),
        workload("way", "waypoint", waypoint={"name": "gate"}), workload("flow", "ambient"),
        workload("bare", "envoy"),
    ],
})  # fmt: skip
MODES = {"istio-sidecar": "side", "istio-waypoint": "way", "istio-ztunnel": "flow", "envoy-rbac": "bare",
         "network-policy": "side"}  # fmt: skip
WEB, BATCH = (f.equals(f.SOURCE_ID, f"spiffe://example.org/ns/shop/sa/{name}") for name in ("web", "batch"))
UNSAID = f.opaque("d1", "p.rego:7:5", "time.now_ns isn't known when policies are compiled", [f.PATH])


def question(allow: dict[int, f.Formula], deny: dict[int, f.Formula] | None = None) -> Question:
    def rules(found: dict[int, f.Formula]) -> Decision:
        return Decision.of(*(Disjunct(one, (Origin("p.rego", line),)) for line, one in found.items()))

    return Question(rules(allow), rules(deny or {}))


FULL = question(
    {
        3: WEB & f.one_of(f.METHOD, ["GET", "HEAD"]) & f.starts_with(f.PATH, "/api/"),
        5: f.one_of(f.NAMESPACE, ["shop"])
        & f.differs(f.header("X-Env"), "test")
        & f.equals(f.PATH, "/health"),
        7: BATCH & f.equals(f.PORT, 5432) & f.in_network(f.SOURCE_IP, "10.0.0.0/8"),
        9: f.equals(f.claim("role"), "admin") & f.matches_glob(f.PATH, "/admin/*", ("/",)),
    },
    {11: f.ends_with(f.PATH, ".php") & f.negate(f.equals(f.HOST, "old.test"))},
)
SEGMENTS = question(
    {3: WEB & f.equals(f.PORT, 8080), 5: f.in_network(f.SOURCE_IP, "192.168.0.0/16")}, {7: BATCH}
)


def compiled(asked: Question, target: str = "istio-sidecar", **options: object):
    key = f"shop/{MODES[target]}"
    segmentation = EMITTERS[target].segmentation
    policy = WorkloadPolicy(key, None, asked) if segmentation else WorkloadPolicy(key, asked)
    return compile_policies(PolicySet.of("sha256:0", policy), INVENTORY, target, Options(**options))


@pytest.mark.parametrize("target", TARGETS)
def test_golden(target) -> None:
    """Set GATEHOUSE_GOLDEN=write to accept what is emitted now; the difference is for review."""
    result = compiled(SEGMENTS if target == "network-policy" else FULL, target)
    assert result.accepted, [str(one) for one in result.verdicts]
    text = "---\n".join(f"# {name}\n{content}" for name, content in files(result.emission.manifests).items())
    text += "".join(f"# {one}\n" for one in result.emission.shortfalls)
    path = GOLDEN / f"{target}.yaml"
    if os.environ.get("GATEHOUSE_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text


def test_a_pod_behind_a_waypoint_has_no_network_policy() -> None:
    """It sees the waypoint for its caller: a policy for its callers would cut it off."""
    asked = PolicySet.of("sha256:0", WorkloadPolicy("shop/way", None, SEGMENTS))
    result = compile_policies(asked, INVENTORY, "network-policy", Options())
    assert not result.accepted
    assert not result.emission.manifests
    (shortfall,) = result.emission.shortfalls
    assert "sees the waypoint" in shortfall.reason


@pytest.mark.parametrize("target", ["istio-sidecar", "istio-waypoint", "istio-ztunnel"])
@pytest.mark.parametrize("named", [("example.org", "old.org"), ("example.org",)], ids=["all", "one"])
def test_callers_under_every_trust_domain_of_the_mesh_are_said_exactly(
    target: str, named: tuple[str, ...]
) -> None:
    """Istio takes one principal for all of them: whom the policy names under one only can't be let in."""
    mesh = dataclasses.replace(INVENTORY.mesh, trust_domain_aliases=("old.org",))
    ids = [f"spiffe://{domain}/ns/shop/sa/web" for domain in named]
    asked = question({3: f.one_of(f.SOURCE_ID, ids)})
    policies = PolicySet.of("sha256:0", WorkloadPolicy(f"shop/{MODES[target]}", asked))
    result = compile_policies(policies, dataclasses.replace(INVENTORY, mesh=mesh), target, Options())
    outcomes = {one.layer: one.outcome for one in result.verdicts}
    exact = len(named) == 2
    assert result.accepted
    assert (Outcome.NARROWER in outcomes.values()) != exact
    assert outcomes.get("istio-ztunnel", Outcome.EXACT) is Outcome.EXACT or target == "istio-ztunnel"
    assert any("under each trust domain" in one.reason for one in result.emission.shortfalls) != exact


def test_emission_does_not_depend_on_the_order_of_rules() -> None:
    allow = list(FULL.allow.disjuncts)
    turned = Question(Decision(tuple(reversed(allow))), FULL.deny)
    assert files(compiled(turned).emission.manifests) == files(compiled(FULL).emission.manifests)


def test_every_rule_names_its_rego_lines() -> None:
    result = compiled(FULL)
    (allow,) = (one for one in result.emission.manifests if "-allow-" in one.name)
    lines = source_map(result.emission.manifests)[f"shop/{allow.name}"]
    rules = next(iter(read_documents(allow.text(), "x")))["spec"]["rules"]
    assert len(lines) == len(rules)
    by_line = {line: rule for rule, (line,) in zip(rules, lines, strict=True)}
    assert by_line["p.rego:3"]["to"][0]["operation"]["methods"] == ["GET", "HEAD"]
    assert set(by_line) == {"p.rego:3", "p.rego:5", "p.rego:7", "p.rego:9"}


def test_names_follow_content_and_nothing_else() -> None:
    names = {one.name for one in compiled(FULL).emission.manifests}
    other = PolicySet.of("sha256:1", WorkloadPolicy("shop/side", FULL))
    again = compile_policies(other, INVENTORY, "istio-sidecar", Options())
    assert {one.name for one in again.emission.manifests} == names
    without = compiled(Question(FULL.allow))
    assert {one.name for one in without.emission.manifests} == {
        name for name in names if "-deny-" not in name
    }


def test_an_opaque_condition_narrows_unless_the_agent_decides() -> None:
    asked = question({3: WEB & f.starts_with(f.PATH, "/a/") & UNSAID, 4: BATCH})
    narrowed = compiled(asked)
    assert [one.step for one in narrowed.emission.shortfalls] == [Step.NARROWED]
    assert narrowed.verdicts[0].outcome is Outcome.NARROWER
    assert [str(one) for one in narrowed.verdicts[0].origins] == ["p.rego:3"]

    decided = compiled(asked, custom_provider="gatehouse-agent")
    assert [one.step for one in decided.emission.shortfalls] == [Step.CUSTOM]
    assert decided.verdicts[0].outcome is Outcome.EXACT
    (custom,) = (one for one in decided.emission.manifests if "-custom-" in one.name)
    (rule,) = custom.document["spec"]["rules"]
    assert rule == {"to": [{"operation": {"ports": ["8080"], "paths": ["/a/*"]}}]}, (
        "CUSTOM can't name callers"
    )

    refused = compiled(asked, exact_only=True)
    assert refused.emission.refused and not refused.emission.manifests and not refused.accepted
    assert "p.rego:7:5" in str(refused.emission.refused[0]) and "p.rego:3" in str(refused.emission.refused[0])


def test_an_opaque_deny_is_widened_or_decided() -> None:
    asked = question({3: WEB}, {9: f.starts_with(f.PATH, "/x/") & UNSAID})
    assert compiled(asked).verdicts[0].outcome is Outcome.NARROWER
    assert compiled(asked, custom_provider="gatehouse-agent").verdicts[0].outcome is Outcome.EXACT


def test_with_tokens_the_agent_is_not_asked() -> None:
    """ext_authz runs before tokens are checked: it can't see claims."""
    asked = question({3: WEB & UNSAID, 4: f.equals(f.claim("role"), "admin")})
    result = compiled(asked, custom_provider="gatehouse-agent")
    assert [one.step for one in result.emission.shortfalls] == [Step.NARROWED]


def test_a_claim_of_unknown_shape_is_not_let_in() -> None:
    """Istio matches a text and a list of it alike; without the issuer's promise that would be wider."""
    result = compiled(question({3: WEB & f.equals(f.claim("team"), "a")}))
    assert "can't tell a text from a list" in str(result.emission.shortfalls[0])
    assert result.verdicts[0].outcome is Outcome.NARROWER


def test_labels_that_workloads_of_one_identity_disagree_on_are_refused_by_name() -> None:
    twins = [workload("side", "sidecar")]
    twins += [workload(name, "none", service_account="twin", labels={"app": name}) for name in ("one", "two")]
    inventory = inventory_from_document({"mesh": {"trust_domain": "example.org"}, "workloads": twins})
    policies = PolicySet.of("x", WorkloadPolicy("shop/side", question({3: f.equals(f.label("app"), "one")})))
    result = compile_policies(policies, inventory, "istio-sidecar", Options())
    (refusal,) = result.emission.refused
    assert "shop/one and shop/two disagree" in refusal.reason and "p.rego:3" in refusal.reason


def test_a_selector_that_takes_a_second_workload_is_refused() -> None:
    both = [workload("side", "sidecar"), workload("copy", "sidecar", labels={"app": "side", "more": "x"})]
    inventory = inventory_from_document({"mesh": {"trust_domain": "example.org"}, "workloads": both})
    policies = PolicySet.of("x", WorkloadPolicy("shop/side", question({3: WEB})))
    result = compile_policies(policies, inventory, "istio-sidecar", Options())
    assert "shop/copy" in result.emission.refused[0].reason


def test_rules_beyond_the_limit_are_split_over_policies() -> None:
    asked = question({line: f.equals(f.header(f"x-{line}"), "1") & WEB for line in range(1, 1101)})
    result = compiled(asked)
    allow = [one for one in result.emission.manifests if "-allow-" in one.name]
    sizes = [len(one.document["spec"]["rules"]) for one in allow]
    assert sizes == [512, 512, 76] or (sum(sizes) == 1100 and max(sizes) <= 512)
    assert [len(one.origins) for one in allow] == sizes
    assert result.verdicts[0].outcome is Outcome.EXACT


def test_objects_stay_below_what_kubernetes_stores() -> None:
    callers = [f"spiffe://example.org/ns/{'n' * 200}/sa/{number}-{'s' * 200}" for number in range(6000)]
    result = compiled(question({1: f.one_of(f.SOURCE_ID, callers)}))
    assert all(len(one.text()) < 1_200_000 for one in result.emission.manifests)
    assert len([one for one in result.emission.manifests if "-allow-" in one.name]) > 1
    assert result.verdicts[0].outcome is Outcome.EXACT


def test_rules_that_share_everything_but_callers_are_one() -> None:
    shared = f.starts_with(f.PATH, "/api/") & f.equals(f.METHOD, "GET")
    callers = [
        f.equals(f.SOURCE_ID, f"spiffe://example.org/ns/shop/sa/caller-{number}") for number in range(20)
    ]
    result = compiled(question({number: one & shared for number, one in enumerate(callers)}))
    (allow,) = (one for one in result.emission.manifests if "-allow-" in one.name)
    (rule,) = allow.document["spec"]["rules"]
    assert len(rule["from"][0]["source"]["principals"]) == 20
    assert len(allow.origins[0]) == 20


@pytest.mark.parametrize(("formula", "absent"), [
    (f.equals(f.HOST, "Admin.Test"), "dmin"),
    (f.equals(f.PATH, "/a?x=1"), "/a?"),
    (f.equals(f.PATH, "relative"), "relative"),
    (f.equals(f.SOURCE_ID, "not-a-spiffe-id"), "not-a-spiffe"),
])  # fmt: skip
def test_constants_that_can_never_hold_are_left_out_exactly(formula, absent) -> None:
    result = compiled(question({3: WEB & formula, 4: BATCH}))
    assert absent not in "".join(one.text() for one in result.emission.manifests)
    assert result.verdicts[0].outcome is Outcome.EXACT and not result.emission.shortfalls


@pytest.mark.parametrize("text", ["*", "a*", "*a", "", "{x}", "a{*}"])
def test_texts_that_istio_reads_as_patterns_are_not_said(text) -> None:
    for place in (f.header("x-a"), f.METHOD, f.PATH):
        asked = question({3: WEB & f.equals(place, f"/{text}" if place == f.PATH and text else text)})
        result = compiled(asked)
        assert result.accepted
        assert result.emission.shortfalls or result.verdicts[0].outcome is Outcome.EXACT


@pytest.mark.parametrize("formula", [
    f.between(f.claim("level"), 1, 5),
    f.in_network(f.header("x-real-ip"), "10.0.0.0/8"), f.ends_with(f.SOURCE_IP, ".7"),
])  # fmt: skip
def test_comparisons_that_no_proxy_has_are_refused_with_their_line(formula) -> None:
    for target in ("istio-sidecar", "envoy-rbac"):
        (refusal,) = compiled(question({3: WEB & formula}), target).emission.refused
        assert "p.rego:3" in refusal.reason


def test_a_regular_expression_beyond_the_model_is_opaque() -> None:
    asked = question({3: WEB & f.matches(f.PATH, "(?i)admin", "p.rego:3:9"), 4: BATCH})
    result = compiled(asked)
    assert result.verdicts[0].outcome is Outcome.NARROWER
    assert "p.rego:3:9" in str(result.emission.shortfalls[0])
