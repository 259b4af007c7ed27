"""Plans as values, and the difference of two versions with requests that show it."""

import pytest

from control_plane.core.errors import InvalidInput
from policies import formula as f
from policies.diff import Direction, compare_policies, markdown
from policies.formula import Decision, Disjunct, Origin, PolicySet, Question, WorkloadPolicy
from policies.inventory_file import inventory_from_document
from policies.pipeline import compile_policies
from policies.plan import Verb, make_plan
from policies.targets.emission import Options

WEB, API = "spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/shop/sa/api"
INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "workloads": [
        {"name": name, "namespace": "shop", "service_account": name, "labels": {"app": name},
         "services": [{"name": name, "ports": [{"port": 80, "target_port": 8080, "protocol": "http"}]}]}
        for name in ("web", "api", "pay")
    ],
})  # fmt: skip


def version(number: int, allow: dict[int, f.Formula], deny: dict[int, f.Formula] | None = None) -> PolicySet:
    def rules(found: dict[int, f.Formula]) -> Decision:
        return Decision.of(*(Disjunct(one, (Origin("p.rego", line),)) for line, one in found.items()))

    asked = Question(rules(allow), rules(deny or {}))
    return PolicySet.of(
        f"sha256:{number}", WorkloadPolicy("shop/pay", asked), WorkloadPolicy("shop/web", Question())
    )


CALLER = f.equals(f.SOURCE_ID, WEB)
OLD = version(1, {3: CALLER & f.starts_with(f.PATH, "/pay/")})


def objects(policies: PolicySet) -> list[dict[str, object]]:
    compiled = compile_policies(policies, INVENTORY, "istio-sidecar", Options())
    assert compiled.accepted
    return [dict(one.document) for one in compiled.emission.manifests]


def test_nothing_to_do_is_an_empty_plan_even_with_another_bundle() -> None:
    again = PolicySet.of("sha256:other", *OLD.policies)
    plan = make_plan(objects(again), objects(OLD))
    assert plan.steps == () and plan.unchanged == len(objects(OLD))


def test_an_edit_touches_only_what_it_changes_and_adds_come_first() -> None:
    new = version(2, {3: CALLER & f.starts_with(f.PATH, "/pay/"), 4: f.equals(f.SOURCE_ID, API)})
    plan = make_plan(objects(new), objects(OLD))
    assert [(step.verb, step.key[0]) for step in plan.steps] == [
        (Verb.CREATE, "AuthorizationPolicy"), (Verb.DELETE, "AuthorizationPolicy")
    ]  # fmt: skip
    assert "replaces gatehouse-pay-allow-" in plan.steps[0].why
    assert "+        - example.org/ns/shop/sa/api" in str(plan)
    assert str(plan).endswith("1 to create, 0 to update, 1 to delete, 3 unchanged\n")


def test_drift_is_healed_and_foreign_objects_are_left_alone() -> None:
    live = objects(OLD)
    drifted = dict(live[0]) | {"spec": {"action": "ALLOW", "rules": [{}]}, "status": {"x": 1}}
    metadata = dict(drifted["metadata"]) | {"uid": "1", "managedFields": []}
    foreign = {
        "apiVersion": "v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "theirs", "namespace": "shop"},
    }
    plan = make_plan(objects(OLD), [drifted | {"metadata": metadata}, *live[1:], foreign])
    assert [step.verb for step in plan.steps] == [Verb.UPDATE]
    assert "uid" not in plan.steps[0].diff()
    stripped = dict(live[0]) | {"metadata": dict(live[0]["metadata"]) | {"labels": {}}}
    assert make_plan(objects(OLD), [stripped, *live[1:]]).foreign


def test_an_object_without_identity_is_refused() -> None:
    with pytest.raises(InvalidInput):
        make_plan([{"kind": "X"}], [])
    with pytest.raises(InvalidInput, match="twice"):
        make_plan([objects(OLD)[0]] * 2, [])


def test_who_gains_and_who_loses_with_lines_on_both_sides() -> None:
    new = version(
        2, {5: f.one_of(f.SOURCE_ID, [WEB, API]) & f.starts_with(f.PATH, "/pay/")},
        {9: f.starts_with(f.PATH, "/pay/internal")},
    )  # fmt: skip
    found = {(one.direction, one.caller): one for one in compare_policies(OLD, new, INVENTORY)}
    assert set(found) == {(Direction.GAINS, API), (Direction.LOSES, WEB)}
    lost, gained = found[(Direction.LOSES, WEB)], found[(Direction.GAINS, API)]
    assert lost.request.get(f.PATH) == "/pay/internal"
    assert (lost.before, lost.after) == ((Origin("p.rego", 3),), (Origin("p.rego", 9),))
    assert (gained.before, gained.after) == ((), (Origin("p.rego", 5),))
    table = markdown(found.values())
    assert "1 gain, 1 lose access." in table and "p.rego:9" in table and "/pay/internal" in table
    assert compare_policies(new, new, INVENTORY) == []
    assert markdown([]) == "No request gains or loses access.\n"


def test_a_rewrite_with_the_same_meaning_is_no_change() -> None:
    one = f.negate(f.negate(CALLER) | f.negate(f.starts_with(f.PATH, "/pay/")))
    split = {3: CALLER & f.starts_with(f.PATH, "/pay/a"), 4: CALLER & f.starts_with(f.PATH, "/pay/")}
    assert compare_policies(OLD, version(2, {7: one}), INVENTORY) == []
    assert compare_policies(OLD, version(2, split), INVENTORY) == []


def test_callers_outside_the_inventory_are_one_change() -> None:
    new = version(2, {3: f.starts_with(f.PATH, "/pay/")})
    callers = [one.caller for one in compare_policies(OLD, new, INVENTORY)]
    assert sorted(callers)[0] == "" and set(callers) >= {"", API}
    assert len(callers) == len(set(callers))


def test_a_workload_that_is_no_longer_governed_loses_everything() -> None:
    found = compare_policies(OLD, PolicySet.of("x"), INVENTORY)
    assert [one.direction for one in found] == [Direction.LOSES]


def test_who_shows_no_identity_gains_and_loses_nothing() -> None:
    """Plain text is refused whatever a policy says, so that refusing it in Rego as well is no change."""
    get = f.equals(f.METHOD, "GET")
    open_, closed = version(1, {3: get}), version(2, {3: get}, {4: f.negate(f.present(f.SOURCE_ID))})
    assert compare_policies(open_, closed, INVENTORY) == compare_policies(closed, open_, INVENTORY) == []
