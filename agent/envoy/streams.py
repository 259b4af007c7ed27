"""What all discovery streams have in common: requests are taken as they come, news goes out, both bounded.

A reader takes each request into the stream's state and wakes the writer; the writer sends what is due then.
Between two of its turns any number of requests and news become one answer, so that neither a flood of
requests nor a slow reader makes us hold more than the state.

One stream is a connection's call; it is attested like a stream of the Workload API and ends with its process.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from agent.attest.sessions import Session, Sessions
from agent.broadcast import Listener
from agent.envoy import wire
from agent.envoy.subscription import Answer, Ask, Delta, Kind, StateOfTheWorld, Subscription
from control_plane.core.errors import CallerError, InvalidInput, ResourceExhausted, Unavailable, shown
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

MAX_STREAMS: Final = 4096  # of one process
MAX_REJECTIONS: Final = 20  # that are logged of one stream
MAX_MISSING: Final = 10  # names that are logged at once

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one of the two protocols is read and written."""

    read: Callable[[bytes], wire.Incoming]
    write: Callable[[Answer], bytes]
    subscription: Callable[[Kind], Subscription]
    delta: bool


STATE_OF_THE_WORLD: Final = Dialect(
    wire.read_state_of_the_world, wire.write_state_of_the_world, StateOfTheWorld, delta=False
)
DELTA: Final = Dialect(wire.read_delta, wire.write_delta, Delta, delta=True)


class Subscriptions:
    """The types of one stream, and what its client had to say about them."""

    def __init__(self, kinds: Iterable[Kind], dialect: Dialect, pid: int) -> None:
        self.dialect = dialect
        self.node: wire.NodeClaim | None = None
        self._kinds = {kind.type_url: kind for kind in kinds}
        self._default = next(iter(self._kinds)) if len(self._kinds) == 1 else ""
        self._found: dict[str, Subscription] = {}
        self._pid = pid
        self._rejections = 0
        self._missing: tuple[str, ...] = ()

    def take(self, payload: bytes) -> Ask:
        """Takes one request. Raises InvalidInput for a type that isn't served here."""
        incoming = self.dialect.read(payload)
        ask = incoming.ask
        # Services of one type needn't name it.
        type_url = ask.type_url or self._default
        kind = self._kinds.get(type_url)
        if kind is None:
            raise InvalidInput(
                f"a discovery request asks for the type {shown(ask.type_url)}",
                hint=f"served here: {', '.join(self._kinds)}",
            )
        if incoming.node is not None and self.node is None:
            self.node = incoming.node
        if ask.rejected is not None:
            self._rejected(kind, ask.rejected)
        subscription = self._found.get(type_url)
        if subscription is None:
            subscription = self._found[type_url] = self.dialect.subscription(kind)
        subscription.take(ask)
        return ask

    def get(self, type_url: str) -> Subscription | None:
        """The subscription to a type; None before the first request for it."""
        return self._found.get(type_url)

    def tell_missing(self, missing: tuple[str, ...]) -> None:
        """Logs the names that there is nothing for, once until they are others."""
        if missing != self._missing and missing:
            _log.info(
                "envoy_waits_for_names",
                pid=self._pid,
                node=shown(self.node.id) if self.node is not None else "",
                names=[shown(name) for name in missing[:MAX_MISSING]],
                count=len(missing),
            )
        self._missing = missing

    def _rejected(self, kind: Kind, message: str) -> None:
        self._rejections += 1
        if self._rejections <= MAX_REJECTIONS:
            _log.warning(
                "envoy_rejected_configuration",
                pid=self._pid,
                node=shown(self.node.id) if self.node is not None else "",
                type=kind.type_url.rpartition(".")[2],
                error=shown(message, 500),
                more_are_not_logged=self._rejections == MAX_REJECTIONS,
            )


class Streams:
    """Opens discovery streams: attests the caller and counts what it holds open."""

    def __init__(self, sessions: Sessions, ready: Callable[[], str]) -> None:
        """`ready` says why nothing can be served yet; empty once the agent knows its entries."""
        self._sessions = sessions
        self._ready = ready
        self._open: Counter[int] = Counter()  # by process; each connection is a session of its own

    async def attest(self, call: Call) -> Session:
        """Who calls. Raises Unavailable while nothing can be served, PermissionDenied."""
        if reason := self._ready():
            raise Unavailable(f"the agent isn't ready: {reason}", retry_after_seconds=1)
        try:
            return await self._sessions.of(call.peer)
        except CallerError as error:
            _log.info("envoy_not_attested", peer=call.peer.address, error=str(error))
            raise

    async def follow(
        self,
        session: Session,
        listener: Listener,
        requests: AsyncIterator[Any],
        take: Callable[[bytes], object],
        due: Callable[[], Iterable[bytes]],
    ) -> AsyncIterator[bytes]:
        """Runs one stream until the caller ends it, its process ends, or `take` or `due` raise."""
        pid = session.process.pid
        if self._open[pid] >= MAX_STREAMS:
            raise ResourceExhausted(
                f"this process has {MAX_STREAMS} discovery streams open, no more are taken"
            )
        self._open[pid] += 1

        async def read() -> None:
            try:
                async for request in requests:
                    take(request.SerializeToString())
                    listener.wake()
            finally:
                listener.wake()

        reader = asyncio.get_running_loop().create_task(read())
        try:
            while True:
                for message in due():
                    yield message
                if reader.done():
                    reader.result()
                    return
                await listener.wait(None)
        finally:
            reader.cancel()
            with contextlib.suppress(CallerError, asyncio.CancelledError):
                await reader
            self._open[pid] -= 1
            if not self._open[pid]:
                del self._open[pid]
