"""When a canary has to go: a rule over counts of requests and denials, and the port that brings them.

The share of denied requests among the canary's agents is compared with that among all others in the same
span of time, so that an attack on everybody doesn't look like a bad policy. Few requests prove nothing.
"""

from dataclasses import dataclass
from typing import Protocol

from control_plane.core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests that were decided, and those of them that were denied."""

    requests: int = 0
    denied: int = 0

    @property
    def percent(self) -> float:
        """The share of denials."""
        return 100 * self.denied / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class DenialRule:
    """A canary goes once it has decided `least_requests` and denies `rise_percent` points more than the
    others do."""

    rise_percent: float = 5.0
    least_requests: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.rise_percent <= 100 and self.least_requests >= 1):
            raise InvalidInput(
                f"denial rule: a rise of {self.rise_percent} percent points after {self.least_requests} "
                "requests; expected more than 0 up to 100, and at least 1"
            )


@dataclass(frozen=True, slots=True)
class DenialVerdict:
    """Whether the canary has to go, and the sentence that says why or why not."""

    rolls_back: bool
    reason: str


def judge(canary: Counts, others: Counts, rule: DenialRule) -> DenialVerdict:
    """Applies the rule to what both groups counted since the canary began."""
    if canary.requests < rule.least_requests:
        return DenialVerdict(
            False, f"{canary.requests} requests so far, {rule.least_requests} are needed to judge"
        )
    told = (
        f"{canary.percent:.1f} % of {canary.requests} requests denied, {others.percent:.1f} % elsewhere, "
        f"{rule.rise_percent:g} points more are too many"
    )
    return DenialVerdict(canary.percent - others.percent >= rule.rise_percent, told)


class DenialFeed(Protocol):
    """What agents report of their decisions."""

    async def counts(self, sequence: int) -> tuple[Counts, Counts]:
        """Since the canary with this sequence began: its agents' counts, and those of all others. Raises
        Unavailable; then nothing is concluded."""
