"""The index: what agents may serve, kept right through any history of changes."""

import random
import time
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.core.entry import Entry
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, agent_id, server_id
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.authorized import authorized_by_definition
from control_plane.identity.index import Index
from control_plane.identity.ports import ChangeSet

TD = TrustDomain("example.org")
AGENTS = [agent_id(TD, "x", name) for name in "ab"]
NODES = [SpiffeId(TD, f"/n{number}") for number in range(4)]
SELECTORS = [Selector("s", value) for value in "pq"]


def entry(
    id: str, spiffe_id: SpiffeId, parent: SpiffeId, selectors: frozenset[Selector], **other: Any
) -> Entry:
    return Entry(id=id, spiffe_id=spiffe_id, parent_id=parent, selectors=selectors, **other)


selector_sets = st.sets(st.sampled_from(SELECTORS), max_size=2).map(frozenset)
changes = st.one_of(
    st.tuples(
        st.just("entry"),
        st.sampled_from(["1", "2", "3", "4", "5"]),
        st.none()
        | st.tuples(
            st.sampled_from(NODES),
            st.sampled_from([*NODES, *AGENTS, server_id(TD)]),
            selector_sets.filter(bool),
            st.integers(0, 2),
        ),
    ),
    st.tuples(st.just("agent"), st.sampled_from(AGENTS), st.none() | selector_sets),
    st.tuples(st.just("ask"), st.sampled_from(AGENTS), st.none()),
    st.tuples(st.just("sweep"), st.sampled_from(AGENTS), st.none()),
)


@settings(max_examples=300)
@given(st.lists(changes, max_size=25))
def test_views_follow_the_definition(history: list[Any]) -> None:
    index = Index(TD)
    entries: dict[str, Entry] = {}
    selectors: dict[SpiffeId, frozenset[Selector]] = {}
    held: dict[SpiffeId, dict[str, Entry]] = {}
    for sequence, (kind, key, value) in enumerate(history, 1):
        if kind == "ask":
            held[key] = dict(index.authorized_entries(key).entries)
            continue
        if kind == "sweep":  # one agent has left, the others have streams
            held.pop(key, None)
            index.forget_idle_views(held.keys())
            continue
        if kind == "entry":
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = entry(key, *value[:3], revision=value[3])
            effects = index.apply(ChangeSet(sequence, entries={key: entries.get(key)}))
        else:
            if value is None:
                selectors.pop(key, None)
            else:
                selectors[key] = value
            record = None if value is None else AgentRecord(id=key, attestation_type="x", selectors=value)
            effects = index.apply(ChangeSet(sequence, agents={key: record}))
        for agent, before in held.items():
            expected = authorized_by_definition(
                agent, selectors.get(agent, frozenset()), entries.values(), server_id(TD)
            )
            # Whoever subscribed is told of every difference: by ID, or to compare everything.
            different = {id for id in before.keys() | expected.keys() if before.get(id) != expected.get(id)}
            assert agent in effects.reset or different <= effects.entries.get(agent, set())
            assert dict(index.authorized_entries(agent).entries) == expected
            held[agent] = dict(expected)
    for agent in AGENTS:
        expected = authorized_by_definition(
            agent, selectors.get(agent, frozenset()), entries.values(), server_id(TD)
        )
        view = index.authorized_entries(agent)
        assert dict(view.entries) == expected
        assert [one.id for one in view.ordered] == sorted(expected)
    assert [one.id for one in index.entries_after("")] == sorted(entries)
    assert [one.id for one in index.entries_after("3")] == sorted(id for id in entries if id > "3")


def test_a_full_change_set_replaces_everything() -> None:
    index = Index(TD)
    old = entry("1", NODES[0], AGENTS[0], frozenset(SELECTORS))
    new = entry("2", NODES[1], AGENTS[0], frozenset(SELECTORS))
    index.apply(ChangeSet(1, full=True, entries={"1": old}))
    assert set(index.authorized_entries(AGENTS[0]).entries) == {"1"}
    effects = index.apply(ChangeSet(9, full=True, entries={"2": new}))
    assert effects.entries[AGENTS[0]] == {"1", "2"}
    assert set(index.authorized_entries(AGENTS[0]).entries) == {"2"} and index.sequence == 9


def test_a_change_among_ten_thousand_entries_is_quick() -> None:
    index = Index(TD)
    everything = {
        f"{number:05}": entry(
            f"{number:05}", SpiffeId(TD, f"/w{number}"), NODES[0], frozenset({Selector("u", str(number))})
        )
        for number in range(10_000)
    }
    alias = entry("alias", NODES[0], server_id(TD), frozenset({SELECTORS[0]}))
    agents = {
        one: AgentRecord(id=one, attestation_type="x", selectors=frozenset({SELECTORS[0]}))
        for one in (agent_id(TD, "x", str(number)) for number in range(20))
    }
    index.apply(ChangeSet(1, full=True, entries={**everything, "alias": alias}, agents=agents))
    for agent in agents:
        assert len(index.authorized_entries(agent).entries) == 10_000
    random.seed(1)
    began = time.perf_counter()
    for sequence in range(2, 202):
        id = f"{random.randrange(10_000):05}"
        changed = replace(index.entry(id), revision=sequence)  # type: ignore[type-var]
        effects = index.apply(ChangeSet(sequence, entries={id: changed}))
        assert effects.entries.keys() == agents.keys() and not effects.reset
    assert (time.perf_counter() - began) / 200 < 0.005
