"""How many live agents there are, and how many of them belong to the running canary.

With ten thousand agents a count takes some ten milliseconds, and everybody who looks at the status asks for
it: it is made once a second at most, in pieces between which others have their turn.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.agent_record import AgentRecord
from control_plane.rollout.assignment import InForce

PIECE: Final = 1000


@dataclass(frozen=True, slots=True)
class Census:
    """`agents` are live, `canary` of them have the canary's version."""

    agents: int = 0
    canary: int = 0


class Counting:
    """Counts the agents of `agents`, which may change between two pieces of a count."""

    def __init__(self, agents: Callable[[], Mapping[SpiffeId, AgentRecord]], unix: Callable[[], int]) -> None:
        self._agents = agents
        self._unix = unix
        self._one_by_one = asyncio.Lock()
        self._counted: tuple[object, ...] = ()
        self._census = Census()

    async def of(self, now: InForce) -> Census:
        """The count for what is in force, at most a second old."""
        async with self._one_by_one:
            at, agents = self._unix(), self._agents()
            asked = at, now.canary, len(agents)
            if asked != self._counted:
                self._census = await self._count(now, agents, at)
                self._counted = asked
            return self._census

    async def _count(self, now: InForce, agents: Mapping[SpiffeId, AgentRecord], at: int) -> Census:
        live = canary = 0
        records = list(agents.items())
        for begin in range(0, len(records), PIECE):
            found = [agent_id for agent_id, record in records[begin : begin + PIECE] if record.is_live(at)]
            live += len(found)
            if now.canary is not None:
                canary += sum(map(now.canary.covers, found))
            if begin + PIECE < len(records):
                await asyncio.sleep(0)
        return Census(live, canary)
