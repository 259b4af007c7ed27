"""Random questions, emitted for every target, read back from text: what the models say of random requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import formula as f
from policies.formula import PolicySet, WorkloadPolicy
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.guards import Guards
from policies.proof.manifests import read_manifests
from policies.proof.network_policy import prove_segmentation
from policies.proof.question import QuestionMeaning
from policies.proof.space import Witness
from policies.proof.verdict import SEVERAL_LINES, Outcome, concrete, prove_workload
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import TARGETS

PLACES = {"istio-sidecar": "shop/side", "istio-waypoint": "shop/way", "istio-ztunnel": "shop/ambient",
          "envoy-rbac": "shop/bare"}  # fmt: skip


@pytest.mark.parametrize("target", PLACES)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_what_is_emitted_is_never_wider_and_the_verdict_is_true(
    target, data, questions, points, inventory
) -> None:
    question = data.draw(questions)
    provider = data.draw(st.sampled_from(["", "agent"]))
    workload = inventory.by_key[PLACES[target]]
    policies = PolicySet.of("sha256:0", WorkloadPolicy(workload.key, question))
    emission = TARGETS[target](policies, inventory, Options(custom_provider=provider))
    assert not emission.refused, emission.refused
    rendered = files(emission.manifests)
    manifests = read_manifests(rendered)
    verdicts = prove_workload(question, workload, inventory, manifests)
    assert all(one.accepted for one in verdicts), [str(one) for one in verdicts]
    if not emission.shortfalls:
        exact = [one.outcome is Outcome.EXACT for one in verdicts]
        assert all(exact), (question.formula, [str(one) for one in verdicts])

    space = sp.Space()
    shapes = {("role",): "string", ("groups",): "list", ("iss",): "string", ("sub",): "string"}
    dimensions = Dimensions.of(strict=True, claim_shapes=shapes)
    meaning = QuestionMeaning(space, dimensions, inventory, workload).of(question.formula)
    guards = Guards(space, dimensions, inventory, manifests, meaning)
    guard = {
        "istio-sidecar": lambda: guards.sidecar(workload),
        "istio-waypoint": lambda: guards.waypoint(workload, workload.services[0]),
        "istio-ztunnel": lambda: guards.ztunnel(workload),
        "envoy-rbac": lambda: guards.envoy(workload),
    }[target]()
    for point in data.draw(st.lists(points, min_size=5, max_size=12)):
        request, _ = concrete(Witness(0, tuple(point.items())), workload, inventory)
        listed = request.get(f.PORT) in workload.ports
        expected = listed and f.evaluate(question.formula, request)
        assert space.holds(meaning, point) == expected, request
        admitted = space.holds(guard, point)
        assert not admitted or expected, request
        if verdicts[0].outcome is Outcome.EXACT:
            assert admitted == expected, request


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_network_policies_are_never_wider(data, questions, inventory) -> None:
    question = data.draw(questions)
    workload = inventory.by_key["shop/side"]
    policies = PolicySet.of("sha256:0", WorkloadPolicy(workload.key, None, question))
    emission = TARGETS["network-policy"](policies, inventory, Options())
    verdict = prove_segmentation(question, workload, inventory, read_manifests(files(emission.manifests)))
    assert verdict.outcome is not Outcome.WIDER, str(verdict)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_exact_only_refuses_or_is_exact(data, questions, inventory) -> None:
    question = data.draw(questions)
    workload = inventory.by_key["shop/side"]
    policies = PolicySet.of("sha256:0", WorkloadPolicy(workload.key, question))
    emission = TARGETS["istio-sidecar"](policies, inventory, Options(exact_only=True))
    if emission.refused:
        assert not emission.manifests
        return
    verdicts = prove_workload(question, workload, inventory, read_manifests(files(emission.manifests)))
    assert [one.outcome for one in verdicts] == [Outcome.EXACT]


@pytest.mark.parametrize("glob", ["/a?/*", "/?/**", "/x.v?.Y/*", "/[ab]/*", "/a/?{*}", "/{a?,b}/*/c"])
def test_a_glob_that_no_template_can_say_is_narrowed(glob: str, inventory) -> None:
    workload = inventory.by_key["shop/side"]
    question = f.Question(f.Decision((f.Disjunct(f.matches_glob(f.PATH, glob, ("/",))),)))
    policies = PolicySet.of("sha256:0", WorkloadPolicy(workload.key, question))
    emission = TARGETS["istio-sidecar"](policies, inventory, Options())
    (verdict,) = prove_workload(question, workload, inventory, read_manifests(files(emission.manifests)))
    assert emission.shortfalls
    assert verdict.outcome is Outcome.NARROWER, str(verdict)


@pytest.mark.parametrize(("target", "assumed"), [("istio-sidecar", True), ("envoy-rbac", False)])
def test_headers_of_a_mesh_are_assumed_to_be_joined(target: str, assumed: bool, inventory) -> None:
    """Envoy 1.40 matches line by line unless its runtime says otherwise; only our own bootstrap says so."""
    workload = inventory.by_key[PLACES[target]]
    for attribute in (f.header("x-team"), f.METHOD):
        question = f.Question(f.Decision((f.Disjunct(f.equals(attribute, "GET")),)))
        policies = PolicySet.of("sha256:0", WorkloadPolicy(workload.key, question))
        emission = TARGETS[target](policies, inventory, Options())
        (verdict,) = prove_workload(question, workload, inventory, read_manifests(files(emission.manifests)))
        assert (SEVERAL_LINES in verdict.assumptions) == (assumed and attribute != f.METHOD)
