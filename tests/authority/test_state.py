"""The authorities' state machine: each step, and any order of steps at any time."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.authority import quarantine, state_json, steps
from control_plane.authority.memory_store import MemoryAuthorityStore
from control_plane.authority.schedule import (
    CA_BACKDATE_SECONDS,
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
    CutOff,
    IssuingCa,
    JwtSlot,
    Kind,
    Slot,
    Status,
    X509Slot,
    bundle_of,
)
from control_plane.core.errors import Corrupt, FailedPrecondition, InvalidInput, NotFound
from control_plane.core.spiffe_id import TrustDomain

DOMAIN = TrustDomain("example.org")
NOW = 1_800_000_000
HOUR, DAY = 3600, 86400
DEFAULT = Lifetimes()


def x509_slot(number: int, now: int, lifetimes: Lifetimes = DEFAULT) -> X509Slot:
    return X509Slot(
        authority_id=f"{number:040x}",
        root=b"root %d" % number,
        root_key_id=f"root-{number}",
        not_before=now - CA_BACKDATE_SECONDS,
        not_after=now + lifetimes.root_ttl_seconds,
        issuing=issuing(number, now, lifetimes),
    )


def issuing(number: int, now: int, lifetimes: Lifetimes = DEFAULT) -> IssuingCa:
    return IssuingCa(
        b"issuing %d %d" % (number, now),
        f"issuing-{number}-{now}",
        now - CA_BACKDATE_SECONDS,
        now + lifetimes.issuing_ttl_seconds,
    )


def jwt_slot(number: int, now: int, lifetimes: Lifetimes = DEFAULT) -> JwtSlot:
    return JwtSlot(
        authority_id=f"jwt-{number}",
        public_key=b"key %d" % number,
        key_id=f"jwt-key-{number}",
        not_before=now - CA_BACKDATE_SECONDS,
        not_after=now + lifetimes.jwt_key_ttl_seconds,
    )


def slot(kind: Kind, number: int, now: int = NOW, lifetimes: Lifetimes = DEFAULT) -> Slot:
    return x509_slot(number, now, lifetimes) if kind is Kind.X509 else jwt_slot(number, now, lifetimes)


def started(kind: Kind, count: int = 1) -> AuthorityState:
    """A state with `count` authorities that were active one after another; the last one is."""
    state = AuthorityState(DOMAIN)
    for number in range(count):
        made = slot(kind, number)
        state = steps.prepare(state, made, NOW)
        state = steps.activate(state, kind, made.authority_id, NOW)
    return state


def ids(state: AuthorityState, kind: Kind) -> list[str]:
    bundle = bundle_of(state)
    if kind is Kind.X509:
        roots = {s.root: s.authority_id for s in state.x509}
        return [roots[authority.certificate] for authority in bundle.x509_authorities]
    return [authority.key_id for authority in bundle.jwt_authorities]


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


def test_a_quarantine_is_read_back_and_ends_in_the_bundle_after_its_grace() -> None:
    state = AuthorityState(DOMAIN)
    for number in (1, 2):
        state = steps.prepare(state, x509_slot(number, NOW), NOW)
        state = steps.activate(state, Kind.X509, f"{number:040x}", NOW)
    old = f"{1:040x}"
    cut = quarantine.quarantine(state, Kind.X509, old, CutOff(NOW, "olga", "why"), None)
    assert state_json.parse(state_json.dump(cut)) == cut
    assert [one.tainted for one in bundle_of(cut).x509_authorities] == [True, False]
    assert quarantine.due(cut, Kind.X509, NOW + quarantine.GRACE_SECONDS - 1) is None
    assert quarantine.due(cut, Kind.X509, NOW + quarantine.GRACE_SECONDS) == old
    gone = quarantine.withhold(cut, Kind.X509, old)
    assert len(bundle_of(gone).x509_authorities) == 1
    assert quarantine.due(gone, Kind.X509, NOW + DAY) is None
    back = quarantine.release(gone, Kind.X509, old)
    assert bundle_of(back).same_content(bundle_of(state))
    assert back.bundle_sequence > gone.bundle_sequence > cut.bundle_sequence > state.bundle_sequence


class CutOffs(RuleBasedStateMachine):
    """Operators cut authorities off, release them, and give every other command between."""

    @initialize()
    def start(self) -> None:
        self.now, self.number, self.state = NOW, 0, AuthorityState(DOMAIN)
        for kind in Kind:
            self.state = steps.prepare(self.state, self.made(kind), self.now)
            self.state = steps.activate(self.state, kind, self.state.slots(kind)[-1].authority_id, self.now)

    def made(self, kind: Kind) -> Slot:
        self.number += 1
        return slot(kind, self.number, self.now, DEFAULT)

    def attempt(self, step: Any) -> None:
        try:
            after = step()
        except FailedPrecondition:
            return
        same = bundle_of(self.state).same_content(bundle_of(after))
        assert same == (self.state.bundle_sequence == after.bundle_sequence)
        assert state_json.parse(state_json.dump(after)) == after
        self.state = after

    @rule(kind=st.sampled_from(list(Kind)))
    def prepare(self, kind: Kind) -> None:
        made = self.made(kind)
        self.attempt(lambda: steps.prepare(self.state, made, self.now))

    @rule(
        kind=st.sampled_from(list(Kind)),
        index=st.integers(0, 5),
        what=st.sampled_from(
            ["activate", "taint", "revoke", "release", "cut off", "cut off at once", "force"]
        ),
    )
    def command(self, kind: Kind, index: int, what: str) -> None:
        slots = self.state.slots(kind)
        chosen = slots[index % len(slots)].authority_id
        if what == "activate":
            self.attempt(lambda: steps.activate(self.state, kind, chosen, self.now))
        elif what in ("taint", "revoke"):
            step = steps.taint if what == "taint" else steps.revoke
            self.attempt(lambda: step(self.state, kind, chosen))
        elif what == "release":
            self.attempt(lambda: quarantine.release(self.state, kind, chosen))
        else:
            cut, spare = CutOff(self.now, "olga", "r", what == "cut off at once"), None
            spare = self.made(kind) if what == "force" else None
            self.attempt(lambda: quarantine.quarantine(self.state, kind, chosen, cut, spare))

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        for kind in Kind:
            while (due := quarantine.due(self.state, kind, self.now)) is not None:
                self.attempt(lambda kind=kind, due=due: quarantine.withhold(self.state, kind, due))  # type: ignore[misc]

    @invariant()
    def one_signs_and_it_is_trusted(self) -> None:
        if not hasattr(self, "state"):
            return
        for kind in Kind:
            active = [s for s in self.state.slots(kind) if s.status is Status.ACTIVE]
            prepared = self.state.with_status(kind, Status.PREPARED)
            assert len(active) == 1 and active[0].cut_off is None and not active[0].revoked
            assert active[0].authority_id in ids(self.state, kind)
            assert prepared is None or prepared.cut_off is None
            for one in self.state.slots(kind):
                withheld = one.cut_off is not None and one.cut_off.withheld
                assert (one.authority_id in ids(self.state, kind)) is not (withheld or one.revoked)


CutOffs.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestCutOffs = CutOffs.TestCase
