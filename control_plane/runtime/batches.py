"""Values by key, gathered and written to storage together, once a second.

The last value of a key counts. What a failed write held is written again, unless something newer came or
the key was dropped meanwhile. What wasn't written when the process dies is lost: this is for what is told
again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from control_plane.core.errors import GatehouseError
from control_plane.runtime.log import get_logger

EVERY_SECONDS: Final = 1.0

K = TypeVar("K")
V = TypeVar("V")


class Batches(Generic[K, V]):
    """A service that writes what was put; one an event loop. `name` is for the log: `NAME_not_written`."""

    def __init__(self, name: str, write: Callable[[dict[K, V]], Awaitable[None]]) -> None:
        self._name = name
        self._write = write
        self._waiting: dict[K, V] = {}
        self._writing: dict[K, V] = {}

    def put(self, key: K, value: V) -> None:
        """To be written with the next batch."""
        self._waiting[key] = value

    def drop(self, key: K) -> None:
        """What waits for this key isn't to be written any more."""
        self._waiting.pop(key, None)
        self._writing.pop(key, None)

    async def flush(self) -> None:
        """Writes what waits. Raises as `write` does; nothing is lost then."""
        if not self._waiting:
            return
        self._writing, self._waiting = self._waiting, {}
        try:
            await self._write(dict(self._writing))
        except BaseException:
            self._waiting = self._writing | self._waiting
            raise
        finally:
            self._writing = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Writes once a second until `stop`, and a last time then."""
        log = get_logger(self._name)
        while not stop.is_set():
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await stop.wait()
            except TimeoutError:
                pass
            try:
                await self.flush()
            except GatehouseError as error:
                log.warning(f"{self._name}_not_written", reason=str(error))
