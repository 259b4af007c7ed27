"""Reads give way: so many begin in one turn of the event loop, and what else the process does comes between.

A change takes a dozen turns of the loop, from its body by ledger and database to its answer. Were every read
that has come in made in each of them, a thousand readers would hold up a quarantine for seconds. Reads that
wait have cost no more than their head, begin in the order in which they came, and are as many as there are
connections at most.
"""

import asyncio
from collections import deque
from typing import Final

READS_A_TURN: Final = 8
"""A few milliseconds of work."""


class Turns:
    """For the readers of one event loop; `wait` returns when one's read may begin."""

    def __init__(self, a_turn: int = READS_A_TURN) -> None:
        self._a_turn = a_turn
        self._left = a_turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Returns at once while this turn has room."""
        if self._left == self._a_turn:
            asyncio.get_running_loop().call_soon(self._next)
        if self._left:
            self._left -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _next(self) -> None:
        """A new turn: lets in those who wait, and comes again while there were any."""
        self._left = self._a_turn
        while self._waiting and self._left:
            mine = self._waiting.popleft()
            if not mine.done():  # its request has been cancelled
                mine.set_result(None)
                self._left -= 1
        if self._left < self._a_turn:
            asyncio.get_running_loop().call_soon(self._next)
