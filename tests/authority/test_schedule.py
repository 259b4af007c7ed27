"""What falls due when: each step of the schedule, and any order of steps at any time."""

from dataclasses import replace
from typing import Any

import pytest
from authority_slots import DAY, DEFAULT, DOMAIN, HOUR, NOW, ids, issuing, jwt_slot, slot, started, x509_slot
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.authority import quarantine, steps
from control_plane.authority.schedule import (
    Activate,
    Lifetimes,
    Prepare,
    Prune,
    RenewIssuing,
    Withhold,
    due,
)
from control_plane.authority.state import (
    AuthorityState,
    Kind,
    Status,
    bundle_of,
)
from control_plane.core.errors import FailedPrecondition, InvalidInput


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"leaf_ttl_seconds": 29 * HOUR}, "6 × 29 h = 174 h are needed, 6 h are missing"),
        ({"issuing_ttl_seconds": 24 * HOUR}, "6 × 24 h = 144 h"),
        ({"root_ttl_seconds": 20 * DAY}, "4 × 604800 = 2419200 s are needed"),
        ({"jwt_key_ttl_seconds": 3599}, "12 × 300 = 3600 s are needed"),
    ],
)
def test_lifetimes_that_cannot_work_are_refused_with_the_arithmetic(
    changes: dict[str, int], needle: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Lifetimes(**changes)
    assert needle in str(caught.value)


def test_the_first_steps() -> None:
    state, done = AuthorityState(DOMAIN), []
    while (decision := due(state, NOW, DEFAULT, lambda sequence: False)) is not None:
        done.append(type(decision))
        state = apply(state, decision, NOW, DEFAULT, len(done))
    assert done == [Prepare, Activate, Prepare, Activate]


def test_the_next_authority_waits_for_the_agents() -> None:
    state = started(Kind.JWT)
    state = replace(state, x509=started(Kind.X509).x509)
    ttl = DEFAULT.jwt_key_ttl_seconds
    prepared_at = NOW + ttl - ttl // 6 - 60
    state = steps.prepare(state, jwt_slot(1, prepared_at), prepared_at)
    state = replace(state, x509=tuple(replace(s, issuing=issuing(0, prepared_at)) for s in state.x509))
    later = prepared_at + 901
    assert due(state, later, DEFAULT, lambda sequence: False) is None
    asked: list[int] = []

    def confirmed(sequence: int) -> bool:
        asked.append(sequence)
        return True

    assert due(state, prepared_at + 120, DEFAULT, confirmed) is None, "published for too short a time"
    decision = due(state, later, DEFAULT, confirmed)
    assert isinstance(decision, Activate) and decision.authority_id == "jwt-1"
    assert asked == [state.slots(Kind.JWT)[1].published_sequence]
    assert isinstance(due(state, prepared_at + DAY, DEFAULT, lambda sequence: False), Activate)


def test_nothing_waits_when_svids_would_be_cut_short() -> None:
    state = started(Kind.JWT)
    state = replace(state, x509=started(Kind.X509).x509)
    end = NOW + DEFAULT.jwt_key_ttl_seconds
    state = steps.prepare(state, jwt_slot(1, end - 700), end - 700)
    state = replace(state, x509=tuple(replace(s, issuing=issuing(0, end)) for s in state.x509))
    assert due(state, end - 601, DEFAULT, lambda sequence: False) is None
    assert isinstance(due(state, end - 600, DEFAULT, lambda sequence: False), Activate)


def apply(
    state: AuthorityState, decision: Any, now: int, lifetimes: Lifetimes, number: int
) -> AuthorityState:
    match decision:
        case Prepare(kind=kind):
            return steps.prepare(state, slot(kind, number, now, lifetimes), now)
        case Activate(kind=kind, authority_id=authority_id):
            return steps.activate(state, kind, authority_id, now)
        case RenewIssuing(authority_id=authority_id):
            return steps.replace_issuing(state, authority_id, issuing(number, now, lifetimes))
        case Prune(kind=kind, authority_ids=authority_ids):
            return steps.prune(state, kind, authority_ids)
        case Withhold(kind=kind, authority_id=authority_id):
            return quarantine.withhold(state, kind, authority_id)
    raise AssertionError(decision)


@pytest.mark.parametrize("left", [-1, 0, 1, DEFAULT.leaf_ttl_seconds, DEFAULT.issuing_ttl_seconds - 1])
def test_a_prepared_root_that_waited_too_long_doesnt_keep_the_next_one_from_coming(left: int) -> None:
    """An operator prepared it, then nobody looked for the life of a root: it can't sign a leaf any more."""
    state = steps.prepare(started(Kind.X509), x509_slot(2, NOW), NOW)
    state = steps.prepare(state, jwt_slot(1, NOW), NOW)
    now = NOW + DEFAULT.root_ttl_seconds - left
    for number in range(10, 26):
        decision = due(state, now, DEFAULT, lambda sequence: False)
        if decision is None:
            break
        state = apply(state, decision, now, DEFAULT, number)
    assert state.active_x509 is not None
    assert state.active_x509.last_valid >= now + DEFAULT.leaf_ttl_seconds


class AnyOrder(RuleBasedStateMachine):
    """The scheduler ticks, operators interfere, time passes and sometimes jumps, agents lag behind."""

    @initialize(
        leaf=st.sampled_from([60, HOUR, DAY]),
        factor=st.integers(6, 9),
        roots=st.integers(4, 60),
        jwt_factor=st.integers(12, 2000),
    )
    def start(self, leaf: int, factor: int, roots: int, jwt_factor: int) -> None:
        self.lifetimes = Lifetimes(
            leaf_ttl_seconds=leaf,
            issuing_ttl_seconds=leaf * factor,
            root_ttl_seconds=leaf * factor * roots,
            jwt_key_ttl_seconds=300 * jwt_factor,
        )
        self.now = NOW
        self.number = 0
        self.all_confirmed = False
        self.state = AuthorityState(DOMAIN)
        self.signed: list[tuple[str, int]] = []
        self.tick()

    def change(self, state: AuthorityState) -> None:
        before, after = bundle_of(self.state), bundle_of(state)
        assert before.same_content(after) == (before.sequence == after.sequence)
        assert after.sequence >= before.sequence
        for kind in Kind:
            active = state.with_status(kind, Status.ACTIVE)
            if active is not None and state.slots(kind) != self.state.slots(kind) and self.state.slots(kind):
                assert active.authority_id in ids(self.state, kind), "published before it signs"
        self.state = state

    @rule()
    def tick(self) -> None:
        for _ in range(16):
            decision = due(self.state, self.now, self.lifetimes, lambda sequence: self.all_confirmed)
            if decision is None:
                return
            self.number += 1
            self.change(apply(self.state, decision, self.now, self.lifetimes, self.number))
        raise AssertionError("steps without end")

    @rule(shares=st.lists(st.floats(0, 1), min_size=1, max_size=12), yes=st.booleans())
    def time_passes(self, shares: list[float], yes: bool) -> None:
        """Between two looks management may be away for all that an issuing CA has to spare."""
        spare = self.lifetimes.issuing_ttl_seconds // 2 - self.lifetimes.leaf_ttl_seconds
        self.all_confirmed = yes
        for share in shares:
            self.now += int(share * spare)
            self.a_whole_leaf_could_be_signed()
            self.tick()

    def a_whole_leaf_could_be_signed(self) -> None:
        active = self.state.active_x509
        assert active is not None
        assert self.now + self.lifetimes.leaf_ttl_seconds <= active.last_valid, "a leaf would be cut short"

    @rule(seconds=st.integers(-600, 600))
    def the_clock_jumps(self, seconds: int) -> None:
        self.now += seconds
        self.tick()

    @rule(kind=st.sampled_from(list(Kind)))
    def operator_prepares(self, kind: Kind) -> None:
        self.number += 1
        self.attempt(
            lambda: steps.prepare(self.state, slot(kind, self.number, self.now, self.lifetimes), self.now)
        )

    @rule(
        kind=st.sampled_from(list(Kind)),
        index=st.integers(0, 5),
        what=st.sampled_from(["activate", "taint", "revoke"]),
    )
    def operator_commands(self, kind: Kind, index: int, what: str) -> None:
        slots = self.state.slots(kind)
        chosen = slots[index % len(slots)].authority_id
        if what == "activate":
            self.attempt(lambda: steps.activate(self.state, kind, chosen, self.now))
        else:
            step = steps.taint if what == "taint" else steps.revoke
            self.attempt(lambda: step(self.state, kind, chosen))

    def attempt(self, step: Any) -> None:
        try:
            self.change(step())
        except FailedPrecondition:
            return

    @rule()
    def a_leaf_is_signed(self) -> None:
        self.tick()
        active = self.state.active_x509
        assert active is not None
        end = self.now + self.lifetimes.leaf_ttl_seconds
        assert end <= active.issuing.not_after <= active.not_after, "a leaf would be cut short"
        self.signed.append((active.authority_id, end))

    @precondition(lambda self: self.signed)
    @rule()
    def leaves_still_verify(self) -> None:
        published = ids(self.state, Kind.X509)
        revoked = {s.authority_id for s in self.state.x509 if s.revoked}
        for authority_id, end in self.signed:
            if end > self.now and authority_id not in revoked:
                assert authority_id in published, "a valid leaf lost its root"

    @invariant()
    def whatever_is_active_is_in_the_bundle(self) -> None:
        if not hasattr(self, "state"):
            return
        for kind in Kind:
            active = [s for s in self.state.slots(kind) if s.status is Status.ACTIVE]
            prepared = [s for s in self.state.slots(kind) if s.status is Status.PREPARED]
            assert len(active) == 1 and len(prepared) <= 1
            assert not active[0].revoked and not active[0].tainted
            assert active[0].authority_id in ids(self.state, kind)
            assert active[0].published_sequence <= self.state.bundle_sequence


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
