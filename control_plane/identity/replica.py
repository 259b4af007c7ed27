"""Keeps an index current by following the change log, and tells who waits for news.

One an event loop. `refresh` is both the tail (run soon after each commit of any process) and the way to read
one's own writes: it returns when everything committed before the call is in the index. Concurrent calls
share one reading. If reading fails the index stays as it was, still answers, and the tail tries again.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.index import Effects, Index
from control_plane.identity.ports import ChangeLog
from control_plane.runtime.log import get_logger

RETRY_SECONDS: Final = 1.0
MAX_NOTED_ENTRIES: Final = 10_000
SWEEP_SECONDS: Final = 300.0
"""An agent that asks less often than this finds its entries looked up anew, which costs it milliseconds."""


class Subscription:
    """News for one agent, gathered until they are taken: bounded, since it holds IDs and not values."""

    __slots__ = ("_bundles", "_entries", "_everything", "_news", "_waiter", "agent_id", "ended")

    def __init__(self, agent_id: SpiffeId) -> None:
        self.agent_id = agent_id
        self.ended = False  # the process is stopping: nothing more will come
        self._entries: set[str] | None = None
        self._everything = False
        self._bundles = False
        self._news = False
        self._waiter: asyncio.Future[None] | None = None  # ten thousand wait: an Event has a deque each

    async def wait(self, timeout_seconds: float) -> bool:
        """True as soon as there are news, false after the timeout or at the end. One may wait at a time."""
        if not self._news and not self.ended:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout_seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._news

    def take(self) -> tuple[set[str] | None, bool]:
        """The IDs of entries that changed (None: compare everything), and whether a bundle changed."""
        entries = None if self._everything else self._entries or set()
        bundles = self._bundles
        self._entries, self._everything, self._bundles, self._news = None, False, False, False
        return entries, bundles

    def note(self, entries: set[str] | None, *, bundles: bool = False) -> None:
        """Adds news and wakes the waiter."""
        if entries is None or len(self._entries or ()) + len(entries) > MAX_NOTED_ENTRIES:
            self._everything = True
            self._entries = None
        elif entries and not self._everything:
            self._entries = entries | (self._entries or set())
        self._bundles |= bundles
        self._news = True
        self._wake()

    def end(self) -> None:
        """Has the waiter go."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Replica:
    """An `Index` and the tail that feeds it."""

    def __init__(self, changes: ChangeLog, index: Index, *, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self.index = index
        self._sweep_seconds = sweep_seconds
        self._changes = changes
        self._subscriptions: dict[SpiffeId, set[Subscription]] = {}
        self._listeners: list[Callable[[Effects], None]] = []
        self._ended = False
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._log = get_logger("replica")
        changes.on_change(self._news.set)

    def listen(self, listener: Callable[[Effects], None]) -> None:
        """Calls `listener` with the effects of each applied change set; it must be quick and not raise."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Returns when all that was committed before this call is in the index. Raises as the port does."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._next)

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the change log until `stop` is set, and frees what agents that left no longer ask for."""
        stopping = asyncio.ensure_future(stop.wait())
        clock = asyncio.get_running_loop().time
        sweep_at = clock() + self._sweep_seconds
        try:
            while not stop.is_set():
                news = asyncio.ensure_future(self._news.wait())
                await asyncio.wait(
                    {news, stopping},
                    timeout=max(sweep_at - clock(), 0),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                news.cancel()
                if stop.is_set():
                    return
                if clock() >= sweep_at:
                    self.index.forget_idle_views(self._subscriptions)
                    sweep_at = clock() + self._sweep_seconds
                if not self._news.is_set():
                    continue
                self._news.clear()
                try:
                    await self.refresh()
                except GatehouseError as error:
                    self._log.error("change_log_unreadable", reason=str(error))
                    await asyncio.wait({stopping}, timeout=RETRY_SECONDS)
                    self._news.set()
        finally:
            stopping.cancel()

    def subscribe(self, agent_id: SpiffeId) -> Subscription:
        """News for an agent from now on. Give it back with `unsubscribe`."""
        subscription = Subscription(agent_id)
        subscription.ended = self._ended
        self._subscriptions.setdefault(agent_id, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; after the last one, the agent's view is freed unless it is asked for soon."""
        mine = self._subscriptions.get(subscription.agent_id)
        if mine is not None:
            mine.discard(subscription)
            if not mine:
                del self._subscriptions[subscription.agent_id]

    def end_subscriptions(self) -> None:
        """Ends them all, and those to come: their streams would else be open for as long as they may."""
        self._ended = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end()

    def tell_all(self) -> None:
        """Wakes every subscription: our own bundle, a policy or the quarantine changed."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.note(set(), bundles=True)

    async def _read(self) -> None:
        async with self._reading:
            self._next = None  # whoever calls from here on may have written after we read
            changes = await self._changes.changes_after(self.index.sequence)
            if changes.is_empty:
                self.index.sequence = changes.sequence
                return
            effects = self.index.apply(changes)
            self._spread(effects)

    def _spread(self, effects: Effects) -> None:
        for agent_id, entry_ids in effects.entries.items():
            for subscription in self._subscriptions.get(agent_id, ()):
                subscription.note(entry_ids)
        for agent_id in effects.reset:
            for subscription in self._subscriptions.get(agent_id, ()):
                subscription.note(None)
        if effects.bundles or effects.quarantine:
            self.tell_all()
        for listener in self._listeners:
            listener(effects)
