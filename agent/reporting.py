"""Tells the server what was decided here, while it asks for that: as long as a canary runs, and not else.

A report is whole each time, so that none has to arrive. Nothing is reported while nothing was decided.
"""

import asyncio
from typing import Final

from agent.backoff import fraction
from agent.enforcement.counts import DecisionCounts
from agent.node import Node
from agent.ports import ReportsWanted
from agent.waiting import wait_any
from control_plane.core.errors import GatehouseError
from control_plane.runtime.log import get_logger

LEAST_SECONDS: Final = 1
MOST_SECONDS: Final = 600

_log = get_logger(__name__)


class Reporter:
    """A service: reports until it is stopped, whenever that is wanted."""

    def __init__(self, node: Node, counts: DecisionCounts) -> None:
        self._node = node
        self._counts = counts
        self._wanted = ReportsWanted()
        self._changed = asyncio.Event()

    def take(self, wanted: ReportsWanted) -> None:
        """What the server wants now."""
        if wanted.canary and wanted.canary != self._wanted.canary:
            self._counts.restart()
        self._wanted = wanted
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`."""
        while not stop.is_set():
            self._changed.clear()
            wanted = self._wanted
            seconds = min(max(wanted.interval_seconds, LEAST_SECONDS), MOST_SECONDS)
            # Agents that were asked at the same moment don't answer at the same moment.
            jitter = 0.8 + 0.2 * fraction(f"{self._serial}/{wanted.canary}")
            await wait_any(stop, self._changed, timeout_seconds=seconds * jitter if wanted.canary else None)
            if not (stop.is_set() or self._changed.is_set()):
                await self._report(wanted.canary)

    async def _report(self, canary: int) -> None:
        session, snapshot = self._node.session(), self._counts.snapshot()
        if session is None or not snapshot.workloads:
            return
        try:
            await session.api.report_decisions(canary, snapshot)
        except GatehouseError as error:
            # The next report says all of this again.
            _log.info("decisions_not_reported", canary=canary, error=str(error))

    @property
    def _serial(self) -> int:
        session = self._node.session()
        return 0 if session is None else session.serial
