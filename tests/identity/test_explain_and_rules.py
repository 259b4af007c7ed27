"""Small rules: explanations, filters, serials, confirmations."""

import asyncio
import os
from collections.abc import Callable

import pytest

from control_plane.core.entry import Entry
from control_plane.core.errors import DenialReason, Unavailable
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import TrustDomain, agent_id
from control_plane.identity.agent_record import AgentRecord, Verdict, judge_serial
from control_plane.identity.confirmations import Confirmations
from control_plane.identity.explain import explain
from control_plane.identity.matching import SetMatch, matches
from control_plane.identity.memory import MemoryStore

TD = TrustDomain("example.org")
AGENT = agent_id(TD, "join_token", "a")


def test_explain_names_matches_near_misses_and_wrong_parents(make_entry: Callable[..., Entry]) -> None:
    web = make_entry("/web", id="web", selectors=("unix:uid:1",), created_at=5)
    first = make_entry("/first", id="first", selectors=("unix:uid:1", "unix:gid:1"), priority=1, created_at=9)
    typo = make_entry("/typo", id="typo", selectors=("unix:uid:1", "unix:user:wbe"))
    far = make_entry("/far", id="far", selectors=("k8s:ns:a", "k8s:sa:b"))
    expired = make_entry("/expired", id="expired", expires_at=10)
    other = make_entry("/other", id="other", parent="/elsewhere")
    attested = frozenset(Selector.parse(text) for text in ("unix:uid:1", "unix:gid:1"))
    inside = [web, first, typo, far, expired]
    found = explain(attested, inside, [*inside, other], now=11, x509_ttl_seconds=60, jwt_ttl_seconds=30)
    assert [(match.entry.id, match.is_default) for match in found.matches] == [
        ("first", True),
        ("web", False),
    ]
    assert found.matches[0].x509_svid_ttl_seconds == 60
    assert [(near.entry.id, str(near.missing)) for near in found.near] == [("typo", "unix:user:wbe")]
    assert [entry.id for entry in found.elsewhere] == ["expired", "other"]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (SetMatch.EXACT, {"ab"}),
        (SetMatch.SUBSET, {"a", "ab"}),
        (SetMatch.SUPERSET, {"ab", "abc"}),
        (SetMatch.ANY, {"a", "ab", "abc", "ac"}),
    ],
)
def test_set_filters(behaviour: SetMatch, expected: set[str]) -> None:
    things = ["", "a", "ab", "abc", "c", "ac"]
    assert {thing for thing in things if matches(set(thing), {"a", "b"}, behaviour)} == expected


def test_serials() -> None:
    record = AgentRecord(
        id=AGENT, attestation_type="x", serial=1, expires_at=10, new_serial=2, new_expires_at=20
    )
    assert judge_serial(record, 1) is Verdict.ACTIVE
    assert judge_serial(record, 2) is Verdict.PROMOTE
    assert judge_serial(record.promoted(), 1) is Verdict.REPLAYED
    assert judge_serial(record.promoted(), 2) is Verdict.ACTIVE
    assert judge_serial(record.promoted(), 0) is Verdict.REPLAYED
    assert judge_serial(None, 1) is Verdict.NOT_ATTESTED
    banned = AgentRecord(id=AGENT, attestation_type="x", banned=True)
    assert judge_serial(banned, 0).reason is DenialReason.AGENT_BANNED
    assert judge_serial(record, 3).reason is DenialReason.AGENT_NOT_ACTIVE
    assert record.is_live(19) and not record.is_live(20) and not banned.is_live(0)


def test_confirmations_survive_a_failed_write() -> None:
    class Flaky(MemoryStore):
        broken = True

        async def confirm_bundles(self, sequences):  # type: ignore[no-untyped-def]
            if self.broken:
                raise Unavailable("storing: the disk is full")
            await super().confirm_bundles(sequences)

    async def scenario() -> None:
        store = Flaky(TD, os.urandom)
        await store.record_attestation(AgentRecord(id=AGENT, attestation_type="x", serial=1, expires_at=99))
        confirmations = Confirmations(store)
        confirmations.note(AGENT, 3)
        with pytest.raises(Unavailable):
            await confirmations.flush()
        store.broken = False
        confirmations.note(AGENT, 2)  # an older answer that arrived late
        await confirmations.flush()
        assert await store.count_unconfirmed(3, now=1) == 0

    asyncio.run(scenario())
