"""Every authority is in the ledger before it is stored."""

import asyncio
import os
from pathlib import Path

import pytest

from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.lifecycle import AuthorityLifecycle
from control_plane.authority.make import Maker
from control_plane.authority.memory_store import MemoryAuthorityStore
from control_plane.authority.schedule import Lifetimes
from control_plane.authority.state import AuthorityState, Kind
from control_plane.core.errors import ResourceExhausted
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.authority_ledger import authority_records
from control_plane.identity.journal import Journal
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import AuthorityRecord
from control_plane.runtime.clock import FakeClock

DOMAIN = TrustDomain("example.org")


async def confirmed(sequence: int) -> bool:
    return True


async def rotate(directory: Path) -> AuthorityState:
    clock, keys, store, lifetimes = (
        FakeClock(),
        MemoryKeyManager(os.urandom),
        MemoryAuthorityStore(DOMAIN),
        Lifetimes(),
    )
    maker = Maker(keys, DOMAIN, lifetimes, random_bytes=os.urandom)
    journal = Journal(directory, 0, clock)
    await journal.start()

    async def intend(before: AuthorityState, after: AuthorityState) -> None:
        assert (await store.load())[1] == before, "recorded before it is stored"
        await journal.append(authority_records(before, after, clock.unix()))

    lifecycle = AuthorityLifecycle(store, keys, maker, lifetimes, clock, confirmed=confirmed, intend=intend)
    await lifecycle.tick()
    old = (await store.load())[1].x509[0].authority_id
    prepared = await lifecycle.prepare(Kind.X509)
    await lifecycle.activate(Kind.X509, prepared.authority_id)
    await lifecycle.taint(Kind.X509, old)
    await lifecycle.revoke(Kind.X509, old)
    clock.advance(9 * 86400)
    await lifecycle.tick()
    await journal.close()
    return (await store.load())[1]


def test_each_step_and_each_certificate_is_recorded(tmp_path: Path) -> None:
    state = asyncio.run(rotate(tmp_path))
    records = [entry.record for entry in read_journals(tmp_path)]
    assert all(isinstance(record, AuthorityRecord) for record in records)
    made = [record for record in records if isinstance(record, AuthorityRecord)]
    first = [record for record in made if record.authority_kind == "x509"]
    assert [record.event for record in first[:8]] == [
        "prepared",
        "issuing-ca",
        "activated",
        "prepared",
        "issuing-ca",
        "activated",
        "tainted",
        "revoked",
    ]
    assert "forgotten" in [record.event for record in first]
    known = {record.certificate for record in made}
    for slot in state.x509:
        assert {slot.root, slot.issuing.certificate} <= known
    for key in state.jwt:
        assert key.public_key in known


def test_a_step_that_cannot_be_recorded_is_not_taken() -> None:
    async def test() -> None:
        clock, keys, store, lifetimes = (
            FakeClock(),
            MemoryKeyManager(os.urandom),
            MemoryAuthorityStore(DOMAIN),
            Lifetimes(),
        )
        maker = Maker(keys, DOMAIN, lifetimes, random_bytes=os.urandom)

        async def intend(before: AuthorityState, after: AuthorityState) -> None:
            raise ResourceExhausted("disk full")

        lifecycle = AuthorityLifecycle(
            store, keys, maker, lifetimes, clock, confirmed=confirmed, intend=intend
        )
        with pytest.raises(ResourceExhausted):
            await lifecycle.tick()
        assert await store.load() == (0, AuthorityState(DOMAIN))

    asyncio.run(test())
