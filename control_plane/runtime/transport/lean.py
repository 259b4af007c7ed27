"""Small stand-ins for what grpclib keeps per stream and per connection.

An agent holds thousands of idle streams, each on a connection of its own. asyncio's Event and Queue carry a
deque of more than half a KiB each, and grpclib uses a dozen of them per stream; these carry one reference.
"""

import asyncio
from collections.abc import Callable


class Signal:
    """An asyncio.Event without its deque: the same four methods, for waiters of one event loop."""

    __slots__ = ("_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._set = is_set
        self._waiters: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> None:
        if self._set:
            return
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        try:
            await waiter
        finally:
            waiters = self._waiters or []
            if waiter in waiters:
                waiters.remove(waiter)


class ReceiveBuffer:
    """Bytes of one stream that came and weren't read; the stand-in for grpclib's Buffer.

    Flow control: a byte is acknowledged when it is read, or while a reader waits for more than is here.
    A peer can therefore fill one window per stream, and beyond that only what a reader asked for.
    """

    __slots__ = ("_acknowledge", "_data", "_eof", "_unacknowledged", "_waiter")

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._data: bytearray | None = None
        self._unacknowledged = 0
        self._eof = False
        self._waiter: asyncio.Future[None] | None = None

    def add(self, data: bytes, ack_size: int) -> None:
        """Takes one DATA frame: its payload, and what it weighs in flow control with padding."""
        self._unacknowledged += ack_size
        if self._data is None:
            self._data = bytearray(data)
        else:
            self._data += data
        self._wake()

    def eof(self) -> None:
        """The peer has ended its side of the stream."""
        self._eof = True
        self._wake()

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or fewer when the stream ended before; b"" at its end."""
        while not self._eof and self.size() < size:
            self._acknowledge_all()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._data is None:
            return b""
        piece = bytes(self._data[:size])
        del self._data[:size]
        if not self._data:
            self._data = None
            self._acknowledge_all()
        return piece

    def size(self) -> int:
        """Bytes that can be read at once."""
        return 0 if self._data is None else len(self._data)

    def ended(self) -> bool:
        """True once the peer has sent all that it will send."""
        return self._eof

    def unacked_size(self) -> int:
        """Gives up what wasn't read; returns what is still to be acknowledged to the peer."""
        self._data = None
        self._acknowledge = _nothing  # it leads back to the stream, and that would be a cycle
        unacknowledged, self._unacknowledged = self._unacknowledged, 0
        return unacknowledged

    def _acknowledge_all(self) -> None:
        if self._unacknowledged:
            size, self._unacknowledged = self._unacknowledged, 0
            self._acknowledge(size)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _nothing(size: int) -> None:
    """Nobody wants acknowledgements of a stream that has ended."""
