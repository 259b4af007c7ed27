"""What one subscription owes its client, in both dialects, by table and against a client that keeps books."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.envoy.subscription import (
    MAX_NAMES,
    Answer,
    Ask,
    Delta,
    Kind,
    Resource,
    StateOfTheWorld,
    Subscription,
)
from control_plane.core.errors import ResourceExhausted

TYPE = "type.googleapis.com/x"
SECRETS = Kind(TYPE, wildcard=True, complete=False, tells_absence=False)
LISTENERS = Kind(TYPE, wildcard=True, complete=True, tells_absence=True)
EXTENSIONS = Kind(TYPE, wildcard=False, complete=False, tells_absence=True)
BOTH = [StateOfTheWorld, Delta]


def world(**versions: int) -> dict[str, Resource]:
    return {name: Resource(name, str(version), b"") for name, version in versions.items()}


def names(answer: Answer | None) -> list[str]:
    assert answer is not None
    return [resource.name for resource in answer.resources]


def ack(answer: Answer | None, *asked: str) -> Ask:
    assert answer is not None
    return Ask(TYPE, asked, nonce=answer.nonce)


@pytest.mark.parametrize("dialect", BOTH)
def test_an_answer_is_given_once_until_there_is_news(dialect: type[Subscription]) -> None:
    one = dialect(SECRETS)  # type: ignore[call-arg]
    assert one.due(world(a=1)) is None  # nobody has asked
    one.take(Ask(TYPE, ("a",)))
    first = one.due(world(a=1, b=1))
    assert names(first) == ["a"]
    one.take(ack(first, *(("a",) if dialect is StateOfTheWorld else ())))
    assert one.due(world(a=1, b=2)) is None
    assert names(one.due(world(a=2, b=2))) == ["a"]


@pytest.mark.parametrize("dialect", BOTH)
def test_an_unknown_name_is_waited_for(dialect: type[Subscription]) -> None:
    one = dialect(SECRETS)  # type: ignore[call-arg]
    one.take(Ask(TYPE, ("file-root:/x", "a")))
    assert names(one.due(world(a=1))) == ["a"]
    assert one.due(world(a=1)) is None
    later = one.due({**world(a=1), "file-root:/x": Resource("file-root:/x", "1", b"")})
    assert "file-root:/x" in names(later)


@pytest.mark.parametrize("dialect", BOTH)
def test_only_unknown_names_get_no_answer(dialect: type[Subscription]) -> None:
    one = dialect(SECRETS)  # type: ignore[call-arg]
    one.take(Ask(TYPE, ("kubernetes://x",)))
    assert one.due(world(a=1)) is None


@pytest.mark.parametrize("dialect", BOTH)
def test_what_was_rejected_is_not_sent_again_until_it_is_another(dialect: type[Subscription]) -> None:
    one = dialect(LISTENERS)  # type: ignore[call-arg]
    one.take(Ask(TYPE))
    first = one.due(world(a=1))
    assert first is not None
    one.take(Ask(TYPE, nonce=first.nonce, rejected="no"))
    assert one.due(world(a=1)) is None
    assert names(one.due(world(a=2))) == ["a"]


@pytest.mark.parametrize("dialect", BOTH)
def test_an_empty_world_is_told_where_a_response_is_complete(dialect: type[Subscription]) -> None:
    one = dialect(LISTENERS)  # type: ignore[call-arg]
    one.take(Ask(TYPE))
    assert names(one.due({})) == []
    assert one.due({}) is None


def test_a_request_that_answers_an_older_response_is_left_aside() -> None:
    one = StateOfTheWorld(SECRETS)
    one.take(Ask(TYPE, ("a",)))
    first = one.due(world(a=1))
    second = one.due(world(a=2))
    assert not one.take(Ask(TYPE, ("b",), nonce=first.nonce if first else ""))
    assert one.due(world(a=2, b=1)) is None
    assert one.take(Ask(TYPE, ("b",), nonce=second.nonce if second else ""))
    assert names(one.due(world(a=2, b=1))) == ["b"]


def test_a_name_that_was_dropped_and_is_asked_for_again_is_answered_again() -> None:
    one = StateOfTheWorld(EXTENSIONS)
    one.take(Ask(TYPE, ("a", "b")))
    answer = one.due(world(a=1, b=1))
    one.take(ack(answer, "a"))
    assert one.due(world(a=1, b=1)) is None
    one.take(ack(answer, "a", "b"))
    assert names(one.due(world(a=1, b=1))) == ["a", "b"]


def test_no_name_means_nothing_where_there_is_no_wildcard() -> None:
    one = StateOfTheWorld(EXTENSIONS)
    one.take(Ask(TYPE))
    assert one.due(world(a=1)) is None


def test_what_is_gone_is_missing_in_the_next_complete_answer() -> None:
    one = StateOfTheWorld(LISTENERS)
    one.take(Ask(TYPE))
    one.due(world(a=1, b=1))
    assert names(one.due(world(a=1))) == ["a"]


def test_a_difference_names_what_is_new_and_what_is_gone() -> None:
    one = Delta(LISTENERS)
    one.take(Ask(TYPE))
    assert names(one.due(world(a=1, b=1))) == ["a", "b"]
    answer = one.due(world(a=1, c=1))
    assert names(answer) == ["c"] and answer is not None and answer.removed == ("b",)
    assert one.due(world(a=1, c=1)) is None


def test_what_a_client_brings_is_not_sent_again_and_what_is_gone_is_told() -> None:
    one = Delta(LISTENERS)
    one.take(Ask(TYPE, known={"a": "1", "b": "1", "old": "7"}))
    answer = one.due(world(a=1, b=2))
    assert names(answer) == ["b"] and answer is not None and answer.removed == ("old",)


def test_a_name_that_is_not_there_is_told_once_and_given_when_it_comes() -> None:
    one = Delta(EXTENSIONS)
    one.take(Ask(TYPE, ("a",)))
    answer = one.due({})
    assert answer is not None and answer.removed == ("a",)
    assert one.due({}) is None
    assert names(one.due(world(a=1))) == ["a"]


def test_who_subscribes_again_is_answered_again_and_who_left_is_not() -> None:
    one = Delta(EXTENSIONS)
    one.take(Ask(TYPE, ("a",)))
    one.due(world(a=1))
    one.take(Ask(TYPE, ("a",)))
    assert names(one.due(world(a=1))) == ["a"]
    one.take(Ask(TYPE, dropped=("a",)))
    assert one.due(world(a=2)) is None


def test_the_wildcard_may_be_asked_for_and_given_back() -> None:
    one = Delta(LISTENERS)
    one.take(Ask(TYPE, ("a",)))
    assert names(one.due(world(a=1, b=1))) == ["a"]
    one.take(Ask(TYPE, ("*",)))
    assert names(one.due(world(a=1, b=1))) == ["b"]
    one.take(Ask(TYPE, dropped=("*",)))
    assert names(one.due(world(a=2, b=2))) == ["a"]


@pytest.mark.parametrize("dialect", BOTH)
def test_names_are_bounded(dialect: type[Subscription]) -> None:
    one = dialect(SECRETS)  # type: ignore[call-arg]
    with pytest.raises(ResourceExhausted, match="names 100000 resources"):
        one.take(Ask(TYPE, tuple(map(str, range(100_000)))))
    one.take(Ask(TYPE, tuple(map(str, range(MAX_NAMES)))))
    assert one.due(world(a=1)) is None


def test_a_delta_client_can_not_gather_more_names_than_that_or_bring_more() -> None:
    one = Delta(SECRETS)
    one.take(Ask(TYPE, tuple(map(str, range(MAX_NAMES)))))
    with pytest.raises(ResourceExhausted):
        one.take(Ask(TYPE, ("one more",)))
    with pytest.raises(ResourceExhausted):
        Delta(SECRETS).take(Ask(TYPE, known=dict.fromkeys(map(str, range(MAX_NAMES + 1)), "1")))


WORLDS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("world"), WORLDS),
        st.tuples(st.just("names"), st.frozensets(st.sampled_from("abcd"), min_size=1)),
    ),
    max_size=12,
)


@given(STEPS, st.sampled_from([SECRETS, LISTENERS, EXTENSIONS]))
def test_a_client_of_the_state_of_the_world_ends_with_what_it_asked_for(
    steps: list[tuple[str, object]], kind: Kind
) -> None:
    one, held, asked, now, nonce = StateOfTheWorld(kind), {}, frozenset("a"), {}, ""
    one.take(Ask(TYPE, ("a",)))
    for what, value in steps:
        if what == "world":
            now = world(**value)  # type: ignore[arg-type]
        else:
            asked = value  # type: ignore[assignment]
            held = {name: version for name, version in held.items() if name in asked}
            assert one.take(Ask(TYPE, tuple(sorted(asked)), nonce=nonce))
        answer = one.due(now)
        if answer is not None:
            nonce = answer.nonce
            held = ({} if kind.complete else held) | {each.name: each.version for each in answer.resources}
            assert one.take(Ask(TYPE, tuple(sorted(asked)), nonce=nonce))
        assert one.due(now) is None
        for name in asked & now.keys():
            assert held[name] == now[name].version
        if kind.complete:
            assert held.keys() <= now.keys()


@given(STEPS, st.sampled_from([LISTENERS, EXTENSIONS]))
def test_a_delta_client_ends_with_what_it_asked_for(steps: list[tuple[str, object]], kind: Kind) -> None:
    one, held, asked, now = Delta(kind), {}, frozenset("a"), {}
    one.take(Ask(TYPE, ("a",)))
    for what, value in steps:
        if what == "world":
            now = world(**value)  # type: ignore[arg-type]
        else:
            added, dropped = value - asked, asked - value  # type: ignore[operator]
            asked = value  # type: ignore[assignment]
            held = {name: version for name, version in held.items() if name in asked}
            one.take(Ask(TYPE, tuple(added), dropped=tuple(dropped)))
        answer = one.due(now)
        if answer is not None:
            assert not {each.name for each in answer.resources} & set(answer.removed)
            held |= {each.name: each.version for each in answer.resources}
            for name in answer.removed:
                held.pop(name, None)
        assert one.due(now) is None
        assert held == {name: now[name].version for name in asked & now.keys()}
