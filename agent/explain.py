"""Why a process has the identities it has, or none: entries that match, and those that nearly do.

Pure. A near miss is an entry of which some selectors, but not all, were attested, or of which just one is
missing; fewest missing first. Values are shown as the operator wrote them, so a typing error is visible.
"""

import heapq
from collections.abc import Iterable
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
    misses = (
        NearMiss(entry, tuple(sorted(missing)))
        for entry in entries
        if (missing := entry.selectors - attested)
        and (len(missing) == 1 or len(missing) < len(entry.selectors))
    )
    return heapq.nsmallest(
        limit, misses, key=lambda miss: (len(miss.missing), -len(miss.entry.selectors), miss.entry.id)
    )
