"""Who may begin its TLS handshake: a few each turn of the event loop, one address after the other.

A handshake costs about a millisecond of processor, and the loop serves whoever is ready in equal parts. When
thousands connect at once and all begin at once, each is through when all are, and by then all have run out
of time. So a turn of the loop first goes on with whatever has begun, and then lets a few more begin: those
are through within a few turns, and the others wait, for a bounded time, without having cost anything.

Nobody holds a place: who sends nothing isn't waiting yet, and who stalls halfway costs what any open
connection costs, until its own time is over. A flood from one address makes others wait for one turn.
"""

import asyncio
import socket
from collections import deque
from typing import Final

STARTS_PER_TURN: Final = 8


class Turnstile:
    """One for each event loop. `wait_seconds` bounds the wait for a turn."""

    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by source, the next to begin first
        self._turning = False

    async def turn(self, source: str) -> None:
        """Returns when it is this connection's turn to begin; at once when nobody waits.

        Raises:
            TimeoutError: too many were before it. Better to say so while its peer has time to try again
                than to begin what the peer will not see the end of.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(source, deque()).append(turn)
        if not self._turning:
            self._next_turn()
        async with asyncio.timeout(self._wait_seconds):
            await turn

    def _next_turn(self) -> None:
        begun = 0
        while self._waiting and begun < STARTS_PER_TURN:
            source = next(iter(self._waiting))
            queue = self._waiting.pop(source)
            turn = queue.popleft()
            if queue:
                self._waiting[source] = queue  # behind the other sources
            if not turn.done():  # it is when its wait ended
                turn.set_result(None)
                begun += 1
        self._turning = begun > 0
        if self._turning:
            asyncio.get_running_loop().call_soon(self._next_turn)


async def first_byte(connection: socket.socket, seconds: float) -> None:
    """Returns when the peer has sent something; none of it is read. A peer that is silent costs no more
    than its socket until then.

    Raises:
        TimeoutError: nothing came within `seconds`.
        ConnectionError: the peer hung up.
    """
    loop, descriptor = asyncio.get_running_loop(), connection.fileno()
    readable = loop.create_future()
    loop.add_reader(descriptor, _wake, readable)
    try:
        async with asyncio.timeout(seconds):
            await readable
    finally:
        loop.remove_reader(descriptor)
    if not connection.recv(1, socket.MSG_PEEK):
        raise ConnectionAbortedError("the peer hung up before its handshake")


def _wake(readable: "asyncio.Future[None]") -> None:
    if not readable.done():
        readable.set_result(None)
