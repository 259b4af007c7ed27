"""One contract, every storage: what `identity.ports` promises."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.bundle import Bundle, JwtAuthority
from control_plane.core.entry import Entry, default_order
from control_plane.core.errors import (
    AlreadyExists,
    Bug,
    DenialReason,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, agent_id
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.memory import MemoryStore
from control_plane.identity.ports import DeleteMode, EntryUpdate, JoinToken, Store
from control_plane.identity.quarantine import Quarantined
from control_plane.sql.database import prepare
from control_plane.sql.store import SqlStore

TD = TrustDomain("example.org")
OTHER = TrustDomain("other.org")
AGENT = agent_id(TD, "join_token", "a1")
Scenario = Callable[[Store], Coroutine[Any, Any, None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "sqlite"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario against one kind of store."""

    def run_scenario(scenario: Scenario) -> None:
        async def main() -> None:
            if request.param == "memory":
                await scenario(MemoryStore(TD, os.urandom))
                return
            prepare(tmp_path / "registry.db")
            store = SqlStore(tmp_path / "registry.db", TD, os.urandom)
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(main())

    return run_scenario


def agent(**other: Any) -> AgentRecord:
    values = {"id": AGENT, "attestation_type": "join_token", "serial": 2**127 + 1, "expires_at": 1000}
    return AgentRecord(**(values | other))


def test_entries_come_back_as_they_went_in(run: Run, make_entry: Callable[..., Entry]) -> None:
    entry = make_entry(
        "/web", selectors=("unix:uid:0", "k8s:ns:a:b"), hint="é", dns_names=("a.example",), admin=True,
        x509_svid_ttl_seconds=60, jwt_svid_ttl_seconds=61, expires_at=5, priority=-3, downstream=True,
        disable_x509_svid_prefetch=True, jwt_svid_include_jti=True,
    )  # fmt: skip

    async def scenario(store: Store) -> None:
        [outcome] = await store.create_entries([entry], now=77)
        assert outcome.error is None and outcome.entry is not None
        assert replace(outcome.entry, id="", created_at=0) == entry
        assert outcome.entry.created_at == 77 and outcome.entry.revision == 0
        state = await store.changes_after(0)
        assert state.full and state.entries == {outcome.entry.id: outcome.entry}

    run(scenario)


def test_same_key_is_already_exists_with_the_stored_entry(run: Run, make_entry: Callable[..., Entry]) -> None:
    async def scenario(store: Store) -> None:
        first, second, third = await store.create_entries(
            [make_entry("/web", hint="one"), make_entry("/web", hint="two"), make_entry("/db")], now=1
        )
        assert first.error is None and third.error is None
        assert isinstance(second.error, AlreadyExists) and second.entry == first.entry
        taken = first.entry.id  # type: ignore[union-attr]
        [again] = await store.create_entries([make_entry("/x", id=taken)], now=2)
        assert isinstance(again.error, AlreadyExists) and again.entry is None, "another entry than was wanted"
        [both] = await store.create_entries([make_entry("/db", id=taken)], now=2)
        assert isinstance(both.error, AlreadyExists) and both.entry == third.entry

    run(scenario)


def test_of_two_entries_the_first_is_the_older_within_one_second_too(
    run: Run, make_entry: Callable[..., Entry]
) -> None:
    async def scenario(store: Store) -> None:
        stored: list[Entry] = []
        for batch in range(20):
            outcomes = await store.create_entries([make_entry(f"/{batch}-{one}") for one in range(5)], now=7)
            stored += [outcome.entry for outcome in outcomes if outcome.entry is not None]
        assert len(stored) == 100
        assert default_order(reversed(stored)) == stored
        await store.prune_changes(keep=0)  # what is forgotten of the log counts on
        [later] = await store.create_entries([make_entry("/later")], now=7)
        assert later.entry is not None
        assert default_order([later.entry, *reversed(stored)]) == [*stored, later.entry]

    run(scenario)


