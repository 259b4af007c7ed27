"""What happens, for live views: the latest events in one ring that every listener reads at its own pace.

A listener holds nothing but its place, so that a slow one costs no memory; when the ring has gone on without
it, it is told how many events it missed. Places are named by the process that counted them, so that a place
from before a restart is known to be worthless. Nothing here is durable: what is true now, other routes say.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from control_plane.core.spiffe_id import SpiffeId

KEPT: Final = 1024

TOPICS: Final[Mapping[str, str]] = {
    "policy": "policy.read",
    "quarantine": "status.read",
    "agent": "agent.read",
    "authority": "authority.read",
}
"""Topic → the action that its events are shown for (rego/admin). The `kind` of an event is `topic.…`."""


OF_IDENTITIES: Final = frozenset({"quarantine", "agent"})
"""Topics whose events concern one SPIFFE ID each, so that a role on a part of the trust domain sees some."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `spiffe_id` is whom it concerns, None for the whole trust domain; `data` is
    plain JSON."""

    number: int
    kind: str
    at: int
    data: Mapping[str, object]
    spiffe_id: SpiffeId | None = None

    @property
    def topic(self) -> str:
        """The first part of its kind."""
        return self.kind.partition(".")[0]


@dataclass(slots=True)
class Place:
    """How far a listener has read."""

    next_number: int
    missed: int = field(default=0)


class Events:
    """A service: `run` ends every listener's wait when the process stops. Belongs to the event loop."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._ring: deque[Event] = deque(maxlen=kept)
        self._epoch = secrets.token_hex(4)
        self._next = 1
        self._news = asyncio.Event()
        self.closing = False
        self.listeners = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`."""
        await stop.wait()
        self.closing = True
        self.wake()

    def publish(
        self, kind: str, at: int, data: Mapping[str, object], *, spiffe_id: SpiffeId | None = None
    ) -> None:
        """Adds an event and wakes the listeners. `at` in Unix seconds."""
        event = Event(self._next, kind, at, data, spiffe_id)
        assert event.topic in TOPICS, kind
        self._ring.append(event)
        self._next += 1
        self.wake()

    def wake(self) -> None:
        """Has every listener look again: for news, for the end, or whether it may still listen."""
        self._news.set()
        self._news = asyncio.Event()

    def place(self, last_event_id: str) -> Place:
        """Where a listener begins: behind the event that it saw last, or now. What can't be resumed counts as
        one event missed, for nobody knows how many there were."""
        epoch, _, number = last_event_id.partition("-")
        known = epoch == self._epoch and number.isascii() and number.isdigit() and len(number) < 19
        if known and int(number) < self._next:
            return Place(int(number) + 1)
        return Place(self._next, missed=1 if last_event_id else 0)

    def id_of(self, number: int) -> str:
        """The name of the place behind an event."""
        return f"{self._epoch}-{number}"

    def take(self, place: Place) -> list[Event]:
        """The events from `place` on, which moves behind them; counts what has fallen out of the ring."""
        first = self._next - len(self._ring)
        if place.next_number < first:
            place.missed += first - place.next_number
            place.next_number = first
        found = list(islice(self._ring, place.next_number - first, None))
        place.next_number = self._next
        return found

    async def wait(self, place: Place, timeout_seconds: float) -> None:
        """Returns when there is something behind `place`, when all are woken, or after the timeout."""
        if place.next_number < self._next or self.closing:
            return
        news = self._news
        try:
            async with asyncio.timeout(timeout_seconds):
                await news.wait()
        except TimeoutError:
            return
