"""Why would a process with these selectors get this identity, or none? Pure: values in, values out.

The scope is what one agent may serve, what lies below one parent, or everything. Near misses are entries that
lack exactly one selector; entries of the scope's whole registry that match but belong to another parent are
named too, since a wrong parent is the next most frequent mistake.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from control_plane.core.entry import Entry, default_order
from control_plane.core.selectors import Selector, Selectors

MAX_NAMED: Final = 50


@dataclass(frozen=True, slots=True)
class Match:
    """An entry that matches. `is_default`: a workload that asks for one identity gets this."""

    entry: Entry
    is_default: bool
    x509_svid_ttl_seconds: int
    jwt_svid_ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Near:
    """An entry one selector away."""

    entry: Entry
    missing: Selector


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer. `elsewhere`: entries that match the selectors and are out of the scope."""

    matches: tuple[Match, ...]
    near: tuple[Near, ...]
    elsewhere: tuple[Entry, ...]


def explain(
    selectors: Selectors,
    scope: Iterable[Entry],
    everything: Iterable[Entry],
    *,
    now: int,
    x509_ttl_seconds: int,
    jwt_ttl_seconds: int,
) -> Explanation:
    """Explains by the entries in `scope`; the TTLs are the server's defaults, `now` is in Unix seconds.
    Lists end after `MAX_NAMED` entries."""
    inside = [entry for entry in scope if not 0 < entry.expires_at <= now]
    ids = {entry.id for entry in inside}
    matching = default_order(entry for entry in inside if entry.selectors <= selectors)
    near = [(entry, entry.selectors - selectors) for entry in inside]
    return Explanation(
        matches=tuple(
            Match(
                entry,
                position == 0,
                entry.x509_svid_ttl_seconds or x509_ttl_seconds,
                entry.jwt_svid_ttl_seconds or jwt_ttl_seconds,
            )
            for position, entry in enumerate(matching[:MAX_NAMED])
        ),
        near=tuple(
            Near(entry, next(iter(missing)))
            # What shares more selectors is more likely to be what was meant.
            for entry, missing in sorted(near, key=lambda one: (-len(one[0].selectors), one[0].id))
            if len(missing) == 1
        )[:MAX_NAMED],
        elsewhere=tuple(e for e in everything if e.id not in ids and e.selectors <= selectors)[:MAX_NAMED],
    )
