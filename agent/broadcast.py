"""Carries "there is news for you" from the state machine to the streams that wait for it.

A stream holds a `Listener`: it is woken when something changed for its selectors, when its process was found
to have other selectors, and when its process ended. What the news is, the stream looks up itself: a slow
reader misses steps in between, never the last state.
"""

import asyncio
from collections.abc import Callable, Iterable

from agent.attest.sessions import Session
from agent.identities import Identities
from control_plane.core.errors import PermissionDenied
from control_plane.core.selectors import Selectors


class Listener:
    """One stream's ear; a context manager, so that it is always given back."""

    __slots__ = ("_broadcast", "_news", "_session", "_subscription", "_waiter", "_x509")

    def __init__(self, broadcast: "Broadcast", session: Session, *, x509: bool) -> None:
        self._broadcast = broadcast
        self._session = session
        self._x509 = x509
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        self._subscription = 0

    def __enter__(self) -> "Listener":
        self._subscription = self._broadcast.add(self, self._session.selectors, x509=self._x509)
        self._session.listeners.add(self.wake)
        return self

    def __exit__(self, *_: object) -> None:
        self._session.listeners.discard(self.wake)
        self._broadcast.remove(self._subscription)

    @property
    def selectors(self) -> Selectors:
        """The process's selectors now. Raises PermissionDenied once it has ended."""
        if self._session.ended:
            raise PermissionDenied("the process that opened this stream has ended")
        self._broadcast.move(self._subscription, self._session.selectors)
        return self._session.selectors

    @property
    def session(self) -> Session:
        """The connection, and the process, that listens."""
        return self._session

    def wake(self) -> None:
        """There is news."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_seconds: float | None) -> bool:
        """Waits for news; False if the time ran out first. News that came meanwhile counts."""
        if not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                if timeout_seconds is None:
                    await self._waiter
                else:
                    await asyncio.wait_for(self._waiter, timeout_seconds)
            except TimeoutError:
                return False
            finally:
                self._waiter = None
        self._news = False
        return True


class Broadcast:
    """All listeners by their subscription."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._listeners: dict[int, Listener] = {}
        self.on_change: Callable[[], None] = lambda: None  # called when SVIDs may have become due

    def listen(self, session: Session, *, x509: bool) -> Listener:
        """An ear for one stream, to be used in a `with` statement."""
        return Listener(self, session, x509=x509)

    def notify(self, subscriptions: Iterable[int]) -> None:
        """Wakes these; unknown ones have gone meanwhile."""
        for subscription in subscriptions:
            listener = self._listeners.get(subscription)
            if listener is not None:
                listener.wake()

    def wake_all(self) -> None:
        """Something concerns everybody."""
        for listener in tuple(self._listeners.values()):
            listener.wake()

    def add(self, listener: Listener, selectors: Selectors, *, x509: bool) -> int:
        """For Listener."""
        subscription = self._identities.subscribe(selectors, x509=x509)
        self._listeners[subscription] = listener
        self.on_change()
        return subscription

    def move(self, subscription: int, selectors: Selectors) -> None:
        """For Listener."""
        if self._identities.move(subscription, selectors):
            self.on_change()

    def remove(self, subscription: int) -> None:
        """For Listener."""
        del self._listeners[subscription]
        self._identities.unsubscribe(subscription)
