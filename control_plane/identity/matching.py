"""Filters on sets, as SPIRE's list calls have them: exact, subset, superset, any.

Named from the entry's side: MATCH_SUBSET keeps what holds only given members, MATCH_SUPERSET what holds all
given members and perhaps more, MATCH_ANY what holds at least one. An empty filter is the caller's mistake
and is refused where requests are read.
"""

import enum
from collections.abc import Set as AbstractSet
from typing import TypeVar

T = TypeVar("T")


class SetMatch(enum.IntEnum):
    """Numbered as spire.api.types.SelectorMatch.MatchBehavior and FederatesWithMatch.MatchBehavior."""

    EXACT = 0
    SUBSET = 1
    SUPERSET = 2
    ANY = 3


def matches(mine: AbstractSet[T], wanted: AbstractSet[T], behaviour: SetMatch) -> bool:
    """Whether a thing that holds `mine` passes the filter `wanted`."""
    match behaviour:
        case SetMatch.EXACT:
            return mine == wanted
        case SetMatch.SUBSET:
            # An empty set is a subset of all, yet SPIRE doesn't list what has nothing in common.
            return bool(mine) and mine <= wanted
        case SetMatch.SUPERSET:
            return mine >= wanted
        case SetMatch.ANY:
            return not mine.isdisjoint(wanted)
