"""Many callers as a tree of prefixes: the same callers, few questions, not deep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from policies.formula import SOURCE_ID
from policies.targets.envoy_rbac import _union
from policies.targets.patterns import Pattern

NAMES = st.sets(
    st.text("ab/", min_size=1, max_size=12).map(lambda text: "spiffe://a.test/" + text),
    min_size=30,
    max_size=90,
)


def tree(names: set[str]) -> Mapping[str, Any]:
    return _union(SOURCE_ID, [Pattern("exact", name) for name in sorted(names)], False)


def asked(node: Mapping[str, Any], name: str, questions: list[int]) -> bool:
    """What Envoy says, counting what it looks at on the way."""
    ((kind, value),) = node.items()
    if kind == "or_ids":
        return any(asked(one, name, questions) for one in value["ids"])
    if kind == "and_ids":
        return all(asked(one, name, questions) for one in value["ids"])
    ((how, text),) = value["principal_name"].items()
    questions[0] += 1
    return name == text if how == "exact" else name.startswith(text)


def depth(node: Mapping[str, Any]) -> int:
    inner = [one for value in node.values() for one in value.get("ids", ())]
    return 1 + max(map(depth, inner), default=0)


@given(NAMES, NAMES)
def test_the_tree_names_the_same_callers(names: set[str], others: set[str]) -> None:
    node = tree(names)
    for name in names | others:
        for near in (name, name + "a", name[:-1]):
            assert asked(node, near, [0]) == (near in names)


def test_a_thousand_names_are_a_few_dozen_questions() -> None:
    names = {f"spiffe://shop.test/ns/shop/sa/caller-{number:05}" for number in range(1000)}
    most = 0
    for name in [*names, "spiffe://shop.test/ns/shop/sa/other", "spiffe://other.test/x"]:
        questions = [0]
        assert asked(tree(names), name, questions) == (name in names)
        most = max(most, questions[0])
    assert most < 60


def test_names_that_begin_one_another_make_no_deep_tree() -> None:
    names = {"spiffe://a.test/" + "a" * length for length in range(1, 1000)}
    assert depth(tree(names)) < 40
    assert all(asked(tree(names), name, [0]) for name in sorted(names)[::100])
