"""What the agent holds and what has to be done about it: a state machine without I/O, clock or dice.

Goes in: entries and bundles as the server names them, SVIDs as they are signed, failures, subscribers with
their attested selectors, and the time. Comes out: a `Due` (sign these, tell those) that the loop in
`keeper` executes, and a `View` (what this workload may have now).

The rules kept here:
- an SVID is renewed at the instant that was drawn for it once; a failure never takes a valid SVID away;
- what a tainted or withdrawn authority signed is replaced at once;
- retries back off, and a clock that was set back doesn't stretch a wait;
- SVIDs of all entries are kept ready up to a soft cap, those that somebody subscribes to always.

Not here: keys, the contents of certificates, the wire, storage.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from agent.backoff import RENEWAL, SIGNING
from agent.holdings import (
    Due,
    HeldSvid,
    Identity,
    View,
    certificate_fields,
    compromised,
    issuer_key_id,
    tainted_ids,
)
from agent.matching import SelectorIndex
from agent.subscribers import Subscribers
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.lifetime import early_renewal_instant
from control_plane.core.selectors import Selectors
from control_plane.core.spiffe_id import TrustDomain

DEFAULT_SOFT_CAP: Final = 1000


@dataclass(slots=True)
class _Record:
    entry: Entry
    held: HeldSvid | None = None
    in_flight: bool = False
    attempts: int = 0
    failed_at: float = 0.0
    retry_at: float = 0.0
    error: str = ""

    def usable(self, now: float) -> bool:
        return self.held is not None and self.held.svid.not_after > now

    def may_try(self, now: float) -> bool:
        # A clock set back behind the failure would otherwise stretch the wait by as much.
        return not self.in_flight and (not self.attempts or now >= self.retry_at or now < self.failed_at)


class Identities:
    """The state machine. Times are Unix seconds; all callers are on one thread."""

    def __init__(self, trust_domain: TrustDomain, *, soft_cap: int = DEFAULT_SOFT_CAP) -> None:
        self.trust_domain = trust_domain
        self.soft_cap = soft_cap
        self.bundle: Bundle | None = None
        self.federated: dict[TrustDomain, Bundle] = {}
        self._index = SelectorIndex()
        self._subscribers = Subscribers(self._index)
        self._records: dict[str, _Record] = {}
        self._held = 0
        # Dicts without values where an order is kept: insertion for `wanted`, age for `idle`.
        self._wanted: dict[str, None] = {}  # to be signed
        self._prefetch: dict[str, None] = {}  # would be nice to have, if the cap allows
        self._idle: dict[str, None] = {}  # held without subscribers, the longest unused first
        self._renewals: list[tuple[int, str, int]] = []  # (instant, entry, serial): a heap, stale items too

    # ------------------------------------------------------------------ what the server says

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The entries that this agent is authorised for, by ID."""
        return self._index.entries

    def replace_entries(self, entries: Iterable[Entry]) -> None:
        """Takes the complete set: whatever isn't in it is gone."""
        complete = {entry.id: entry for entry in entries}
        self.change_entries(complete.values(), [known for known in self._records if known not in complete])

    def change_entries(self, upserted: Iterable[Entry], removed: Iterable[str]) -> None:
        """Takes changes. An entry whose certificate would differ is signed anew; one whose ID was given to
        another identity loses its SVID at once. An ID in both lists counts as upserted."""
        touched: list[tuple[Entry | None, Entry | None]] = []
        changes = {entry.id: entry for entry in upserted}
        for entry_id in removed:
            record = self._records.get(entry_id)
            if record is not None and entry_id not in changes:
                touched.append((record.entry, None))
                self._forget(entry_id)
        for entry in changes.values():
            record = self._records.get(entry.id)
            if record is None:
                record = self._records[entry.id] = _Record(entry)
                touched.append((None, entry))
            elif record.entry != entry:
                touched.append((record.entry, entry))
                self._revise(record, entry)
            else:
                continue
            self._index.put(entry)
            self._place(entry.id)
        if touched:
            self._subscribers.entries_changed(touched)
            self._settle()

    def replace_bundles(self, own: Bundle, federated: Mapping[TrustDomain, Bundle]) -> None:
        """Takes all bundles. What a tainted or withdrawn authority of ours has signed is renewed at once."""
        if self.bundle is None or not self.bundle.same_content(own):
            self._distrust(compromised(self.bundle, own))
            self._subscribers.tell_all()
        self.bundle = own
        before, self.federated = self.federated, dict(federated)
        domains = before.keys() | self.federated.keys()
        different = {domain for domain in domains if before.get(domain) != self.federated.get(domain)}
        if different:
            self._subscribers.tell_federated(different)

    def renew_early(self, issuer_key_ids: Collection[bytes], now: int, within_seconds: int) -> None:
        """Renews what a stand-in signed, evenly over the span; nothing is renewed later than it was to be."""
        for entry_id, record in self._records.items():
            held = record.held
            if held is None or issuer_key_id(held.svid) not in issuer_key_ids:
                continue
            svid = held.svid
            instant = early_renewal_instant(svid.spiffe_id, svid.serial, now, within_seconds)
            if instant < held.renew_at:
                record.held = replace(held, renew_at=instant)
                heapq.heappush(self._renewals, (instant, entry_id, svid.serial))

    # ------------------------------------------------------------------ subscribers

    def subscribe(self, selectors: Selectors, *, x509: bool) -> int:
        """A stream that wants to hear of changes. With `x509` the SVIDs of its entries are kept ready."""
        subscription = self._subscribers.add(selectors, x509=x509)
        self._settle()
        return subscription

    def move(self, subscription: int, selectors: Selectors) -> bool:
        """The workload was attested again; True if its selectors are others now."""
        moved = self._subscribers.move(subscription, selectors)
        if moved:
            self._settle()
        return moved

    def unsubscribe(self, subscription: int) -> None:
        """The stream has ended."""
        self._subscribers.remove(subscription)
        self._settle()

    def match(self, selectors: Selectors) -> tuple[Entry, ...]:
        """The entries that these selectors are entitled to, the default identity first."""
        return self._subscribers.match(selectors)

    def view(self, selectors: Selectors, now: float) -> View:
        """What a workload with these selectors may have at this moment."""
        entries = self.match(selectors)
        records = [self._records[entry.id] for entry in entries]
        domains = {domain for entry in entries for domain in entry.federates_with}
        return View(
            entries=entries,
            identities=tuple(
                Identity(record.entry, record.held)
                for record in records
                if record.held is not None and record.usable(now)
            ),
            pending=any(not record.attempts and not record.usable(now) for record in records),
            bundle=self.bundle,
            federated=tuple(self.federated[domain] for domain in sorted(domains) if domain in self.federated),
            error=next((record.error for record in records if record.error), ""),
        )

    # ------------------------------------------------------------------ signing

    def due(self, now: float, limit: int) -> Due:
        """What has to be done now. Entries given out to be signed count as in flight until `signed`,
        `failed` or `released`; at most `limit` of them are given."""
        while self._renewals and self._renewals[0][0] <= now:
            _, entry_id, serial = heapq.heappop(self._renewals)
            record = self._records.get(entry_id)
            if record is not None and record.held is not None and record.held.svid.serial == serial:
                self._wanted[entry_id] = None
        ready = [record for key in self._wanted if (record := self._records[key]).may_try(now)]
        chosen = heapq.nsmallest(limit, ready, key=lambda record: self._urgency(record, now))
        room = min(self.soft_cap - self._held - len(self._wanted), limit - len(chosen))
        for entry_id in list(self._prefetch)[: max(room, 0)]:
            del self._prefetch[entry_id]
            self._wanted[entry_id] = None
            chosen.append(self._records[entry_id])
        for record in chosen:
            record.in_flight = True
        return Due(tuple(record.entry for record in chosen), self._subscribers.take_changed())

    def signed(self, ordered: Entry, held: HeldSvid) -> bool:
        """Takes a new SVID for the entry as it was ordered. False if that entry is no more."""
        record = self._records.get(ordered.id)
        if record is None or not _same_identity(record.entry, ordered):
            return False
        self._held += record.held is None
        record.held = held
        record.in_flight = False
        record.attempts, record.error = 0, ""
        self._wanted.pop(ordered.id, None)
        heapq.heappush(self._renewals, (held.renew_at, ordered.id, held.svid.serial))
        self._place(ordered.id)
        outdated = certificate_fields(record.entry) != certificate_fields(ordered)
        if outdated or (self.bundle is not None and held.svid.authority_id in tainted_ids(self.bundle)):
            self._wanted[ordered.id] = None
        self._evict()
        self._subscribers.tell(ordered.id)
        return True

    def failed(self, ordered: Entry, now: float, error: str) -> None:
        """Signing failed for a reason of this entry's own; it is tried again after a growing wait."""
        record = self._records.get(ordered.id)
        if record is None:
            return
        record.in_flight = False
        record.attempts += 1
        record.error = error
        record.failed_at = now
        backoff = RENEWAL if record.usable(now) else SIGNING
        record.retry_at = now + backoff.delay(record.attempts, ordered.id)
        if record.attempts == 1:
            self._subscribers.tell(ordered.id)  # those that waited for it may go on with what they have

    def released(self, ordered: Iterable[Entry]) -> None:
        """Signing couldn't be asked for at all; the entries are due as before."""
        for entry in ordered:
            if (record := self._records.get(entry.id)) is not None:
                record.in_flight = False

    def withdraw_everything(self) -> None:
        """The agent may not serve any longer (it was banned): no entries, no SVIDs."""
        self.replace_entries(())

    # ------------------------------------------------------------------ for storage and explanation

    def held(self) -> dict[str, HeldSvid]:
        """All SVIDs by entry ID."""
        return {key: record.held for key, record in self._records.items() if record.held is not None}

    def subscriber_count(self, entry_id: str) -> int:
        """Open X.509 streams that this entry's SVID is pushed to."""
        return self._subscribers.count(entry_id)

    def error(self, entry_id: str) -> str:
        """Why the last signing of this entry failed; empty if it didn't."""
        record = self._records.get(entry_id)
        return record.error if record else ""

    # ------------------------------------------------------------------ inside

    def _revise(self, record: _Record, entry: Entry) -> None:
        before, record.entry = record.entry, entry
        record.retry_at = 0.0  # whoever changed it may have repaired what was wrong
        if not _same_identity(before, entry):
            self._drop_svid(record)
            record.attempts, record.error, record.in_flight = 0, "", False
        elif record.held is not None and certificate_fields(before) != certificate_fields(entry):
            self._wanted[entry.id] = None

    def _forget(self, entry_id: str) -> None:
        self._drop_svid(self._records.pop(entry_id))
        self._index.remove(entry_id)
        self._wanted.pop(entry_id, None)
        self._prefetch.pop(entry_id, None)

    def _drop_svid(self, record: _Record) -> None:
        self._held -= record.held is not None
        record.held = None
        self._idle.pop(record.entry.id, None)
        self._wanted.pop(record.entry.id, None)

    def _settle(self) -> None:
        for entry_id in self._subscribers.take_touched():
            if entry_id in self._records:
                self._place(entry_id)
        self._evict()

    def _place(self, entry_id: str) -> None:
        """Puts the entry into the queues where it belongs; doing it twice changes nothing."""
        record = self._records[entry_id]
        if self._subscribers.count(entry_id):
            self._idle.pop(entry_id, None)
            self._prefetch.pop(entry_id, None)
            if record.held is None:
                self._wanted[entry_id] = None
        elif record.held is not None:
            self._prefetch.pop(entry_id, None)
            self._idle.setdefault(entry_id)
        elif not record.in_flight:
            self._wanted.pop(entry_id, None)
            if record.entry.store_svid or record.entry.disable_x509_svid_prefetch:
                self._prefetch.pop(entry_id, None)
            else:
                self._prefetch.setdefault(entry_id)

    def _distrust(self, authorities: Collection[str]) -> None:
        for entry_id, record in self._records.items() if authorities else ():
            if record.held is not None and record.held.svid.authority_id in authorities:
                record.retry_at = 0.0
                self._wanted[entry_id] = None

    def _evict(self) -> None:
        while self._held > self.soft_cap and self._idle:
            record = self._records[next(iter(self._idle))]
            self._drop_svid(record)
            self._place(record.entry.id)

    def _urgency(self, record: _Record, now: float) -> tuple[int, int]:
        remaining = record.held.svid.not_after if record.held is not None else 0
        if not self._subscribers.count(record.entry.id):
            return 2, remaining
        return int(record.usable(now)), remaining


def _same_identity(left: Entry, right: Entry) -> bool:
    return (left.spiffe_id, left.created_at) == (right.spiffe_id, right.created_at)
