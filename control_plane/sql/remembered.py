"""Reads that are asked for again and again: what was read is given again until it changes.

Whether it did is asked after every commit, by a query that costs next to nothing (`commits.Mark`): to read
all of it again would have everybody wait whenever anybody changes anything. A read that a change overtook
isn't kept, and a writer's own change is known here before its write returns, so that nobody reads less than
they wrote. Changes by other processes are heard of a moment later, as by everybody who follows the change
log; what is remembered should therefore be written by one process.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from control_plane.sql.thread import SqlThread

T = TypeVar("T")

MAX_KEPT: Final = 64


class RememberedReads:
    """The reads of one store. What they give is shared between callers and must not be changed by them.

    `mark` is a query whose one row is another one after every change of anything that is read here, and never
    again one that it was before."""

    def __init__(self, thread: SqlThread, mark: str) -> None:
        self._thread = thread
        self._mark = thread.mark(mark)
        self._changes = self._mark.changes
        self._kept: dict[Hashable, Any] = {}
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, key: Hashable, doing: str, work: Callable[[Connection], T]) -> T:
        """As `SqlThread.read`; `key` names what `work` reads. Who ask at once are answered by one read."""
        if self._mark.changes != self._changes:
            self._changes = self._mark.changes
            self._kept.clear()
            self._asked.clear()  # whoever waits for these began before the change
        if key in self._kept:
            return self._kept[key]  # type: ignore[no-any-return]
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._read(key, self._changes, doing, work))
        return await asyncio.shield(self._asked[key])

    async def _read(self, key: Hashable, before: int, doing: str, work: Callable[[Connection], T]) -> T:
        try:
            found = await self._thread.read(doing, work)
        finally:
            if self._asked.get(key) is asyncio.current_task():
                del self._asked[key]
        if self._mark.changes == before == self._changes:
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = found
        return found
