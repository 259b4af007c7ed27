"""Looks after a running canary: judges what its agents report, and ends it where the rule says so.

The bound from the first denial to the rollback: Envoy tells its counts within two seconds, the agent reports
within the interval that it was given, an issuer writes within one second, and this looks every two.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.denials import AgentCounts, DenialRule, DenialVerdict
from control_plane.rollout.lifecycle import Rollouts
from control_plane.rollout.ports import RolloutStore
from control_plane.rollout.reports import ReportStore
from control_plane.runtime.log import get_logger

LOOK_SECONDS: Final = 2.0

_log = get_logger("canary")


class StoredReports:
    """Implements `denials.DenialFeed` by what issuers wrote. Agents that left meanwhile don't count."""

    def __init__(
        self, rollouts: RolloutStore, reports: ReportStore, live_agents: Callable[[], Iterable[SpiffeId]]
    ) -> None:
        self._rollouts = rollouts
        self._reports = reports
        self._live_agents = live_agents

    async def reports(self, sequence: int) -> tuple[Sequence[AgentCounts], int]:
        """See the port."""
        canary = (await self._rollouts.in_force()).canary
        live = set(self._live_agents())
        meant = sum(canary.covers(agent_id) for agent_id in live) if canary is not None else 0
        return [one for one in await self._reports.reports(sequence) if one.agent_id in live], meant


class CanaryWatch:
    """A service. `verdict` is the latest about the running canary, None where none runs."""

    def __init__(self, rollouts: Rollouts, feed: StoredReports, rule: DenialRule) -> None:
        self._rollouts = rollouts
        self._feed = feed
        self._rule = rule
        self.verdict: DenialVerdict | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Judges every two seconds until `stop`; what can't be done now is tried again."""
        while not stop.is_set():
            try:
                self.verdict = await self._rollouts.judge_canary(self._feed, self._rule)
            except GatehouseError as error:
                _log.error("canary_not_judged", reason=str(error), kind=error.kind)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue
