"""When a canary has to go: a rule over what agents report of requests and denials.

The canary's agents are compared with all others in the same span of time, so that an attack on everybody
doesn't look like a bad policy, and with themselves before the canary came, so that it can be judged where
there are no others. Few requests prove nothing.

Agents may lie, so none of them counts for more than itself: the canary goes only if `least_agents` of its
agents show the rise each by itself, and what it is compared with is the median of the agents. One agent alone
can end a canary that it is alone in, and no other.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId

LEAST_OF_ONE_AGENT: Final = 10  # requests; of fewer no share is taken
MAX_COUNT: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests that were decided, and those of them that were denied."""

    requests: int = 0
    denied: int = 0

    @property
    def percent(self) -> float:
        """The share of denials."""
        return 100 * self.denied / self.requests if self.requests else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.requests + other.requests, self.denied + other.denied)

    @staticmethod
    def bounded(requests: int, denied: int) -> "Counts":
        """What somebody else says, made possible: never more denials than requests, and neither negative."""
        requests = min(max(requests, 0), MAX_COUNT)
        return Counts(requests, min(max(denied, 0), requests))


@dataclass(frozen=True, slots=True)
class AgentCounts:
    """What one agent decided since the canary began, and `before` it by another policy. `worst` is the
    workload with the most denials, where there are any."""

    agent_id: SpiffeId
    in_canary: bool
    now: Counts
    before: Counts = field(default_factory=Counts)
    worst: SpiffeId | None = None


@dataclass(frozen=True, slots=True)
class DenialRule:
    """A canary goes once it has decided `least_requests`, and its share of denials and that of `least_agents`
    of its agents (of all, where it has fewer) are `rise_percent` points above what they are compared with."""

    rise_percent: float = 5.0
    least_requests: int = 100
    least_agents: int = 2

    def __post_init__(self) -> None:
        if not (0 < self.rise_percent <= 100 and self.least_requests >= 1 and self.least_agents >= 1):
            raise InvalidInput(
                f"denial rule: a rise of {self.rise_percent} percent points after {self.least_requests} "
                f"requests on {self.least_agents} agents; expected more than 0 up to 100, and at least 1 each"
            )


@dataclass(frozen=True, slots=True)
class DenialVerdict:
    """Whether the canary has to go, the sentence that says why or why not, and the figures behind it.
    `usual_percent` is what the canary's share is compared with, `risen` counts agents that show the rise."""

    rolls_back: bool
    reason: str
    canary: Counts = field(default_factory=Counts)
    usual_percent: float = 0.0
    risen: int = 0
    reporting: int = 0


def judge(reports: Sequence[AgentCounts], canary_agents: int, rule: DenialRule) -> DenialVerdict:
    """Applies the rule. `canary_agents` is how many live agents the canary is meant for."""
    canary = [one for one in reports if one.in_canary]
    total = sum((one.now for one in canary), Counts())
    usual = max(
        _median([one.now for one in reports if not one.in_canary]), _median([one.before for one in canary])
    )
    risen = [
        one
        for one in canary
        if one.now.requests >= min(LEAST_OF_ONE_AGENT, rule.least_requests)
        and one.now.percent - usual >= rule.rise_percent
    ]
    needed = max(1, min(rule.least_agents, canary_agents))

    def verdict(goes: bool, reason: str) -> DenialVerdict:
        return DenialVerdict(goes, reason, total, usual, len(risen), len(canary))

    if total.requests < rule.least_requests:
        return verdict(False, f"{total.requests} requests so far, {rule.least_requests} are needed to judge")
    told = (
        f"{total.percent:.1f} % of {total.requests} requests denied, {usual:.1f} % elsewhere or before, "
        f"{rule.rise_percent:g} points more are too many"
    )
    if total.percent - usual < rule.rise_percent:
        return verdict(False, told)
    told += f"; on {len(risen)} of {canary_agents} agents"
    if len(risen) < needed:
        return verdict(False, f"{told}, {needed} are needed to conclude from it")
    worst = max(risen, key=lambda one: one.now.denied).worst
    return verdict(True, told if worst is None else f"{told}, most for {worst}")


def _median(counts: Sequence[Counts]) -> float:
    """The share of denials of the agent in the middle, among those that decided something."""
    return statistics.median([one.percent for one in counts if one.requests] or [0.0])


class DenialFeed(Protocol):
    """What agents report of their decisions."""

    async def reports(self, sequence: int) -> tuple[Sequence[AgentCounts], int]:
        """Since the canary with this sequence began, an item an agent; and how many live agents the canary
        is meant for. Raises Unavailable; then nothing is concluded."""