def test_an_update_raises_the_revision_and_keeps_keys_apart(
    run: Run, make_entry: Callable[..., Entry]
) -> None:
    async def scenario(store: Store) -> None:
        await store.create_entries([make_entry("/web", id="web"), make_entry("/db", id="db")], now=1)
        web, collision, missing, wrong = await store.update_entries(
            [
                EntryUpdate("web", lambda entry: replace(entry, hint="new")),
                EntryUpdate("db", lambda entry: replace(entry, spiffe_id=SpiffeId(TD, "/web"))),
                EntryUpdate("none", lambda entry: entry),
                EntryUpdate("db", lambda entry: replace(entry, revision=9)),
            ]
        )
        assert web.entry is not None and (web.entry.revision, web.entry.hint) == (1, "new")
        assert isinstance(collision.error, AlreadyExists)
        assert isinstance(missing.error, NotFound)
        assert isinstance(wrong.error, Bug)
        state = await store.changes_after(0)
        assert state.entries["db"].revision == 0  # type: ignore[union-attr]

    run(scenario)


def test_a_reused_id_looks_changed(run: Run, make_entry: Callable[..., Entry]) -> None:
    async def scenario(store: Store) -> None:
        [first] = await store.create_entries([make_entry("/web", id="x")], now=1)
        await store.delete_entries(["x"])
        [second] = await store.create_entries([make_entry("/web", id="x")], now=1)
        assert first.entry is not None and second.entry is not None
        assert second.entry.revision != first.entry.revision

    run(scenario)


def test_the_change_log_is_gapless_and_folds(run: Run, make_entry: Callable[..., Entry]) -> None:
    async def scenario(store: Store) -> None:
        start = (await store.changes_after(0)).sequence
        await store.create_entries([make_entry("/a", id="a"), make_entry("/b", id="b")], now=1)
        await store.create_entries([make_entry("/a")], now=1)  # refused: no number
        await store.delete_entries(["a", "nobody"])
        changes = await store.changes_after(start or 1)
        assert changes.sequence == start + 3
        assert not changes.full or start == 0
        assert changes.entries.get("a") is None and changes.entries["b"] is not None
        assert (await store.changes_after(changes.sequence)).is_empty
        await store.prune_changes(keep=1)
        assert (await store.changes_after(1)).full
        later = await store.changes_after(changes.sequence)
        assert later.is_empty and later.sequence == changes.sequence

    run(scenario)


def test_expired_entries_are_pruned(run: Run, make_entry: Callable[..., Entry]) -> None:
    async def scenario(store: Store) -> None:
        await store.create_entries(
            [
                make_entry("/a", id="a", expires_at=10),
                make_entry("/b", id="b"),
                make_entry("/c", expires_at=99),
            ],
            now=1,
        )
        assert [entry.id for entry in await store.prune_entries(expired_before=11, limit=9)] == ["a"]

    run(scenario)


def test_attestation_renewal_promotion(run: Run) -> None:
    async def scenario(store: Store) -> None:
        await store.record_attestation(agent(selectors=frozenset({Selector.parse("x509pop:cn:a:b")})))
        await store.record_renewal(AGENT, 7, 2000)
        assert (await store.changes_after(0)).agents[AGENT].serial == 2**127 + 1  # type: ignore[union-attr]
        promoted = await store.promote(AGENT, 7)
        assert (promoted.serial, promoted.expires_at, promoted.new_serial) == (7, 2000, 0)
        assert await store.promote(AGENT, 7) == promoted
        with pytest.raises(FailedPrecondition):
            await store.promote(AGENT, 2**127 + 1)
        with pytest.raises(FailedPrecondition):
            await store.promote(AGENT, 0)
        with pytest.raises(NotFound):
            await store.promote(agent_id(TD, "join_token", "nobody"), 1)

    run(scenario)


