"""The state of the authorities: what each step changes, and what is stored of it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from authority_slots import DAY, DOMAIN, NOW, ids, issuing, slot, started

from control_plane.authority import state_json, steps
from control_plane.authority.memory_store import MemoryAuthorityStore
from control_plane.authority.schedule import (
    CA_BACKDATE_SECONDS,
)
from control_plane.authority.state import (
    AuthorityState,
    Kind,
    Status,
    bundle_of,
)
from control_plane.core.errors import Corrupt, FailedPrecondition, NotFound

both = pytest.mark.parametrize("kind", list(Kind))


@both
def test_preparing_publishes_and_does_not_sign(kind: Kind) -> None:
    state = steps.prepare(AuthorityState(DOMAIN), slot(kind, 0), NOW)
    (made,) = state.slots(kind)
    assert (made.status, made.published_sequence, state.bundle_sequence) == (Status.PREPARED, 1, 1)
    assert ids(state, kind) == [made.authority_id]
    assert state.active_x509 is None and state.active_jwt is None


@both
def test_activating_changes_who_signs_and_not_the_bundle(kind: Kind) -> None:
    before = steps.prepare(started(kind), slot(kind, 1), NOW)
    after = steps.activate(before, kind, slot(kind, 1).authority_id, NOW + 5)
    assert [s.status for s in after.slots(kind)] == [Status.OLD, Status.ACTIVE]
    assert after.slots(kind)[1].activated_at == NOW + 5
    assert bundle_of(before) == bundle_of(after)


@both
def test_only_one_can_be_prepared(kind: Kind) -> None:
    state = steps.prepare(started(kind), slot(kind, 1), NOW)
    with pytest.raises(FailedPrecondition, match="already prepared"):
        steps.prepare(state, slot(kind, 2), NOW)
    state = steps.revoke(state, kind, slot(kind, 1).authority_id)
    assert steps.prepare(state, slot(kind, 2), NOW).with_status(kind, Status.PREPARED) is not None
    with pytest.raises(FailedPrecondition, match="exists"):
        steps.prepare(state, slot(kind, 0), NOW)


@both
def test_tainting_marks_the_bundle_and_only_old_ones_can_be(kind: Kind) -> None:
    state = started(kind, 2)
    old, active = (s.authority_id for s in state.slots(kind))
    tainted = steps.taint(state, kind, old)
    bundle = bundle_of(tainted)
    flags = [a.tainted for a in (bundle.x509_authorities if kind is Kind.X509 else bundle.jwt_authorities)]
    assert flags == [True, False] and tainted.bundle_sequence == state.bundle_sequence + 1
    with pytest.raises(FailedPrecondition, match="prepare and activate another"):
        steps.taint(state, kind, active)
    with pytest.raises(FailedPrecondition, match="old and tainted"):
        steps.taint(tainted, kind, old)


@both
def test_revoking_takes_out_of_the_bundle_after_tainting(kind: Kind) -> None:
    state = started(kind, 2)
    old, active = (s.authority_id for s in state.slots(kind))
    with pytest.raises(FailedPrecondition, match="taint it first"):
        steps.revoke(state, kind, old)
    with pytest.raises(FailedPrecondition):
        steps.revoke(state, kind, active)
    revoked = steps.revoke(steps.taint(state, kind, old), kind, old)
    assert ids(revoked, kind) == [active]
    assert revoked.bundle_sequence == state.bundle_sequence + 2
    for again in (steps.revoke, steps.taint):
        with pytest.raises(FailedPrecondition, match="revoked"):
            again(revoked, kind, old)


@both
def test_a_revoked_or_old_authority_never_signs_again(kind: Kind) -> None:
    state = steps.prepare(started(kind, 2), slot(kind, 2), NOW)
    discarded = steps.revoke(state, kind, slot(kind, 2).authority_id)
    for number in (0, 1, 2):
        with pytest.raises(FailedPrecondition, match="only a prepared one"):
            steps.activate(discarded, kind, slot(kind, number).authority_id, NOW)


@both
def test_unknown_names(kind: Kind) -> None:
    for step in (steps.taint, steps.revoke, lambda s, k, i: steps.activate(s, k, i, NOW)):
        with pytest.raises(NotFound, match="authority"):
            step(started(kind), kind, "nobody\n")


@both
def test_an_authority_whose_time_is_not_now_is_not_activated(kind: Kind) -> None:
    state = steps.prepare(AuthorityState(DOMAIN), slot(kind, 0), NOW)
    for now in (NOW - CA_BACKDATE_SECONDS - 1, NOW + 8 * DAY):
        with pytest.raises(FailedPrecondition, match="valid from"):
            steps.activate(state, kind, slot(kind, 0).authority_id, now)


@both
def test_pruning_forgets_and_never_the_active_one(kind: Kind) -> None:
    state = started(kind, 3)
    old = frozenset(s.authority_id for s in state.slots(kind)[:2])
    pruned = steps.prune(state, kind, old)
    assert len(pruned.slots(kind)) == 1 and pruned.bundle_sequence == state.bundle_sequence + 1
    with pytest.raises(FailedPrecondition, match="is active"):
        steps.prune(state, kind, old | {state.slots(kind)[2].authority_id})


def test_a_fresh_issuing_ca_leaves_the_bundle_alone() -> None:
    state = started(Kind.X509, 2)
    fresh = issuing(1, NOW + 3 * DAY)
    after = steps.replace_issuing(state, f"{1:040x}", fresh)
    assert after.x509[1].issuing == fresh and bundle_of(after) == bundle_of(state)
    with pytest.raises(FailedPrecondition, match="signs nothing more"):
        steps.replace_issuing(state, f"{0:040x}", fresh)
    with pytest.raises(FailedPrecondition, match="after its root"):
        steps.replace_issuing(state, f"{1:040x}", replace(fresh, not_after=NOW + 400 * DAY))


def test_states_read_back_from_json() -> None:
    state = AuthorityState(DOMAIN)
    for kind in Kind:
        for number in range(2):
            state = steps.prepare(state, slot(kind, number), NOW)
            state = steps.activate(state, kind, slot(kind, number).authority_id, NOW)
        state = steps.taint(state, kind, slot(kind, 0).authority_id)
    assert state_json.parse(state_json.dump(state)) == state
    assert state_json.parse(state_json.dump(AuthorityState(DOMAIN))) == AuthorityState(DOMAIN)
    assert "PRIVATE" not in state_json.dump(state)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: text[:-2],
        lambda text: text.replace('"form": 1', '"form": 2'),
        lambda text: text.replace("active", "asleep"),
        lambda text: text.replace('"root":', '"roof":'),
        lambda text: text.replace("example.org", "Example.org"),
    ],
)
def test_spoiled_states_are_refused(spoil: Any) -> None:
    with pytest.raises(Corrupt):
        state_json.parse(spoil(state_json.dump(started(Kind.X509))))


async def stored_after_changes_in_turn() -> AuthorityState:
    store = MemoryAuthorityStore(DOMAIN)
    version, state = await store.load()
    assert (version, state) == (0, AuthorityState(DOMAIN))
    version = await store.save(0, started(Kind.X509))
    with pytest.raises(FailedPrecondition, match="somebody else"):
        await store.save(0, started(Kind.JWT))
    with pytest.raises(FailedPrecondition, match="go back"):
        await store.save(version, AuthorityState(DOMAIN))
    return (await store.load())[1]


def test_the_store_takes_changes_in_turn() -> None:
    assert asyncio.run(stored_after_changes_in_turn()) == started(Kind.X509)
