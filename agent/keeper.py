"""Executes what `Identities` finds due: has SVIDs signed, tells subscribers, and keeps the server from harm.

One loop, woken by changes and at least once a second by the clock (so that a clock that jumps, or a machine
that slept, is noticed within a second). At most two batches are under way; a server that can't be reached is
asked again after a growing wait, by all entries together and not by each; a batch that fails as a whole is
made smaller.

What is due and when is not decided here.
"""

import asyncio
from typing import Final

from agent.backoff import SERVER
from agent.broadcast import Broadcast
from agent.connection import ServerSession
from agent.identities import Identities
from agent.keys import FreshKey
from agent.node import Node
from agent.waiting import wait_any
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError, PermissionDenied, Unavailable
from control_plane.core.svid import JwtSvid
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

TICK_SECONDS: Final = 1.0
MAX_BATCH: Final = 50  # the server yields to others about every millisecond of signing, so more gains little
MAX_BATCHES: Final = 2
KEYS_PER_STEP: Final = 8  # making a key and its request takes 75 µs; the loop is held no longer than 1 ms

_log = get_logger(__name__)


class Keeper:
    """The loop. `stored` is set whenever something changed that the cache should hold."""

    def __init__(
        self, identities: Identities, node: Node, broadcast: Broadcast, clock: Clock, stored: asyncio.Event
    ) -> None:
        self._identities = identities
        self._node = node
        self._broadcast = broadcast
        self._clock = clock
        self._stored = stored
        self._wake = asyncio.Event()
        self._batches: set[asyncio.Task[None]] = set()
        self._batch_size = MAX_BATCH
        self._failures = 0
        self._resume_at = 0.0  # of the monotonic clock: waits for the server don't depend on the wall clock
        self.error = ""

    def server_answers(self) -> None:
        """The server was away and is back: what waits for it need not wait longer."""
        self._resume_at = 0.0
        self.wake()

    def wake(self) -> None:
        """Something changed: look now."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`."""
        try:
            while not stop.is_set():
                self._wake.clear()
                self._step()
                await wait_any(stop, self._wake, timeout_seconds=TICK_SECONDS)
        finally:
            for task in self._batches:
                task.cancel()
            await asyncio.gather(*self._batches, return_exceptions=True)

    async def new_jwt_svid(self, entry: Entry, audience: tuple[str, ...]) -> JwtSvid:
        """Has a token signed on behalf of a workload; part of `JwtSigner`."""
        session = self._node.session()
        if session is None:
            raise Unavailable(
                f"JWT-SVID for {entry.spiffe_id}: no connection to the server: {self._node.error}"
            )
        try:
            return await session.api.new_jwt_svid(entry, audience)
        except PermissionDenied as error:
            self._node.denied(session, error)
            raise

    def _step(self) -> None:
        while True:
            session = self._node.session()
            open_for_more = (
                session is not None
                and len(self._batches) < MAX_BATCHES
                and self._clock.monotonic() >= self._resume_at
            )
            due = self._identities.due(self._clock.unix(), self._batch_size if open_for_more else 0)
            self._broadcast.notify(due.notify)
            if not due.sign or session is None:
                return
            task = asyncio.create_task(self._sign(session, due.sign))
            self._batches.add(task)
            task.add_done_callback(self._batch_ended)

    def _batch_ended(self, task: "asyncio.Task[None]") -> None:
        self._batches.discard(task)
        self.wake()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a bug of ours: the loop's handler logs it

    async def _sign(self, session: ServerSession, ordered: tuple[Entry, ...]) -> None:
        try:
            keys = []
            for index, _ in enumerate(ordered):
                keys.append(FreshKey())
                if index % KEYS_PER_STEP == KEYS_PER_STEP - 1:
                    await asyncio.sleep(0)
            results = await session.api.new_x509_svids(
                [(entry, key.csr) for entry, key in zip(ordered, keys, strict=True)]
            )
        except GatehouseError as error:
            self._refused(session, ordered, error)
            return
        except BaseException:
            self._identities.released(ordered)
            raise
        self._failures = 0
        self._batch_size = min(self._batch_size * 2, MAX_BATCH)
        self.error = ""
        for entry, key, result in zip(ordered, keys, results, strict=True):
            self._take(entry, key, result)
        self._stored.set()

    def _take(self, entry: Entry, key: FreshKey, result: tuple[bytes, ...] | GatehouseError) -> None:
        now = self._clock.unix()
        try:
            if isinstance(result, GatehouseError):
                raise result
            svid = key.accept(result, entry.spiffe_id, now)
        except GatehouseError as error:
            self._identities.failed(entry, now, str(error))
            _log.warning("svid_failed", spiffe_id=str(entry.spiffe_id), entry_id=entry.id, error=str(error))
            return
        if self._identities.signed(entry, key.hold(svid, now)):
            _log.debug("svid_renewed", spiffe_id=str(svid.spiffe_id), serial=f"{svid.serial:x}")

    def _refused(self, session: ServerSession, ordered: tuple[Entry, ...], error: GatehouseError) -> None:
        self._identities.released(ordered)
        self._failures += 1
        self._batch_size = max(self._batch_size // 2, 1)
        delay = SERVER.delay(self._failures, str(session.serial))
        self._resume_at = self._clock.monotonic() + delay
        self.error = f"having SVIDs signed: {error}"
        _log.warning("signing_failed", entries=len(ordered), error=str(error), retry_seconds=round(delay, 1))
        self._node.failed(session, error)