def test_a_ban_holds_until_eviction(run: Run) -> None:
    async def scenario(store: Store) -> None:
        await store.record_attestation(agent())
        await store.ban(AGENT)
        with pytest.raises(PermissionDenied) as refused:
            await store.record_attestation(agent())
        assert refused.value.reason is DenialReason.AGENT_BANNED
        banned = (await store.changes_after(0)).agents[AGENT]
        assert banned is not None and banned.banned and banned.serial == 0
        await store.evict(AGENT)
        await store.record_attestation(agent())
        with pytest.raises(NotFound):
            await store.evict(agent_id(TD, "join_token", "nobody"))

    run(scenario)


def test_purge_spares_those_that_could_not_come_back(run: Run) -> None:
    async def scenario(store: Store) -> None:
        ids = [agent_id(TD, "x", name) for name in ("old", "fresh", "token", "renewed")]
        await store.record_attestation(agent(id=ids[0], can_reattest=True, expires_at=5))
        await store.record_attestation(agent(id=ids[1], can_reattest=True, expires_at=50))
        await store.record_attestation(agent(id=ids[2], can_reattest=False, expires_at=5))
        await store.record_attestation(agent(id=ids[3], can_reattest=True, expires_at=5))
        await store.record_renewal(ids[3], 9, 50)
        assert await store.purge(expired_before=10, limit=10) == [ids[0]]

    run(scenario)


def test_confirmations_only_grow_and_count_live_agents(run: Run) -> None:
    async def scenario(store: Store) -> None:
        other = agent_id(TD, "join_token", "a2")
        await store.record_attestation(agent())
        await store.record_attestation(agent(id=other, expires_at=10))
        assert await store.count_unconfirmed(1, now=5) == 2
        await store.confirm_bundles({AGENT: 4, agent_id(TD, "join_token", "nobody"): 9})
        await store.confirm_bundles({AGENT: 3})
        assert await store.count_unconfirmed(4, now=5) == 1
        assert await store.count_unconfirmed(4, now=11) == 0
        assert await store.count_unconfirmed(5, now=11) == 1

    run(scenario)


def test_a_token_is_taken_once(run: Run, make_entry: Callable[..., Entry]) -> None:
    async def scenario(store: Store) -> None:
        await store.add_token(JoinToken(b"d" * 32, 100), make_entry("/node"), now=1)
        with pytest.raises(AlreadyExists):
            await store.add_token(JoinToken(b"d" * 32, 100), None, now=1)
        taken = await asyncio.gather(*(store.take_token(b"d" * 32) for _ in range(8)))
        assert [token for token in taken if token] == [JoinToken(b"d" * 32, 100)]
        assert len((await store.changes_after(0)).entries) == 1
        await store.add_token(JoinToken(b"e" * 32, 100), None, now=1)
        assert await store.prune_tokens(expired_before=101) == 1

    run(scenario)


def test_federated_bundles_and_the_entries_that_need_them(run: Run, make_entry: Callable[..., Entry]) -> None:
    federated = Bundle(OTHER, (), (JwtAuthority("k", b"spki", 5, True),), 2**64 - 1, 300)

    async def scenario(store: Store) -> None:
        entry = make_entry("/web", id="web", federates_with=(OTHER,))
        [refused] = await store.create_entries([entry], now=1)
        assert isinstance(refused.error, InvalidInput)
        [created] = await store.create_bundles([federated])
        assert created.error is None
        [twice] = await store.create_bundles([federated])
        assert isinstance(twice.error, AlreadyExists)
        assert (await store.changes_after(0)).bundles == {OTHER: federated}
        await store.create_entries([entry], now=1)
        [restricted, unknown] = await store.delete_bundles([OTHER, TrustDomain("x")], DeleteMode.RESTRICT)
        assert isinstance(restricted.error, FailedPrecondition) and isinstance(unknown.error, NotFound)
        await store.delete_bundles([OTHER], DeleteMode.DISSOCIATE)
        state = await store.changes_after(0)
        assert state.bundles == {} and state.entries["web"].federates_with == ()  # type: ignore[union-attr]
        await store.set_bundles([federated])
        await store.update_entries(
            [EntryUpdate("web", lambda entry: replace(entry, federates_with=(OTHER,)))]
        )
        [changed, missing] = await store.update_bundles(
            [
                (OTHER, lambda bundle: replace(bundle, refresh_hint_seconds=9)),
                (TrustDomain("x"), lambda bundle: bundle),
            ]
        )
        assert changed.bundle == replace(federated, refresh_hint_seconds=9)
        assert isinstance(missing.error, NotFound)
        await store.delete_bundles([OTHER], DeleteMode.DELETE)
        assert (await store.changes_after(0)).entries == {}

    run(scenario)


