"""Loads again what the change log only says to be stale: the authority state, what is assigned of policies.

The index takes changes in as it reads them; what is kept here comes a moment later, so each follower knows
up to which change it is complete. A failure is tried again, and what was loaded stays.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from control_plane.core.errors import GatehouseError
from control_plane.runtime.log import Log

RETRY_SECONDS: Final = 1.0
_ALL: Final = 2**64  # beyond every number of a change


class Follower:
    """One loop. `load` reads and takes in what is stored now; `failure` is the event that is logged."""

    def __init__(self, load: Callable[[], Awaitable[None]], failure: str, log: Log) -> None:
        self._load = load
        self._failure = failure
        self._log = log
        self._told = asyncio.Event()
        self._complete_to = _ALL  # lower while a change after it isn't loaded
        self._loading_from = _ALL  # the same of what is being loaded at the moment
        self._loaded = asyncio.Condition()

    def tell(self, since: int) -> None:
        """Something was changed after the change number `since`."""
        self._complete_to = min(self._complete_to, since)
        self._told.set()

    def holds(self, sequence: int) -> bool:
        """Whether everything up to this change is loaded."""
        return sequence <= min(self._complete_to, self._loading_from)

    async def reach(self, sequence: int) -> None:
        """Returns once everything up to this change is loaded; the caller bounds the wait."""
        async with self._loaded:
            await self._loaded.wait_for(lambda: self.holds(sequence))

    async def run(self, stop: asyncio.Event) -> None:
        """Loads whenever it was told to, until `stop`."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                told = asyncio.ensure_future(self._told.wait())
                await asyncio.wait({told, stopping}, return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
                if stop.is_set():
                    return
                if not await self._once():
                    await asyncio.wait({stopping}, timeout=RETRY_SECONDS)
                    self._told.set()
        finally:
            stopping.cancel()

    async def _once(self) -> bool:
        self._told.clear()
        self._loading_from, self._complete_to = min(self._loading_from, self._complete_to), _ALL
        try:
            await self._load()
        except GatehouseError as error:
            self._log.error(self._failure, reason=str(error))
            return False
        self._loading_from = _ALL
        async with self._loaded:
            self._loaded.notify_all()
        return True
