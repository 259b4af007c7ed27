"""Explanations: what failed and by which value, undefined apart from false, and as the evaluator has it."""

from __future__ import annotations

import functools
import json
import random
from types import ModuleType
from typing import Any

import pytest

from control_plane.core.errors import InvalidInput, NotFound
from policies.explain import Condition, Explanation, Outcome, RuleTrace, explain, explanation_document
from policies.explain.question import Described
from policies.inventory_file import inventory_from_document
from policies.language.compiler.compiled import CompiledRule
from policies.language.concrete.evaluate import ConflictError, Evaluator, Limits, Observer
from policies.language.concrete.world import Undefined
from policies.language.serial import json_text
from policies.language.source import Span
from policies.language.values import TRUE, from_python
from policies.project import Project

AUTHZ = """package gatehouse.authz

default allow := false

# METADATA
# title: The shop reads
allow if {
	to("pay")
	input.request.method in {"GET", "HEAD"}
	input.source.labels.tier == "web"
}

allow if {
	to("cards")
	input.request.method == "GET"
}

deny contains "no refunds" if startswith(input.request.path, "/refund")

to(service) if input.destination.service == service
"""


def asked(text: str, given: object, rule: str = "", data: object = None, **named: Any) -> Explanation:
    modules = Project.of({"p.rego": text}).compiled()
    path = tuple(rule.split(".")) if rule else ()
    return explain(modules, from_python(given), from_python(data or {}), rule=path, **named)


def only_rule(body: str, given: object, data: object = None, before: str = "") -> RuleTrace:
    return asked(f"package p\n{before}\nq if {{\n{body}\n}}\n", given, "p.q", data).documents[0].rules[0]


def outcomes(rule: RuleTrace) -> list[tuple[str, str]]:
    return [(one.text, str(one.outcome)) for one in rule.conditions]


def reads(condition: Condition) -> dict[str, object]:
    found = {}
    for one in condition.reads:
        found[one.text] = None if isinstance(one.value, Undefined) else json.loads(json_text(one.value))
    return found


def call(**changed: object) -> dict[str, object]:
    given: dict[str, object] = {
        "source": {"labels": {"tier": "web"}}, "destination": {"service": "pay"},
        "request": {"method": "GET", "path": "/"},
    }  # fmt: skip
    return given | changed


def test_what_allowed_is_named_with_its_line_and_title() -> None:
    found = asked(AUTHZ, call())
    assert found.allowed
    assert [(one.file, one.line) for one in found.origins] == [("p.rego", 7)]
    assert found.reason == "allowed by data.gatehouse.authz.allow at p.rego:7 (The shop reads)"
    assert not found.nearest


def test_a_denial_names_the_nearest_rule_and_the_values_that_missed() -> None:
    found = asked(AUTHZ, call(request={"method": "PUT", "path": "/"}))
    assert found.allowed is False
    (nearest,) = found.nearest
    assert nearest.rule.span.row == 7
    (missed,) = nearest.missed
    assert (missed.text, missed.outcome) == ('input.request.method in {"GET", "HEAD"}', Outcome.FALSE)
    assert reads(missed) == {"input.request.method": "PUT"}
    assert "p.rego:7" in found.reason


def test_the_nearest_rule_is_of_the_destination_that_was_asked_for() -> None:
    """Two misses of what the caller can change are nearer than one of where it goes."""
    found = asked(AUTHZ, call(source={"labels": {}}, request={"method": "PUT", "path": "/"}))
    assert found.nearest[0].rule.span.row == 7


def test_a_deny_wins_and_is_what_decided() -> None:
    found = asked(AUTHZ, call(request={"method": "GET", "path": "/refund/1"}))
    assert found.allowed is False
    assert [one.line for one in found.origins] == [18]
    assert found.reason == "denied by data.gatehouse.authz.deny at p.rego:18"
    assert not found.nearest


def test_a_missing_attribute_is_undefined_and_said_to_be_missing() -> None:
    found = asked(AUTHZ, call(source={"labels": {"env": "prod"}}))
    (missed,) = found.nearest[0].missed
    assert missed.outcome is Outcome.UNDEFINED
    assert missed.reads[0].missing == "input.source.labels has no tier: only env"


def test_the_default_is_told_where_it_applies_and_where_not() -> None:
    denied, allowed = asked(AUTHZ, call(source={})).documents[0], asked(AUTHZ, call()).documents[0]
    assert denied.default is not None and denied.default.span.row == 3
    assert (denied.default_applied, allowed.default_applied) == (True, False)


def test_a_function_that_fails_is_followed_to_the_condition_that_did() -> None:
    rule = asked(AUTHZ, call(destination={"service": "cards"})).documents[0].rules[0]
    document = rule.conditions[0].reads[0].document
    assert document is not None
    (inner,) = document.rules[0].conditions
    assert reads(inner) == {"input.destination.service": "cards", "service": "pay"}


