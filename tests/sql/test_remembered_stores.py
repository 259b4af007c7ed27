"""Whatever a store writes, its remembered reads show it: to the writer at once, to other processes soon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from control_plane.authority.state import AuthorityState
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.quarantine import Quarantined
from control_plane.rollout.assignment import Assignment, Cause, SignedBundle
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.steps import Closed, Evaluated, Life
from control_plane.rollout.version import PolicySource, PolicyVersion, SignedVersion
from control_plane.sql import policy_queries
from control_plane.sql.authority_store import SqlAuthorityStore
from control_plane.sql.database import prepare
from control_plane.sql.rollout_store import SqlRolloutStore
from control_plane.sql.store import SqlStore

TD = TrustDomain("example.org")
KEY = PolicyKey("policy-1", b"a public key", 1)
SOURCE = PolicySource.of({"a.rego": "package a\n"}, "mesh: {}\n")

Step = tuple[str, Callable[[SqlRolloutStore], Awaitable[object]]]
Scenario = Callable[[SqlStore, SqlStore], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs something with the stores of two processes over one database."""
    prepare(tmp_path / "registry.db")

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            ours, theirs = (SqlStore(tmp_path / "registry.db", TD, os.urandom) for _ in range(2))
            try:
                await scenario(ours, theirs)
            finally:
                await ours.close()
                await theirs.close()

        asyncio.run(main())

    return run


def version(number: int) -> SignedVersion:
    made = PolicyVersion(
        number=number, digest="ab", content_digest="cd", author="ada", reason="a test", created_at=1
    )
    return SignedVersion(made, b"signed", KEY.key_id)


def assigned(sequence: int, percent: int = 100) -> Callable[[SqlRolloutStore], Awaitable[object]]:
    assignment = Assignment(
        sequence=sequence,
        version=1,
        digest="ab",
        percent=percent,
        cause=Cause.APPLY,
        by="ada",
        reason="x",
        at=2,
    )
    # Past the rules of a life, which are of no interest here.
    return lambda store: store._thread.write(
        "", lambda connection: policy_queries.assign(connection, LIFE, STEP, assignment, BUNDLE)
    )


LIFE = Life(1, (Evaluated(at=1, files=1, tests=0),))
STEP = Closed(at=1, by="ada", reason="x", how="withdrawn")
BUNDLE = SignedBundle(b"payload", b"signature", KEY.key_id)
WRITES: list[Step] = [
    ("a key", lambda store: store.add_key(KEY)),
    ("a version", lambda store: store.add_version(version(1), SOURCE)),
    ("its first step", lambda store: store.add_step(Life(1), LIFE.steps[0])),
    ("another version", lambda store: store.add_version(version(2), SOURCE)),
    ("an assignment", assigned(1)),
    ("a key that retires", lambda store: store.retire_key(KEY.key_id)),
    ("another key", lambda store: store.add_key(PolicyKey("policy-2", b"another", 2))),
]


async def seen(store: SqlRolloutStore) -> list[Any]:
    """All that is remembered of policies."""
    return [
        await store.versions(0, 50),
        await store.assignments(0, 50),
        await store.in_force(),
        await store.keys(),
    ]


def test_every_write_to_policies_is_read_at_once_and_by_others_soon(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(ours: SqlStore, theirs: SqlStore) -> None:
        store, other = SqlRolloutStore(ours.thread), SqlRolloutStore(theirs.thread)
        before = await seen(store)
        await seen(other)
        for what, write in WRITES:
            await write(store)
            now = await seen(store)
            assert now != before, f"{what} isn't seen by its writer"
            async with asyncio.timeout(30):
                while await seen(other) != now:  # noqa: ASYNC110 -- it has no event
                    await asyncio.sleep(0.005)
            before = now

    run(scenario)


def test_every_state_of_the_authorities_is_read_at_once_and_by_others_soon(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(ours: SqlStore, theirs: SqlStore) -> None:
        store, other = SqlAuthorityStore(ours.thread, TD), SqlAuthorityStore(theirs.thread, TD)
        assert (await store.load())[0] == (await other.load())[0] == 0
        for expected in range(3):
            assert (
                await store.save(expected, AuthorityState(TD, bundle_sequence=expected + 1)) == expected + 1
            )
            assert (await store.load()) == (expected + 1, AuthorityState(TD, bundle_sequence=expected + 1))
            async with asyncio.timeout(30):
                while (await other.load())[0] != expected + 1:  # noqa: ASYNC110 -- it has no event
                    await asyncio.sleep(0.005)

    run(scenario)


def test_what_others_change_costs_no_read_of_policies(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    real = policy_queries.versions

    def counted(connection: Connection, before: int, limit: int) -> list[tuple[SignedVersion, Life]]:
        reads.append(limit)
        return real(connection, before, limit)

    monkeypatch.setattr(policy_queries, "versions", counted)

    async def scenario(ours: SqlStore, theirs: SqlStore) -> None:
        store = SqlRolloutStore(ours.thread)
        await store.versions(0, 50)
        await ours.quarantine(
            Quarantined(SpiffeId(TD, "/first"), "a test", "ada", 1)
        )  # the mark is known now
        await store.versions(0, 50)
        reads.clear()
        heard = asyncio.Event()
        ours.on_change(heard.set)
        for number, registry in enumerate((ours, theirs) * 3):
            member = Quarantined(SpiffeId(TD, f"/odd/{number}"), "a test", "ada", 1)
            assert await registry.quarantine(member)
            await asyncio.wait_for(heard.wait(), 30)
            heard.clear()
            assert await store.versions(0, 50) == []
        assert not reads

    run(scenario)


def test_a_write_that_changes_nothing_is_no_news(run: Callable[[Scenario], None]) -> None:
    async def scenario(ours: SqlStore, theirs: SqlStore) -> None:
        told: list[int] = []
        member = Quarantined(SpiffeId(TD, "/odd"), "a test", "ada", 1)
        await ours.quarantine(member)
        ours.on_change(lambda: told.append(1))
        assert not await ours.quarantine(member)
        await ours.prune_tokens(1)
        await ours.prune_changes(1000)
        assert not told
        await ours.release(member.spiffe_id)
        assert told

    run(scenario)
