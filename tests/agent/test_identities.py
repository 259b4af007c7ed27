"""The state machine: single rules, and everything at once by hypothesis with a clock that it controls."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.backoff import SIGNING
from agent.holdings import HeldSvid
from agent.identities import Identities
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.lifetime import renewal_instant
from control_plane.core.secret import Secret
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import X509Svid

TD = TrustDomain("agents.test")
NOW = 1_800_000_000
DAY = 86_400
UID = frozenset({Selector("unix", "uid:1"), Selector("unix", "gid:1")})


def make(entry_id: str, *selectors: str, path: str = "", **fields: Any) -> Entry:
    return Entry(
        id=entry_id,
        spiffe_id=SpiffeId(TD, path or f"/{entry_id}"),
        parent_id=SpiffeId(TD, "/node"),
        selectors=frozenset(Selector.parse(each) for each in selectors or ("unix:uid:1",)),
        **fields,
    )


def svid(entry: Entry, now: int, *, serial: int = 1, life: int = DAY, authority: str = "root") -> HeldSvid:
    value = X509Svid(entry.spiffe_id, (b"leaf",), serial, now - 120, now + life, authority)
    instant = renewal_instant(value.spiffe_id, serial, value.not_before, value.not_after)
    return HeldSvid(value, Secret(b"key"), instant)


def test_what_a_stand_in_signed_is_renewed_evenly_within_the_span(monkeypatch: Any) -> None:
    monkeypatch.setattr("agent.identities.issuer_key_id", lambda svid: svid.authority_id.encode())
    machine = Identities(TD)
    entries = [make(f"e{number}") for number in range(200)]
    machine.replace_entries(entries)
    for number, entry in enumerate(machine.due(NOW, 500).sign):
        by = "standby" if number % 2 else "vault"
        machine.signed(entry, svid(entry, NOW, serial=number + 1, authority=by))
    before = {key: held.renew_at for key, held in machine.held().items()}
    machine.renew_early({b"standby"}, NOW + 60, 3600)
    early = {key for key, held in machine.held().items() if held.svid.authority_id == "standby"}
    assert len(early) == 100
    for key, held in machine.held().items():
        assert held.renew_at <= before[key]
        assert (NOW + 60 <= held.renew_at < NOW + 3660) is (key in early)
    machine.renew_early({b"standby"}, NOW + 1000, 3600)  # a stream that begins anew says it again
    again = [entry.id for entry in machine.due(NOW + 60 + 1800, 500).sign]
    assert 30 < len(again) < 70 and set(again) < early
    assert {entry.id for entry in machine.due(NOW + 3660, 500).sign} | set(again) == early


@dataclasses.dataclass(frozen=True)
class Authority:
    """Stands in for X509Authority where only the identifier matters."""

    subject_key_id: str
    tainted: bool = False


def bundle(*authorities: Authority, sequence: int = 1) -> Bundle:
    return Bundle(TD, authorities, (), sequence)  # type: ignore[arg-type]


@pytest.fixture
def machine() -> Identities:
    identities = Identities(TD, soft_cap=4)
    identities.replace_bundles(bundle(Authority("root")), {})
    return identities


def sign_all(machine: Identities, now: int, serial: int = 1) -> list[str]:
    signed = []
    while ordered := machine.due(now, 50).sign:
        for entry in ordered:
            assert machine.signed(entry, svid(entry, now, serial=serial))
            signed.append(entry.id)
    return signed


def test_entries_are_prefetched_up_to_the_soft_cap(machine: Identities) -> None:
    machine.replace_entries(make(f"e{number}") for number in range(10))
    assert len(sign_all(machine, NOW)) == 4


def test_subscribed_entries_are_signed_beyond_the_cap_and_never_evicted(machine: Identities) -> None:
    machine.replace_entries(make(f"e{number}") for number in range(10))
    machine.subscribe(UID, x509=True)
    assert len(sign_all(machine, NOW)) == 10
    assert len(machine.held()) == 10


def test_the_longest_unused_is_evicted_first(machine: Identities) -> None:
    machine.replace_entries(make(f"e{number}", f"unix:uid:{number}") for number in range(6))
    streams = [
        machine.subscribe(frozenset({Selector("unix", f"uid:{number}")}), x509=True) for number in range(6)
    ]
    sign_all(machine, NOW)
    for stream in streams:
        machine.unsubscribe(stream)
    assert sorted(machine.held()) == ["e2", "e3", "e4", "e5"]


def test_an_entry_that_forbids_prefetch_waits_for_a_subscriber(machine: Identities) -> None:
    machine.replace_entries([make("e1", disable_x509_svid_prefetch=True)])
    assert not machine.due(NOW, 50).sign
    machine.subscribe(UID, x509=False)
    assert not machine.due(NOW, 50).sign, "bundles and tokens need no X.509-SVID"
    machine.subscribe(UID, x509=True)
    assert [entry.id for entry in machine.due(NOW, 50).sign] == ["e1"]


def test_entries_to_be_stored_elsewhere_are_not_served(machine: Identities) -> None:
    machine.replace_entries([make("e1", store_svid=True)])
    assert machine.match(UID) == ()
    assert not machine.due(NOW, 50).sign


def test_renewal_is_due_at_its_instant_and_not_before(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    sign_all(machine, NOW)
    instant = machine.held()["e1"].renew_at
    assert 0.15 * DAY <= instant - NOW <= 0.22 * DAY
    assert not machine.due(instant - 1, 50).sign
    assert [entry.id for entry in machine.due(instant, 50).sign] == ["e1"]


def test_a_failed_renewal_keeps_the_svid_and_backs_off(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    sign_all(machine, NOW)
    now = machine.held()["e1"].renew_at
    asked = []
    for second in range(3600):
        for entry in machine.due(now + second, 50).sign:
            asked.append(second)
            machine.failed(entry, now + second, "no")
        assert machine.view(UID, now + second).identities
    assert 5 < len(asked) < 40, "it is tried again, and doesn't hammer"
    assert max(later - sooner for sooner, later in itertools.pairwise(asked)) <= 301


def test_an_expired_svid_is_not_served(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    sign_all(machine, NOW)
    assert machine.view(UID, NOW + DAY - 1).identities
    assert not machine.view(UID, NOW + DAY).identities
    assert machine.view(UID, NOW + DAY).entries


def test_a_tainted_authority_forces_renewal_at_once(machine: Identities) -> None:
    machine.replace_entries([make("e1"), make("e2")])
    sign_all(machine, NOW)
    machine.replace_bundles(bundle(Authority("root", tainted=True), Authority("next"), sequence=2), {})
    due = machine.due(NOW + 1, 50).sign
    assert sorted(entry.id for entry in due) == ["e1", "e2"]
    for entry in due:
        machine.signed(entry, svid(entry, NOW + 1, serial=2, authority="next"))
    assert not machine.due(NOW + 2, 50).sign


def test_a_withdrawn_authority_forces_renewal_at_once(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    sign_all(machine, NOW)
    machine.replace_bundles(bundle(Authority("next"), sequence=2), {})
    assert [entry.id for entry in machine.due(NOW + 1, 50).sign] == ["e1"]


def test_an_svid_signed_by_an_authority_that_was_tainted_meanwhile_is_renewed(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    (entry,) = machine.due(NOW, 50).sign
    machine.replace_bundles(bundle(Authority("root", tainted=True), Authority("next"), sequence=2), {})
    machine.signed(entry, svid(entry, NOW))
    assert [each.id for each in machine.due(NOW, 50).sign] == ["e1"]


@pytest.mark.parametrize("jump", [-600, 600])
def test_a_clock_jump_of_ten_minutes_neither_stalls_nor_floods(machine: Identities, jump: int) -> None:
    machine.replace_entries([make("e1")])
    machine.subscribe(UID, x509=True)
    (entry,) = machine.due(NOW, 50).sign
    machine.failed(entry, NOW, "no")
    now = NOW + jump
    asked = 0
    for second in range(120):
        for entry in machine.due(now + second, 50).sign:
            asked += 1
            machine.failed(entry, now + second, "no")
    assert 2 <= asked <= 20


def test_after_a_suspend_of_sixteen_hours_the_most_urgent_come_first(machine: Identities) -> None:
    machine.soft_cap = 100
    machine.replace_entries([make("idle"), make("used", "unix:uid:2")])
    machine.subscribe(frozenset({Selector("unix", "uid:2")}), x509=True)
    sign_all(machine, NOW)
    awake = NOW + 16 * 3600
    assert [entry.id for entry in machine.due(awake, 1).sign] == ["used"]
    assert [entry.id for entry in machine.due(awake, 1).sign] == ["idle"]
    assert machine.view(frozenset({Selector("unix", "uid:2")}), awake).identities, "still valid for 8 hours"


def test_an_id_given_to_another_identity_loses_its_svid(machine: Identities) -> None:
    machine.replace_entries([make("e1", path="/a", revision=1)])
    sign_all(machine, NOW)
    machine.change_entries([make("e1", path="/b", revision=2)], [])
    assert not machine.view(UID, NOW).identities
    assert [str(entry.spiffe_id) for entry in machine.due(NOW, 50).sign] == [f"spiffe://{TD}/b"]


def test_an_svid_that_comes_too_late_for_its_entry_is_not_taken(machine: Identities) -> None:
    machine.replace_entries([make("e1", path="/a")])
    (ordered,) = machine.due(NOW, 50).sign
    machine.change_entries([make("e1", path="/b", revision=2)], [])
    assert not machine.signed(ordered, svid(ordered, NOW))
    machine.change_entries([], ["e1"])
    assert not machine.signed(ordered, svid(ordered, NOW))


def test_new_dns_names_are_signed_while_the_old_svid_is_served(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    sign_all(machine, NOW)
    machine.change_entries([make("e1", dns_names=("a.example",), revision=2)], [])
    assert machine.view(UID, NOW).identities
    (ordered,) = machine.due(NOW, 50).sign
    machine.change_entries([make("e1", dns_names=("b.example",), revision=3)], [])
    assert machine.signed(ordered, svid(ordered, NOW, serial=2))
    assert [entry.dns_names for entry in machine.due(NOW, 50).sign] == [("b.example",)], "changed meanwhile"


def test_a_changed_hint_needs_no_signature(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    sign_all(machine, NOW)
    stream = machine.subscribe(UID, x509=True)
    machine.change_entries([make("e1", hint="new", revision=2)], [])
    due = machine.due(NOW, 50)
    assert (due.sign, due.notify) == ((), frozenset({stream}))


def test_those_who_are_told_are_those_whom_it_concerns(machine: Identities) -> None:
    machine.replace_entries(
        [
            make("e1"),
            make("e2", "unix:uid:2"),
            make("e3", "unix:uid:3", federates_with=(TrustDomain("o.test"),)),
        ]
    )
    streams = {
        uid: machine.subscribe(frozenset({Selector("unix", f"uid:{uid}")}), x509=True) for uid in (1, 2, 3)
    }
    sign_all(machine, NOW)
    machine.due(NOW, 0)
    machine.change_entries([make("e4", "unix:uid:2")], [])
    assert machine.due(NOW, 0).notify == {streams[2]}
    other = TrustDomain("o.test")
    machine.replace_bundles(bundle(Authority("root")), {other: Bundle(other, sequence=1)})
    assert machine.due(NOW, 0).notify == {streams[3]}
    machine.replace_bundles(
        bundle(Authority("root"), Authority("next"), sequence=2), {other: Bundle(other, sequence=1)}
    )
    assert machine.due(NOW, 0).notify == set(streams.values())


def test_an_entry_that_is_replaced_in_one_change_keeps_its_subscribers(machine: Identities) -> None:
    machine.replace_entries([make("e1")])
    machine.subscribe(UID, x509=True)
    machine.change_entries([make("e1", created_at=5)], ["e1"])
    assert machine.subscriber_count("e1") == 1


def test_moving_a_subscriber_changes_what_is_kept_ready(machine: Identities) -> None:
    machine.replace_entries(
        [
            make("e1", disable_x509_svid_prefetch=True),
            make("e2", "unix:uid:2", disable_x509_svid_prefetch=True),
        ]
    )
    stream = machine.subscribe(UID, x509=True)
    assert machine.move(stream, frozenset({Selector("unix", "uid:2")}))
    assert [entry.id for entry in machine.due(NOW, 50).sign] == ["e2"]
    assert (machine.subscriber_count("e1"), machine.subscriber_count("e2")) == (0, 1)


class Everything(RuleBasedStateMachine):
    """Any order of events. Held against a model as simple as can be: sets and full scans."""

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.serial = 0
        self.machine = Identities(TD, soft_cap=1)
        self.machine.replace_bundles(bundle(Authority("root")), {})
        self.entries: dict[str, Entry] = {}
        self.streams: dict[int, tuple[frozenset[Selector], bool]] = {}
        self.in_flight: list[Entry] = []
        self.held: dict[str, HeldSvid] = {}
        self.last_asked: dict[str, int] = {}

    @rule(number=st.integers(0, 5), uid=st.integers(1, 3), path=st.sampled_from(["/a", "/b"]))
    def put(self, number: int, uid: int, path: str) -> None:
        entry = make(f"e{number}", f"unix:uid:{uid}", path=f"{path}{number}", revision=self.serial)
        before = self.entries.get(entry.id)
        if before is not None and before.spiffe_id != entry.spiffe_id:
            self.held.pop(entry.id, None)
        self.entries[entry.id] = entry
        self.machine.change_entries([entry], [])

    @rule(number=st.integers(0, 5))
    def remove(self, number: int) -> None:
        self.entries.pop(f"e{number}", None)
        self.held.pop(f"e{number}", None)
        self.machine.change_entries([], [f"e{number}"])

    @rule(uid=st.integers(1, 3), x509=st.booleans())
    def subscribe(self, uid: int, x509: bool) -> None:
        selectors = frozenset({Selector("unix", f"uid:{uid}")})
        self.streams[self.machine.subscribe(selectors, x509=x509)] = (selectors, x509)

    @precondition(lambda self: self.streams)
    @rule(uid=st.integers(1, 3), data=st.data())
    def move(self, uid: int, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.streams)))
        selectors = frozenset({Selector("unix", f"uid:{uid}")})
        self.machine.move(stream, selectors)
        self.streams[stream] = (selectors, self.streams[stream][1])

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.streams)))
        del self.streams[stream]
        self.machine.unsubscribe(stream)

    @rule(limit=st.integers(0, 3))
    def due(self, limit: int) -> None:
        due = self.machine.due(self.now, limit)
        assert len(due.sign) <= limit
        for entry in due.sign:
            assert self.entries[entry.id] == entry, "only what is asked for is signed"
        self.in_flight += due.sign
        assert due.notify <= self.streams.keys()

    @precondition(lambda self: self.in_flight)
    @rule(outcome=st.sampled_from(["signed", "failed", "released"]))
    def answer(self, outcome: str) -> None:
        entry = self.in_flight.pop()
        self.serial += 1
        if outcome == "signed":
            new = svid(entry, self.now, serial=self.serial)
            if self.machine.signed(entry, new):
                self.held[entry.id] = new
            else:
                current = self.entries.get(entry.id)
                assert current is None or current.spiffe_id != entry.spiffe_id
        elif outcome == "failed":
            self.machine.failed(entry, self.now, "refused")
        else:
            self.machine.released([entry])

    @rule()
    def sign_everything(self) -> None:
        # Once round: what a tainted authority signs is wanted again at once.
        for entry in self.machine.due(self.now, 50).sign:
            self.serial += 1
            new = svid(entry, self.now, serial=self.serial)
            assert self.machine.signed(entry, new)
            self.held[entry.id] = new

    @rule(seconds=st.sampled_from([1, 30, 3600, 16 * 3600, -600, 600]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def taint(self) -> None:
        self.serial += 1
        tainted = Authority("root", tainted=True)
        self.machine.replace_bundles(bundle(tainted, sequence=self.serial + 2), {})

    @invariant()
    def a_valid_svid_is_lost_only_by_eviction(self) -> None:
        if not hasattr(self, "machine"):
            return
        kept = self.machine.held()
        subscribed = {
            entry.id
            for entry in self.entries.values()
            for selectors, x509 in self.streams.values()
            if x509 and entry.selectors <= selectors
        }
        for entry_id, held in list(self.held.items()):
            if entry_id not in kept:
                assert entry_id not in subscribed
                del self.held[entry_id]
            else:
                assert kept[entry_id] is held
        assert len(kept) <= max(1, len(subscribed & kept.keys()))

    @invariant()
    def views_are_what_a_full_scan_finds(self) -> None:
        if not hasattr(self, "machine"):
            return
        for uid in (1, 2, 3):
            selectors = frozenset({Selector("unix", f"uid:{uid}")})
            view = self.machine.view(selectors, self.now)
            assert {entry.id for entry in view.entries} == {
                entry.id for entry in self.entries.values() if entry.selectors <= selectors
            }
            for identity in view.identities:
                assert identity.held.svid.not_after > self.now
                assert identity.held.svid.spiffe_id == identity.entry.spiffe_id
            for entry in view.entries:
                assert self.machine.subscriber_count(entry.id) == sum(
                    x509 and entry.selectors <= wanted for wanted, x509 in self.streams.values()
                )


Everything.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEverything = Everything.TestCase


def test_whoever_waits_long_enough_is_signed(machine: Identities) -> None:
    """Liveness: after any failures, one success each and everything that is subscribed is there."""
    machine.replace_entries(make(f"e{number}") for number in range(8))
    machine.subscribe(UID, x509=True)
    for attempt in range(5):
        for entry in machine.due(NOW + attempt, 50).sign:
            machine.failed(entry, NOW + attempt, "no")
    sign_all(machine, NOW + 10 + int(SIGNING.ceiling_seconds))
    assert len(machine.held()) == 8


def test_five_hundred_thousand_renewals_are_spread(entry: Callable[..., Entry]) -> None:
    """The instants of SVIDs that were signed together fill the band evenly; no minute has a crowd."""
    one = entry("e", "/w")
    counts: dict[int, int] = {}
    for serial in range(20_000):
        held = svid(dataclasses.replace(one), NOW, serial=serial)
        minute = (held.renew_at - NOW) // 60
        counts[minute] = counts.get(minute, 0) + 1
    mean = 20_000 / (0.07 * DAY / 60)
    assert max(counts.values()) < 1.6 * mean