def test_everything_that_stands_in_the_way_is_told_at_once() -> None:
    rule = only_rule('input.a == 1\nx := input.b\nx > 3\ninput.c == "c"', {"a": 2, "b": 1, "c": "c"})
    told = [("input.a == 1", "false"), ("x := input.b", "holds"), ("x > 3", "false")]
    assert outcomes(rule) == [*told, ('input.c == "c"', "holds")]


def test_what_needs_a_variable_that_has_no_value_is_not_reached() -> None:
    rule = only_rule("x := input.b\nx > 3\ninput.c", {"c": True})
    assert outcomes(rule) == [("x := input.b", "undefined"), ("x > 3", "not reached"), ("input.c", "holds")]


def test_iteration_tells_how_many_were_tried() -> None:
    rule = only_rule('some w in input.ws\nw == "z"', {"ws": ["a", "b", "c"]})
    failed = rule.conditions[1]
    assert (failed.outcome, failed.tried, reads(failed)) == (Outcome.FALSE, 3, {"w": "a"})
    assert only_rule("some w in input.ws", {"ws": []}).conditions[0].note == "there is nothing in it"
    assert only_rule("some w in input.ws", {}).conditions[0].outcome is Outcome.UNDEFINED


def test_not_shows_what_it_looked_at() -> None:
    rule = only_rule('not input.a == "x"', {"a": "x"})
    (condition,) = rule.conditions
    assert condition.outcome is Outcome.FALSE
    assert [(one.text, one.outcome) for one in condition.inner] == [('input.a == "x"', Outcome.HOLDS)]
    held = only_rule('not input.a == "x"', {}).conditions[0]
    assert held.held
    assert held.inner[0].outcome is Outcome.UNDEFINED


def test_not_of_something_missing_is_told_with_the_import_that_mends_it() -> None:
    body = 'not startswith(input.path, "/x")'
    (condition,) = only_rule(body, {}).conditions
    assert (condition.text, condition.outcome) == (body, Outcome.UNDEFINED)
    assert "import future.keywords.not" in condition.note
    assert only_rule(body, {}, before="import future.keywords.not").held


def test_every_shows_the_element_that_fails() -> None:
    (condition,) = only_rule("every x in input.xs { x > 2 }", {"xs": [3, 4, 1, 0]}).conditions
    assert condition.note == "fails for element 3 of 4"
    assert reads(condition.inner[0]) == {"x": 1}


def test_else_branches_come_after_what_they_follow() -> None:
    text = "package p\nq := 1 if input.a\nelse := 2 if input.b\nelse := 3 if input.c\n"
    found = asked(text, {"b": True}, "p.q").documents[0]
    assert [str(one.outcome) for one in found.rules] == ["undefined", "holds", "not reached"]
    assert found.value == 2


def test_an_argument_that_does_not_match_is_told() -> None:
    text = 'package p\nq if f("b") == 1\nf("a") := 1\nf(_) := 2 if input.never\n'
    (condition,) = asked(text, {}, "p.q").documents[0].rules[0].conditions
    document = condition.reads[0].document
    assert document is not None
    assert document.rules[0].conditions[0].note == "the argument doesn't match"


def test_a_built_in_that_fails_says_why() -> None:
    (condition,) = only_rule("to_number(input.s) + 1 == 2", {"s": "abc"}).conditions
    assert condition.outcome is Outcome.UNDEFINED
    assert any("to_number" in one.missing for one in condition.reads)


def test_two_values_deny_and_are_told() -> None:
    text = "package gatehouse.authz\nallow := true if input.a\nallow := false if input.b\n"
    found = asked(text, {"a": 1, "b": 1})
    assert found.allowed is False
    assert "multiple outputs" in found.reason


def test_a_conflict_elsewhere_is_no_one_s_business() -> None:
    text = "package p\nq if r == 2\nr := 1 if input.x\nworse := 1\nworse := 2 if input.a\n"
    (condition,) = asked(text, {"a": 1}, "p.q").documents[0].rules[0].conditions
    assert condition.outcome is Outcome.UNDEFINED


def test_sets_and_objects_tell_what_each_rule_adds() -> None:
    text = "package p\ns contains x if some x in input.xs\no[k] := v if some k, v in input.o\n"
    given = {"xs": [1, 2], "o": {"a": 1}}
    for rule, value in (("p.s", {1, 2}), ("p.o", {"a": 1})):
        assert asked(text, given, rule).documents[0].rules[0].value == from_python(value)


def test_rules_behind_with_are_not_followed() -> None:
    text = 'package p\nq if r with input as {"a": 2}\nr if input.a == 1\n'
    (condition,) = asked(text, {"a": 1}, "p.q").documents[0].rules[0].conditions
    assert not condition.held
    assert condition.reads[0].document is None


def test_unknown_rules_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(NotFound, match="no such rule") as refused:
        asked(AUTHZ, {}, "gatehouse.authz.alow")
    assert "data.gatehouse.authz.allow" in str(refused.value.hint)
    with pytest.raises(NotFound, match="function"):
        asked(AUTHZ, {}, "gatehouse.authz.to")


