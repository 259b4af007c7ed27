"""Which entries match a set of attested selectors, without looking at every entry.

An entry matches when all of its selectors were attested. Each entry is filed under one of its selectors,
the one with the fewest entries at that time: a uid that all entries share doesn't make the search linear.
Pure; holds no SVIDs and knows no subscribers.
"""

from collections.abc import Iterator, Mapping

from control_plane.core.entry import Entry, default_order
from control_plane.core.selectors import Selector, Selectors


class SelectorIndex:
    """Entries by selector. Entries to be stored elsewhere (`store_svid`) are never given to a workload."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._filed_under: dict[str, Selector] = {}
        self._buckets: dict[Selector, set[str]] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All entries by ID."""
        return self._entries

    def put(self, entry: Entry) -> None:
        """Adds the entry, or replaces the one with its ID."""
        self.remove(entry.id)
        place = min(entry.selectors, key=lambda selector: (len(self._buckets.get(selector, ())), selector))
        self._entries[entry.id] = entry
        self._filed_under[entry.id] = place
        self._buckets.setdefault(place, set()).add(entry.id)

    def remove(self, entry_id: str) -> None:
        """Forgets the entry; an unknown ID is no error."""
        if self._entries.pop(entry_id, None) is None:
            return
        place = self._filed_under.pop(entry_id)
        bucket = self._buckets[place]
        bucket.discard(entry_id)
        if not bucket:
            del self._buckets[place]

    def match(self, attested: Selectors) -> tuple[Entry, ...]:
        """Entries whose selectors are all among the attested; the default identity first."""
        return tuple(default_order(entry for entry in self._candidates(attested) if serves(entry, attested)))

    def _candidates(self, attested: Selectors) -> Iterator[Entry]:
        for selector in attested:
            for entry_id in self._buckets.get(selector, ()):
                yield self._entries[entry_id]


def serves(entry: Entry, attested: Selectors) -> bool:
    """Whether a workload with these selectors is entitled to the entry's identity."""
    return not entry.store_svid and entry.selectors <= attested