def test_additions_to_our_own_bundle(run: Run) -> None:
    async def scenario(store: Store) -> None:
        assert (await store.own_additions(TD)) == Bundle(TD)
        before = (await store.changes_after(0)).sequence
        grown = await store.append_to_own(Bundle(TD, (), (JwtAuthority("k", b"spki"),)))
        assert grown.sequence == 1 and len(grown.jwt_authorities) == 1
        assert await store.append_to_own(Bundle(TD, (), (JwtAuthority("k", b"spki"),))) == grown
        assert await store.own_additions(TD) == grown
        changes = await store.changes_after(before)
        assert changes.authorities and TD not in changes.bundles

    run(scenario)


def test_a_commit_is_announced(run: Run, make_entry: Callable[..., Entry]) -> None:
    async def scenario(store: Store) -> None:
        told = asyncio.Event()
        store.on_change(told.set)
        await store.create_entries([make_entry("/a")], now=1)
        async with asyncio.timeout(1):
            await told.wait()
        assert told.is_set()

    run(scenario)


def test_quarantine_is_idempotent_numbered_and_told(run: Run, make_entry: Callable[..., Entry]) -> None:
    web, api = SpiffeId(TD, "/web"), SpiffeId(TrustDomain("other.org"), "/api")

    async def scenario(store: Store) -> None:
        await store.create_entries([make_entry("/web")], now=1)
        start = (await store.changes_after(0)).sequence
        assert not await store.release(web), "nobody is cut off yet"
        assert (await store.changes_after(start)).quarantine is None, "so nothing changed"
        assert await store.quarantine(Quarantined(web, "odd calls", "olga", 7))
        assert not await store.quarantine(Quarantined(web, "again", "eve", 8)), "the first reason stays"
        assert await store.quarantine(Quarantined(api, "theirs", "olga", 9), "its trace")
        assert not await store.quarantine(Quarantined(api, "theirs", "olga", 9), "another")
        changes = await store.changes_after(start)
        assert changes.quarantine is not None and changes.quarantine.trace == "its trace"
        assert changes.quarantine is not None and changes.quarantine.revision == 2
        assert changes.quarantine.members[web] == Quarantined(web, "odd calls", "olga", 7)
        assert changes.quarantine.spiffe_ids == {web, api} and not changes.full
        assert await store.release(web)
        whole = await store.changes_after(0)
        assert whole.full and whole.quarantine is not None
        assert (whole.quarantine.revision, whole.quarantine.spiffe_ids) == (3, {api})
        assert whole.quarantine.trace == "", "of the last change"

    run(scenario)


def test_quarantine_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.identity.storage_rules.MAX_QUARANTINED", 2)

    async def scenario(store: Store) -> None:
        for name in ("/a", "/b"):
            assert await store.quarantine(Quarantined(SpiffeId(TD, name), "r", "olga", 1))
        with pytest.raises(ResourceExhausted, match="at most 2"):
            await store.quarantine(Quarantined(SpiffeId(TD, "/c"), "r", "olga", 1))
        assert not await store.quarantine(Quarantined(SpiffeId(TD, "/a"), "r", "olga", 1))

    run(scenario)