def test_a_policy_that_costs_too_much_is_bounded() -> None:
    text = "package p\nq if { some a in input.xs; some b in input.xs; a + b == -1 }"
    found = asked(text, {"xs": list(range(200))}, "p.q", limits=Limits(steps=5_000))
    assert "steps" in found.reason


def test_a_document_read_in_many_places_is_followed_once() -> None:
    rules = "\n".join(f"r{n} if {{ r{n + 1}; r{n + 1}; input.a }}" for n in range(12))
    document = explanation_document(asked(f"package p\n{rules}\nr12 if input.b\n", {"a": 1}, "p.r0"))
    assert len(json.dumps(document)) < 100_000


def _seen(spans: list[Span], rule: CompiledRule, _value: object) -> None:
    spans.append(rule.span)


@pytest.mark.parametrize("seed", range(12))
def test_explained_as_evaluated(seed: int, made: ModuleType) -> None:
    """The evaluator and its observer are the authority on random policies and requests."""
    randomness = random.Random(seed)
    modules = made.compiled(made.policy(randomness))
    evaluator = Evaluator(modules, observed=True)
    data = made.as_data(made.DATA)
    for case in made.cases(randomness, 6, whole=False):
        found = explain(modules, case.document, data)
        told = {one.name.rpartition(".")[2]: one for one in found.documents}
        for name, document in told.items():
            held: list[Span] = []
            observer = Observer(on_rule=functools.partial(_seen, held))
            path = ("gatehouse", "authz", name)
            try:
                value = evaluator.document(path, input_document=case.document, data=data, observer=observer)
            except ConflictError:
                assert document.error
                continue
            assert value == document.value or value is document.value
            own = {rule.span for rule in document.rules}
            observed = next((span for span in held if span in own), None)
            assert next((one.span for one in document.rules if one.held), None) == observed
            for rule in document.rules:
                assert rule.held is not bool(rule.missed)
        assert found.allowed is (told["allow"].value is TRUE and told["deny"].value is not TRUE)


INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "workloads": [
        {"name": name, "namespace": "shop", "service_account": "web", "labels": {"app": "web", "copy": name},
         "services": [{"name": "web", "ports": [{"port": 80, "target_port": 8080, "protocol": "http"}]},
                      {"name": "admin", "ports": [{"port": 81, "target_port": 8081, "protocol": "http"}]}]}
        for name in ("one", "two")
    ],
})  # fmt: skip
WEB = "spiffe://example.org/ns/shop/sa/web"


def test_a_described_request_has_the_inventory_s_facts() -> None:
    made = Described(source="shop/one", destination="shop/two", port=8081, headers={"X-Team": "a"})
    document = made.document(INVENTORY)
    assert document["source"] == {
        "spiffe_id": WEB, "trust_domain": "example.org", "namespace": "shop", "service_account": "web",
        "labels": {"app": "web"},  # the workloads of this identity disagree on `copy`
    }  # fmt: skip
    called = document["destination"]
    assert isinstance(called, dict)
    assert (called["service"], called["port"], called["labels"]["copy"]) == ("admin", 8081, "two")
    assert document["request"] == {"headers": {"x-team": "a"}}
    assert document["connection"] == {"mtls": True}


def test_an_identity_that_the_inventory_does_not_know_has_no_facts() -> None:
    document = Described(source="spiffe://example.org/ns/shop/sa/other").document(INVENTORY)
    assert document["source"] == {
        "spiffe_id": "spiffe://example.org/ns/shop/sa/other", "trust_domain": "example.org"
    }  # fmt: skip
    assert Described().document(None) == {"connection": {"mtls": False}}


@pytest.mark.parametrize(
    ("described", "inventory", "expected"),
    [
        (Described(path="/a?b=c"), None, "has a query"),
        (Described(source="shop/one"), None, "names a workload"),
        (Described(source="nonsense"), INVENTORY, "no workload"),
        (Described(destination="shop/one"), INVENTORY, "several services"),
        (Described(destination="shop/one", port=9), INVENTORY, "doesn't listen on port 9"),
        (Described(source="spiffe://UPPER/x"), INVENTORY, "SPIFFE ID"),
    ],
)
def test_a_request_that_cannot_be_described_is_refused(
    described: Described, inventory: Any, expected: str
) -> None:
    with pytest.raises((InvalidInput, NotFound), match=expected):
        described.document(inventory)


def test_of_very_many_rules_those_that_came_furthest_are_looked_at() -> None:
    rules = [
        f'allow if {{\n\tinput.destination.service == "s{n}"\n\tinput.request.path == "/{n}"\n}}'
        for n in range(1_500)
    ]
    text = "\n".join(["package gatehouse.authz", *rules])
    given = {"destination": {"service": "s1400"}, "request": {"path": "/"}}
    found = asked(text, given)
    assert len(found.documents[0].rules) == 1_500
    assert found.nearest[0].rule.span.row == 2 + 4 * 1_400
    assert sum(bool(one.conditions) for one in found.documents[0].rules) == 200
    allowed = asked(text, given | {"request": {"path": "/1400"}})
    assert [one.line for one in allowed.origins] == [2 + 4 * 1_400]
