"""Who is cut off: a value that every process holds, and what it means for issuing.

An identity in quarantine gets no new SVID, whoever asks and by whichever entry; an agent in quarantine is
refused altogether. Agents deny it as caller and as callee; that is their business. Its standing certificates
are not touched, and nothing about it is deleted: a release brings everything back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import PermissionDenied
from control_plane.core.spiffe_id import SpiffeId

MAX_QUARANTINED: Final = 5000
"""With IDs of usual length half a MiB in one push; more than that is no quarantine but another policy."""
MAX_QUARANTINE_BYTES: Final = 512 << 10


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One identity that is cut off. `at` is in Unix seconds, `by` names who said so."""

    spiffe_id: SpiffeId
    reason: str
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Everybody who is cut off. `revision` grows with every change, 0 is before the first; `trace` is the
    trace context of the request that made the last one."""

    revision: int = 0
    members: Mapping[SpiffeId, Quarantined] = field(default_factory=dict)
    trace: str = ""

    def __contains__(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self.members

    @property
    def spiffe_ids(self) -> frozenset[SpiffeId]:
        """The identities alone."""
        return frozenset(self.members)

    def check(self, spiffe_id: SpiffeId) -> None:
        """Raises PermissionDenied, saying so, if this identity is cut off."""
        found = self.members.get(spiffe_id)
        if found is not None:
            raise PermissionDenied(
                f"{spiffe_id} is quarantined: {found.reason}",
                hint=f"once it may come back: gatehouse quarantine release {spiffe_id}",
            )
