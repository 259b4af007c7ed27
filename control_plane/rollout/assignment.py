"""Which version is assigned to which agents: pure rules over assignments.

An assignment gives one version to all agents or, as a canary, to a share of them. Its sequence is one more
than that of the last, also when an older version is assigned again, so that an agent never has to go back.
In force are the last assignment to all and, if one came after it, the last canary: that one only ever grows.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from control_plane.core.errors import FailedPrecondition, InvalidInput
from control_plane.core.spiffe_id import SpiffeId

ALL: Final = 100
_SCALE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class SignedBundle:
    """The bytes that agents get: a packed `PolicyBundle`, and the signature over prefix and payload."""

    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    key_id: str


class Cause(StrEnum):
    """Why an assignment was made."""

    APPLY = "apply"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    DENIALS = "denials"


COMING_BACK: Final = frozenset({Cause.ROLLBACK, Cause.DENIALS})
"""What brings a version back that was in force for all agents before; nobody is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One version for `percent` of the agents. `at` is in Unix seconds, `trace` the trace context of the
    request that made it, for agents to continue; empty without one."""

    sequence: int
    version: int
    digest: str
    percent: int
    cause: Cause
    by: str
    reason: str
    at: int
    trace: str = ""

    def covers(self, agent_id: SpiffeId) -> bool:
        """Whether this agent belongs to the share. Each version draws its share anew, and a larger share
        holds the smaller one."""
        if self.percent >= ALL:
            return True
        drawn = hashlib.sha256(f"{self.digest}\n{self.version}\n{agent_id}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") * ALL < self.percent * _SCALE


@dataclass(frozen=True, slots=True)
class InForce:
    """What agents are to have: `full` for all, `canary` for its share of them."""

    full: Assignment | None = None
    canary: Assignment | None = None

    @staticmethod
    def of(newest_first: Iterable[Assignment]) -> "InForce":
        """Reads the assignments, newest first, as far as they matter."""
        canary: Assignment | None = None
        for assignment in newest_first:
            if assignment.percent >= ALL:
                return InForce(assignment, canary)
            canary = canary or assignment
        return InForce(None, canary)

    @property
    def sequence(self) -> int:
        """Of the newest assignment; 0 before the first."""
        newest = self.canary or self.full
        return newest.sequence if newest is not None else 0

    def of_agent(self, agent_id: SpiffeId) -> Assignment | None:
        """What one agent is to have."""
        if self.canary is not None and self.canary.covers(agent_id):
            return self.canary
        return self.full

    def cause_of_apply(self, version: int, percent: int) -> Cause:
        """Checks that `version` may be applied to `percent` of the agents now, and says what that would be.

        Raises InvalidInput for a share that isn't one, FailedPrecondition while another canary runs, for a
        smaller share of the same one, and for what is in force already.
        """
        if not 1 <= percent <= ALL:
            raise InvalidInput(f"applying version {version}: {percent} percent, expected 1 to {ALL}")
        canary = self.canary
        if canary is not None and canary.version != version:
            raise FailedPrecondition(
                f"applying version {version}: a canary of version {canary.version} runs on "
                f"{canary.percent} % of the agents",
                hint=f"promote it (gatehouse policy apply {canary.version}) or roll back first",
            )
        if canary is not None and percent <= canary.percent:
            raise FailedPrecondition(
                f"applying version {version} to {percent} %: its canary runs on {canary.percent} % already",
                hint="a canary can grow or be rolled back, not shrink",
            )
        if canary is None and self.full is not None and self.full.version == version:
            raise FailedPrecondition(f"applying version {version}: it is in force for all agents already")
        return Cause.APPLY if canary is None else Cause.PROMOTE

    def rollback_target(self) -> int:
        """The version that ending the canary brings back. Raises FailedPrecondition if unclear."""
        if self.canary is not None and self.full is not None:
            return self.full.version
        raise FailedPrecondition(
            "rolling back: no canary runs, so it isn't clear to which version",
            hint="name it: gatehouse policy rollback --to VERSION",
        )
