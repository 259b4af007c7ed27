"""Which sequence of our bundle each agent has fetched, written to storage in batches.

The life cycle of the authorities asks before it lets a new one sign: an agent that doesn't hold it yet would
refuse what it signs. What isn't written when a process dies is fetched, and so noted, again by the agents.
"""

import asyncio

from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.ports import Agents
from control_plane.runtime.batches import Batches


class Confirmations:
    """A service that gathers confirmations and writes them once a second; one an event loop."""

    def __init__(self, agents: Agents) -> None:
        self._known: dict[SpiffeId, int] = {}
        self._batches = Batches[SpiffeId, int]("confirmations", agents.confirm_bundles)

    def note(self, agent_id: SpiffeId, sequence: int) -> None:
        """The agent was given our bundle of this sequence."""
        if self._known.get(agent_id, -1) < sequence:
            self._known[agent_id] = sequence
            self._batches.put(agent_id, sequence)

    def forget(self, agent_id: SpiffeId) -> None:
        """The agent attested anew or is gone: what it holds is unknown again."""
        self._known.pop(agent_id, None)
        self._batches.drop(agent_id)

    async def flush(self) -> None:
        """Writes what was noted. Raises as the port does; nothing is lost then."""
        await self._batches.flush()

    async def run(self, stop: asyncio.Event) -> None:
        """Writes once a second until `stop`, and a last time then."""
        await self._batches.run(stop)
