"""What an agent keeps of the pushes: written and read back the same; anything else is Corrupt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.enforcement.news import Held, News, Quarantine
from control_plane.core.errors import Corrupt
from control_plane.core.spiffe_id import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/web")


def test_there_and_back(author: Any) -> None:
    held = Held(author.keys, author.keys, author.policy(3), Quarantine(7, frozenset({WEB})))
    assert Held.parse(held.dump()) == held
    assert Held.parse(Held().dump()) == Held()


def test_news_change_what_they_name(author: Any) -> None:
    held = Held().after(News(keys=author.keys))
    held = held.after(News(policy=author.policy(1))).after(News(quarantine=Quarantine(1, frozenset({WEB}))))
    assert held == Held(author.keys, {}, held.policy, Quarantine(1, frozenset({WEB})))
    assert held.policy is not None
    assert held.after(News()) == held
    assert not News()
    assert News(quarantine=Quarantine())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_corrupt(content: bytes) -> None:
    with pytest.raises(Corrupt):
        Held.parse(content)


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "/w=="},
        {"policy": "GgGg"},
        {"quarantine": {"revision": float("inf"), "spiffe_ids": []}},
    ],
    ids=["a policy that is no message", "a policy with a text that is none", "an endless revision"],
)
def test_what_can_be_taken_apart_and_not_read_is_corrupt(change: dict[str, object]) -> None:
    document = json.loads(Held().dump()) | change
    with pytest.raises(Corrupt):
        Held.parse(json.dumps(document).encode())


def test_deep_nesting_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        Held.parse(b"[" * 100_000)


@given(st.sampled_from(["keys", "policy", "quarantine"]), JSON)
def test_a_wrong_part_is_corrupt_or_means_the_same(part: str, value: object) -> None:
    document = json.loads(Held(quarantine=Quarantine(1, frozenset({WEB}))).dump())
    document[part] = value
    try:
        held = Held.parse(json.dumps(document).encode())
    except Corrupt:
        return
    assert Held.parse(held.dump()) == held
