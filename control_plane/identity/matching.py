"""Filters on sets, as SPIRE's list calls have them: exact, subset, superset, any.

Named from the entry's side: MATCH_SUBSET keeps what holds only given members, MATCH_SUPERSET what holds all
given members and perhaps more, MATCH_ANY what holds at least one. An empty filter is the caller's mistake
and is refused where requests are read.
"""

import enum
from collections.abc import Set as AbstractSet
from typing import TypeVar

from control_plane.core.errors import InvalidInput

T = TypeVar("T")


class SetMatch(enum.IntEnum):
    """Numbered as spire.api.types.SelectorMatch.MatchBehavior and FederatesWithMatch.MatchBehavior."""

    EXACT = 0
    SUBSET = 1
    SUPERSET = 2
    ANY = 3

    @classmethod
    def parse(cls, number: int, *, what: str) -> "SetMatch":
        """Raises InvalidInput, naming `what`, for a number that stands for none."""
        try:
            return cls(number)
        except ValueError:
            known = ", ".join(f"{one.name} ({one.value})" for one in cls)
            raise InvalidInput(f"{what}: unknown match behaviour {number}, expected {known}") from None


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
