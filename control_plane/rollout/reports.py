"""What agents report of their decisions while a canary runs: asked for, bounded, kept by attested agent.

Nobody is asked without a canary. An issuer takes what its agents report and writes it once a second; the
management process reads the sums. A report is whole each time (all since the canary began), so that one that
comes twice counts once, and one that is lost is made good by the next. What an agent claims about another
assignment than the one that is meant for it is dropped.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.assignment import InForce
from control_plane.rollout.denials import AgentCounts, Counts
from control_plane.rollout.push import PushedPolicies
from control_plane.runtime.batches import Batches

LEAST_SECONDS: Final = 2
REPORTS_PER_SECOND: Final = 500  # of all agents together
MAX_WORKLOADS: Final = 100  # in one report


@dataclass(frozen=True, slots=True)
class Wanted:
    """What agents are asked for: the sequence of the canary (0: nothing any more), and how often."""

    canary: int = 0
    interval_seconds: int = 0


def wanted(in_force: InForce, agents: int) -> Wanted:
    """What to ask of each of so many agents. The more there are, the less often: the sum stays bounded."""
    if in_force.canary is None or in_force.full is None:
        return Wanted()
    return Wanted(in_force.canary.sequence, max(LEAST_SECONDS, -(-agents // REPORTS_PER_SECOND)))


@dataclass(frozen=True, slots=True)
class Report:
    """One agent's decisions since the canary began; `workloads` are counts by identity, `before` the sum of
    those by the policy before. `sequence` is the assignment that decided."""

    canary: int
    sequence: int
    workloads: Mapping[SpiffeId, Counts]
    before: Counts


class ReportStore(Protocol):
    """Where the reports of the running canary are."""

    async def put_reports(self, canary: int, reports: Sequence[AgentCounts]) -> None:
        """Replaces what these agents reported of this canary, and forgets earlier canaries. Durable."""

    async def reports(self, canary: int) -> list[AgentCounts]:
        """What is there, an item an agent."""


class DecisionReports:
    """Takes reports in an issuer; a service that writes them."""

    def __init__(self, store: ReportStore, policies: PushedPolicies) -> None:
        self._store = store
        self._policies = policies
        self._canary = 0
        self._batches = Batches[SpiffeId, tuple[int, AgentCounts]]("reports", self._write)

    def take(self, agent_id: SpiffeId, report: Report, own: Iterable[SpiffeId]) -> bool:
        """Notes a report of an attested agent; `own` are the identities that it serves, others don't count.
        False for what isn't wanted: no canary, an earlier one, or another assignment than the agent's."""
        now = self._policies.current.in_force
        meant = now.of_agent(agent_id)
        if now.canary is None or meant is None:
            return False
        if (report.canary, report.sequence) != (now.canary.sequence, meant.sequence):
            return False
        self._canary = report.canary
        served = {one: counts for one in own if (counts := report.workloads.get(one)) is not None}
        worst = max(served, key=lambda one: served[one].denied, default=None)
        if worst is not None and not served[worst].denied:
            worst = None
        total = sum(served.values(), Counts())
        sums = AgentCounts(agent_id, meant is now.canary, total, report.before, worst)
        self._batches.put(agent_id, (report.canary, sums))
        return True

    async def flush(self) -> None:
        """Writes what was taken. Raises as the store does; nothing is lost then."""
        await self._batches.flush()

    async def run(self, stop: asyncio.Event) -> None:
        """Writes once a second until `stop`, and a last time then."""
        await self._batches.run(stop)

    async def _write(self, batch: Mapping[SpiffeId, tuple[int, AgentCounts]]) -> None:
        """What is left of an earlier canary isn't wanted any more."""
        canary = self._canary
        if counts := [one for of, one in batch.values() if of == canary]:
            await self._store.put_reports(canary, counts)
