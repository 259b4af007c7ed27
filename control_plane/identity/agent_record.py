"""A node agent as the server remembers it, and the rule by which its certificate is accepted.

Two serial numbers of an agent are known: the current one, and the new one that a renewal handed out. The
first call made with the new certificate promotes it, so a crash between issue and storage on the node costs
nothing; after the promotion the old certificate is refused (reference: SPIRE's active-serial rule). An agent
that presents neither holds a copied key or a restored backup: `Verdict.REPLAYED` makes that an event.

Values and rules only: storing is the ports' work, signing the issuer's.
"""

import enum
from dataclasses import dataclass, replace

from control_plane.core.errors import DenialReason
from control_plane.core.selectors import Selectors
from control_plane.core.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """One attested agent. Serials are those of its X.509-SVIDs, 0 for none; times in Unix seconds.

    `bundle_sequence` is the last sequence of our bundle that the agent is known to have fetched.
    """

    id: SpiffeId
    attestation_type: str
    selectors: Selectors = frozenset()
    serial: int = 0
    expires_at: int = 0
    new_serial: int = 0
    new_expires_at: int = 0
    banned: bool = False
    can_reattest: bool = False
    version: str = ""
    attested_at: int = 0

    @property
    def last_expiry(self) -> int:
        """When the last certificate that may be in the agent's hands ends, Unix seconds."""
        return max(self.expires_at, self.new_expires_at)

    def is_live(self, now: int) -> bool:
        """True if the agent may still speak to us: neither banned nor past its last certificate."""
        return not self.banned and self.last_expiry > now

    def promoted(self) -> "AgentRecord":
        """The record after the first use of the new certificate."""
        return replace(
            self, serial=self.new_serial, expires_at=self.new_expires_at, new_serial=0, new_expires_at=0
        )


class Verdict(enum.Enum):
    """What a certificate's serial means for the agent that presented it."""

    ACTIVE = "active"
    PROMOTE = "promote"
    NOT_ATTESTED = "not attested"
    BANNED = "banned"
    REPLAYED = "replayed"

    @property
    def reason(self) -> DenialReason:
        """The reason that the agent is told; agents act on it (attest again, or stop)."""
        return _REASONS[self]


_REASONS = {
    Verdict.ACTIVE: DenialReason.UNKNOWN,
    Verdict.PROMOTE: DenialReason.UNKNOWN,
    Verdict.NOT_ATTESTED: DenialReason.AGENT_NOT_ATTESTED,
    Verdict.BANNED: DenialReason.AGENT_BANNED,
    Verdict.REPLAYED: DenialReason.AGENT_NOT_ACTIVE,
}


def judge_serial(record: AgentRecord | None, serial: int) -> Verdict:
    """Decides on a verified, unexpired agent certificate with this serial. Pure."""
    if record is None:
        return Verdict.NOT_ATTESTED
    if record.banned:
        return Verdict.BANNED
    if serial and serial == record.serial:
        return Verdict.ACTIVE
    if serial and serial == record.new_serial:
        return Verdict.PROMOTE
    return Verdict.REPLAYED
