"""Why a process has the identities it has, or none: entries that match, and those that nearly do.

Pure. A near miss is an entry of which some selectors, but not all, were attested, or whose only selector is
another value of an attested kind; fewest missing first. Values are shown as the operator wrote them, so that
a typing error is visible.
"""

import heapq
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Final

from control_plane.core.entry import Entry
from control_plane.core.selectors import Selector, Selectors

MAX_NEAR_MISSES: Final = 10


@dataclass(frozen=True, slots=True)
class NearMiss:
    """An entry and the selectors that were not attested."""

    entry: Entry
    missing: tuple[Selector, ...]


def near_misses(
    entries: Iterable[Entry], attested: Selectors, limit: int = MAX_NEAR_MISSES
) -> list[NearMiss]:
    """The nearest entries that don't match, nearest first."""
    kinds = {selector.type for selector in attested}
    misses = (
        NearMiss(entry, tuple(sorted(missing)))
        for entry in entries
        if (missing := entry.selectors - attested)
        and (len(missing) < len(entry.selectors) or _single_of(missing, kinds))
    )
    return heapq.nsmallest(
        limit, misses, key=lambda miss: (len(miss.missing), -len(miss.entry.selectors), miss.entry.id)
    )


def _single_of(missing: Selectors, kinds: Set[str]) -> bool:
    """One selector away, of a kind that was attested: an entry for a node or a pod isn't near a process."""
    return len(missing) == 1 and all(selector.type in kinds for selector in missing)
