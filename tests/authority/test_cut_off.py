"""Authorities that operators cut off: out of the bundle after a grace, and back again, in any order."""

from typing import Any

from authority_slots import DAY, DEFAULT, DOMAIN, NOW, ids, slot, x509_slot
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control_plane.authority import quarantine, state_json, steps
from control_plane.authority.state import (
    AuthorityState,
    CutOff,
    Kind,
    Slot,
    Status,
    bundle_of,
)
from control_plane.core.errors import FailedPrecondition


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
