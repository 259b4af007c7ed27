"""Conditions of every kind on every attribute: exact, narrower or refused; never wider, never a crash."""

import pytest
from hypothesis import given, settings
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


@pytest.mark.parametrize(("target", "name"), [
    ("istio-sidecar", "side"), ("istio-waypoint", "way"), ("istio-ztunnel", "ambient"),
    ("envoy-rbac", "bare"),
    ("network-policy", "side"),
])  # fmt: skip
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_never_wider_and_never_a_crash(target, name, data, inventory) -> None:
    caller = f.equals(f.SOURCE_ID, "spiffe://example.org/ns/shop/sa/web")
    allow = Decision.of(Disjunct(data.draw(conditions()) & data.draw(conditions())), Disjunct(caller))
    question = Question(allow, Decision.of(Disjunct(data.draw(conditions()))))
    key = f"shop/{name}"
    policy = (
        WorkloadPolicy(key, None, question) if target == "network-policy" else WorkloadPolicy(key, question)
    )
    provider = data.draw(st.sampled_from(["", "agent"]))
    options = Options(custom_provider=provider)
    compiled = compile_policies(PolicySet.of("x", policy), inventory, target, options)
    assert all(one.outcome is not Outcome.WIDER for one in compiled.verdicts), [
        str(one) for one in compiled.verdicts
    ]
    assert compiled.verdicts or compiled.emission.refused
