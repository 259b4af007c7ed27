"""Who listens, grouped by selectors: a thousand streams of one workload cost one match, not a thousand.

Keeps for each entry how many X.509 streams it is pushed to, and collects which subscribers have something
new to hear. Pure; knows nothing of SVIDs, streams or sockets.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from agent.matching import SelectorIndex, serves
from control_plane.core.entry import Entry
from control_plane.core.selectors import Selectors
from control_plane.core.spiffe_id import TrustDomain

BULK_CHANGE: Final = 64  # above this many changed entries every group is matched anew


@dataclass(slots=True)
class _Group:
    """Subscribers with equal selectors."""

    selectors: Selectors
    entries: tuple[Entry, ...] = ()
    members: set[int] = field(default_factory=set)
    x509_members: int = 0


class Subscribers:
    """Subscriptions over an index that the owner changes; after a change it calls `entries_changed`."""

    def __init__(self, index: SelectorIndex) -> None:
        self._index = index
        self._groups: dict[Selectors, _Group] = {}
        self._subscriptions: dict[int, tuple[_Group, bool]] = {}
        self._groups_of: dict[str, set[Selectors]] = {}
        self._counts: dict[str, int] = {}
        self._next = 1
        self._changed: set[int] = set()
        self._touched: set[str] = set()

    def add(self, selectors: Selectors, *, x509: bool) -> int:
        """A new subscription; `x509` ones keep the SVIDs of their entries ready."""
        subscription, self._next = self._next, self._next + 1
        self._join(subscription, selectors, x509=x509)
        return subscription

    def move(self, subscription: int, selectors: Selectors) -> bool:
        """The same subscriber, perhaps with other selectors; True if so."""
        group, x509 = self._subscriptions[subscription]
        if group.selectors == selectors:
            return False
        self._leave(subscription)
        self._join(subscription, selectors, x509=x509)
        self._changed.add(subscription)
        return True

    def remove(self, subscription: int) -> None:
        """The subscriber has gone."""
        self._leave(subscription)
        self._changed.discard(subscription)

    def match(self, selectors: Selectors) -> tuple[Entry, ...]:
        """The entries of these selectors, from the group if there is one."""
        group = self._groups.get(selectors)
        return group.entries if group is not None else self._index.match(selectors)

    def count(self, entry_id: str) -> int:
        """How many X.509 subscriptions the entry is pushed to."""
        return self._counts.get(entry_id, 0)

    def entries_changed(self, touched: list[tuple[Entry | None, Entry | None]]) -> None:
        """Matches anew the groups that a change concerns; `touched` holds each entry before and after."""
        bulk = len(touched) > BULK_CHANGE
        for group in self._groups.values():
            if bulk or any(
                entry is not None and serves(entry, group.selectors) for pair in touched for entry in pair
            ):
                self._rematch(group)

    def tell(self, entry_id: str) -> None:
        """Something about the entry is new to all who have it."""
        for selectors in self._groups_of.get(entry_id, ()):
            self._changed.update(self._groups[selectors].members)

    def tell_all(self) -> None:
        """Something is new to everybody."""
        self._changed.update(self._subscriptions)

    def tell_federated(self, domains: set[TrustDomain]) -> None:
        """The bundles of these foreign trust domains are new."""
        for group in self._groups.values():
            if any(not domains.isdisjoint(entry.federates_with) for entry in group.entries):
                self._changed.update(group.members)

    def take_changed(self) -> frozenset[int]:
        """Subscribers to tell since the last call."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def take_touched(self) -> set[str]:
        """Entries whose count may have changed since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def _join(self, subscription: int, selectors: Selectors, *, x509: bool) -> None:
        group = self._groups.get(selectors)
        if group is None:
            group = self._groups[selectors] = _Group(selectors)
            self._attach(group, self._index.match(selectors))
        group.members.add(subscription)
        group.x509_members += x509
        self._subscriptions[subscription] = (group, x509)
        if x509:
            self._add_to_counts(group.entries, 1)

    def _leave(self, subscription: int) -> None:
        group, x509 = self._subscriptions.pop(subscription)
        group.members.discard(subscription)
        if x509:
            group.x509_members -= 1
            self._add_to_counts(group.entries, -1)
        if not group.members:
            self._detach(group)
            del self._groups[group.selectors]

    def _rematch(self, group: _Group) -> None:
        entries = self._index.match(group.selectors)
        if entries != group.entries:
            self._detach(group)
            self._attach(group, entries)
            self._changed.update(group.members)

    def _attach(self, group: _Group, entries: tuple[Entry, ...]) -> None:
        group.entries = entries
        for entry in entries:
            self._groups_of.setdefault(entry.id, set()).add(group.selectors)
        self._add_to_counts(entries, group.x509_members)

    def _detach(self, group: _Group) -> None:
        for entry in group.entries:
            listeners = self._groups_of[entry.id]
            listeners.discard(group.selectors)
            if not listeners:
                del self._groups_of[entry.id]
        self._add_to_counts(group.entries, -group.x509_members)

    def _add_to_counts(self, entries: Iterable[Entry], difference: int) -> None:
        if difference == 0:
            return
        for entry in entries:
            count = self._counts.get(entry.id, 0) + difference
            if count:
                self._counts[entry.id] = count
            else:
                del self._counts[entry.id]
            self._touched.add(entry.id)
