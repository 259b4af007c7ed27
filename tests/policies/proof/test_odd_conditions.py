"""Conditions of every kind on every attribute: exact, narrower or refused; never wider, never a crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import formula as f
from policies.formula import Attribute, Decision, Disjunct, PolicySet, Question, WorkloadPolicy
from policies.pipeline import compile_policies
from policies.proof.verdict import Outcome
from policies.targets.emission import Options

PLACES = [
    f.SOURCE_ID, f.TRUST_DOMAIN, f.NAMESPACE, f.SERVICE_ACCOUNT, f.label("tier"), f.SOURCE_IP, f.PORT,
    f.METHOD,
    f.PATH, f.HOST, f.SNI, f.MTLS, f.header("x-a"), f.claim("role"), f.claim("groups"), f.claim("scope"),
    f.claim("realm", "roles"), f.claim("aud"), f.DESTINATION_IP, Attribute("destination.namespace"),
    Attribute("destination.labels", ("app",)), Attribute("destination.service"),
]  # fmt: skip
TEXTS = [
    "",
    "a",
    "A",
    "/a",
    "a*",
    "*",
    "spiffe://example.org/ns/shop/sa/web",
    "front",
    "shop",
    "10.0.0.1",
    "a b?",
    "{*}",
]


@st.composite
def conditions(draw: st.DrawFn) -> f.Formula:
    place, text = draw(st.sampled_from(PLACES)), draw(st.sampled_from(TEXTS))
    build = draw(st.sampled_from([
        lambda: f.present(place), lambda: f.equals(place, text), lambda: f.differs(place, text),
        lambda: f.one_of(place, TEXTS[:5]), lambda: f.starts_with(place, text),
        lambda: f.ends_with(place, text),
        lambda: f.contains(place, text), lambda: f.equals(place, 8080), lambda: f.equals(place, True),
        lambda: f.matches_glob(place, draw(st.sampled_from(["/a/*", "*a*", "{a,b/?}", "[!a]*"])), ("/",)),
        lambda: f.matches(place, draw(st.sampled_from(["^a+$", "b|c", "(?i)x", "^/[a-z]+/"]))),
        lambda: f.in_network(place, draw(st.sampled_from(["10.0.0.0/8", "::/0"]))),
        lambda: f.between(place, 1, 8080),
        lambda: f.has_member(place, [text]), lambda: f.opaque("d", "p.rego:1:1", "why", [place]),
    ]))  # fmt: skip
    found = build()
    return f.negate(found) if draw(st.booleans()) else found


def compiled(target, name, question, inventory, provider=""):
    key = f"shop/{name}"
    policy = (
        WorkloadPolicy(key, None, question) if target == "network-policy" else WorkloadPolicy(key, question)
    )
    return compile_policies(PolicySet.of("x", policy), inventory, target, Options(custom_provider=provider))


@pytest.mark.parametrize(("target", "name"), [
    ("istio-sidecar", "side"), ("istio-waypoint", "way"), ("istio-ztunnel", "ambient"),
    ("envoy-rbac", "bare"),
    ("network-policy", "side"),
])  # fmt: skip
@given(data=st.data())
def test_never_wider_and_never_a_crash(target, name, data, inventory) -> None:
    caller = f.equals(f.SOURCE_ID, "spiffe://example.org/ns/shop/sa/web")
    allow = Decision.of(Disjunct(data.draw(conditions()) & data.draw(conditions())), Disjunct(caller))
    question = Question(allow, Decision.of(Disjunct(data.draw(conditions()))))
    found = compiled(target, name, question, inventory, data.draw(st.sampled_from(["", "agent"])))
    assert all(one.outcome is not Outcome.WIDER for one in found.verdicts), [
        str(one) for one in found.verdicts
    ]
    assert found.verdicts or found.emission.refused


UNSAID = f.opaque("d", "p.rego:1:1", "why", [f.PATH])
ANYONE, WEB = f.present(f.SOURCE_ID), "spiffe://example.org/ns/shop/sa/web"
FOUND_ONCE = {
    "nobody is refused for a server name that they did not send":
        ("envoy-rbac", "bare", ANYONE, f.negate(f.present(f.SNI)), Outcome.EXACT),
    "a server name is never empty, so that everybody is refused":
        ("envoy-rbac", "bare", ANYONE, f.negate(f.equals(f.SNI, "")), Outcome.EXACT),
    "Envoy's empty server name is not one that a regular expression may match":
        ("envoy-rbac", "bare", f.matches(f.SNI, "^a*$"), f.FALSE, Outcome.EXACT),
    "a suffix that reaches into the scheme, at a sidecar":
        ("istio-sidecar", "side", ANYONE, f.ends_with(f.SOURCE_ID, WEB), Outcome.EXACT),
    "a suffix that reaches into the scheme, at a ztunnel":
        ("istio-ztunnel", "ambient", ANYONE, f.ends_with(f.SOURCE_ID, "/" + WEB), Outcome.EXACT),
    "a suffix that may be a whole name":
        ("istio-sidecar", "side", ANYONE, f.ends_with(f.SOURCE_ID, "/ns/shop/sa/web"), Outcome.EXACT),
    "an empty claim, which no value of Istio's stands for":
        ("istio-sidecar", "side", ANYONE, f.ends_with(f.claim("role"), ""), Outcome.NARROWER),
    "an empty prefix, which Envoy refuses":
        ("envoy-rbac", "bare", f.starts_with(f.claim("role"), ""), f.FALSE, Outcome.EXACT),
    "a star at the end of a claim's suffix":
        ("istio-waypoint", "way", ANYONE, f.ends_with(f.claim("role"), "a*"), Outcome.NARROWER),
    "what can't be said beside an attribute that is absent":
        ("envoy-rbac", "bare", f.negate(UNSAID) & f.negate(f.present(f.METHOD)), f.FALSE, Outcome.NARROWER),
    "what can't be said, refused beside an attribute that is absent":
        ("envoy-rbac", "bare", ANYONE, UNSAID & f.negate(f.present(f.METHOD)), Outcome.NARROWER),
    "what can't be said or an attribute that is there, refused":
        ("envoy-rbac", "bare", ANYONE, f.any_of(UNSAID, f.present(f.METHOD)), Outcome.NARROWER),
    "a connection without an address":
        ("network-policy", "side", f.negate(f.present(f.SOURCE_IP)), f.FALSE, Outcome.NARROWER),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND_ONCE)
def test_what_was_found_once(name, inventory) -> None:
    target, workload, allow, deny, outcome = FOUND_ONCE[name]
    question = Question(Decision.of(Disjunct(allow)), Decision.of(Disjunct(deny)))
    verdict = compiled(target, workload, question, inventory).verdicts[0]
    assert verdict.outcome is outcome, str(verdict)
