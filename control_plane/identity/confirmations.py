"""Which sequence of our bundle each agent has fetched, written to storage in batches.

The life cycle of the authorities asks before it lets a new one sign: an agent that doesn't hold it yet would
refuse what it signs. What isn't written when a process dies is fetched, and so noted, again by the agents.
"""

import asyncio
from typing import Final

from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.ports import Agents
from control_plane.runtime.log import get_logger

FLUSH_SECONDS: Final = 1.0


class Confirmations:
    """Gathers confirmations and writes them once a second; one an event loop."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._known: dict[SpiffeId, int] = {}
        self._waiting: dict[SpiffeId, int] = {}
        self._log = get_logger("confirmations")

    def note(self, agent_id: SpiffeId, sequence: int) -> None:
        """The agent was given our bundle of this sequence."""
        if self._known.get(agent_id, -1) < sequence:
            self._known[agent_id] = self._waiting[agent_id] = sequence

    def forget(self, agent_id: SpiffeId) -> None:
        """The agent attested anew or is gone: what it holds is unknown again."""
        self._known.pop(agent_id, None)
        self._waiting.pop(agent_id, None)

    async def flush(self) -> None:
        """Writes what was noted. Raises as the port does; nothing is lost then."""
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, {}
        try:
            await self._agents.confirm_bundles(batch)
        except BaseException:
            self._waiting = batch | self._waiting
            raise

    async def run(self, stop: asyncio.Event) -> None:
        """Writes once a second until `stop`, and a last time then."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await stop.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
            except GatehouseError as error:
                self._log.warning("confirmations_not_written", reason=str(error))
