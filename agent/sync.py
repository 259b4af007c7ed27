"""Keeps entries and bundles as the server has them: by its pushes where it pushes, else by asking.

A Gatehouse server pushes (`gatehouse.node.v1.Node/Watch`): the full state first, then each change within
milliseconds. A SPIRE server answers UNIMPLEMENTED; then the agent polls as SPIRE's own agents do, every 5 s
with growing waits on failure, and asks now and again whether pushing has become possible.

Every outcome is told to `Identities`; failures are kept for `explain` and never take anything away.
"""

import asyncio
from typing import Final

from agent.backoff import SERVER, Backoff, fraction
from agent.connection import ServerSession
from agent.enforcement.policies import Policies
from agent.identities import Identities
from agent.jwt_svids import JwtSvids
from agent.keeper import Keeper
from agent.node import Node
from agent.ports import Change
from agent.reporting import Reporter
from agent.waiting import wait_any
from control_plane.core.bundle import Bundle
from control_plane.core.errors import (
    DeadlineExceeded,
    GatehouseError,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

POLL_SECONDS: Final = 5.0
POLL_BACKOFF: Final = Backoff(first_seconds=5, ceiling_seconds=240, factor=1.5)
ASK_FOR_PUSH_SECONDS: Final = 600.0
SILENCE_SECONDS: Final = 75.0  # heartbeats come every 30 s
STEADY_SECONDS: Final = 10.0  # a stream that lived this long ended in the ordinary course
MAX_FEDERATED_AT_ONCE: Final = 10

_log = get_logger(__name__)


class Synchroniser:
    """The loop. `last_sync` is in Unix seconds, 0 before the first, also of a life before; `error` says why
    the last try failed. `first_word` is set once all of the server's state has come in this life."""

    def __init__(
        self,
        identities: Identities,
        node: Node,
        keeper: Keeper,
        jwt_svids: JwtSvids,
        clock: Clock,
        stored: asyncio.Event,
        policies: Policies,
        reporter: Reporter,
    ) -> None:
        self._identities = identities
        self._node = node
        self._keeper = keeper
        self._jwt_svids = jwt_svids
        self._clock = clock
        self._stored = stored
        self._policies = policies
        self._reporter = reporter
        self._failures = 0
        self._reported: int | None = None
        self.last_sync = 0
        self.first_word = asyncio.Event()
        self.error = ""
        self.pushed = False
        self._polling = False

    @property
    def heard(self) -> bool:
        """Whether the server told its state in this life of the agent."""
        return self.first_word.is_set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`."""
        poll_until = 0.0
        while not stop.is_set():
            self._node.changed.clear()
            session = self._node.session()
            if session is None:
                await self._pause(stop, 1.0)
                continue
            try:
                if self._clock.monotonic() < poll_until:
                    await self._poll(session)
                    self._succeeded()
                    jitter = 0.9 + 0.2 * fraction(f"{session.serial}/{self._clock.monotonic()}")
                    await self._pause(stop, POLL_SECONDS * jitter)
                else:
                    await self._watch(session, stop)
            except Unimplemented:
                _log.info("server_does_not_push", next="polling", seconds=POLL_SECONDS)
                poll_until = self._clock.monotonic() + ASK_FOR_PUSH_SECONDS
                self.pushed, self._polling = False, True
            except GatehouseError as error:
                await self._failed(session, error, stop)

    # ------------------------------------------------------------------ push

    async def _watch(self, session: ServerSession, stop: asyncio.Event) -> None:
        """Follows the server's pushes until the stream ends or another connection takes over."""
        began = self._clock.monotonic()
        stating = False
        try:
            async with session.api.watch(self._identities.entries, self._policies.known) as changes:
                iterator = changes.__aiter__()
                while (change := await self._next(iterator, session, stop)) is not None:
                    if not change.is_heartbeat:
                        await self._apply(session, change)
                    self.pushed, self._polling = True, False
                    stating = stating or change.full
                    if stating and not change.more:  # half of the state is no reason to refuse anybody
                        self._succeeded()
        except Unavailable as error:
            # Servers end old connections on purpose, so that agents spread anew.
            if self._clock.monotonic() - began < STEADY_SECONDS:
                raise
            _log.debug("push_stream_ended", reason=str(error))
        if self._clock.monotonic() - began < STEADY_SECONDS:
            await self._pause(stop, SERVER.delay(2, str(session.serial)))

    async def _next(self, iterator: object, session: ServerSession, stop: asyncio.Event) -> Change | None:
        """The next push; None when this connection's time is over."""
        pending = asyncio.ensure_future(anext(iterator))  # type: ignore[call-overload]
        changed = asyncio.ensure_future(self._node.changed.wait())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait(
                (pending, changed, stopped), timeout=SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if pending.done():
                try:
                    return pending.result()  # type: ignore[no-any-return]
                except StopAsyncIteration:
                    return None
            if changed.done() or stopped.done():
                return None
            raise DeadlineExceeded(f"the server's push stream was silent for {SILENCE_SECONDS:.0f} s")
        finally:
            for task in (pending, changed, stopped):
                task.cancel()
            await asyncio.gather(pending, changed, stopped, return_exceptions=True)

    async def _apply(self, session: ServerSession, change: Change) -> None:
        federated = {} if change.full else dict(self._identities.federated)
        for domain in change.removed_federated:
            federated.pop(domain, None)
        federated.update((bundle.trust_domain, bundle) for bundle in change.federated)
        await self._take_bundles(session, change.bundle or self._node.bundle, federated)
        self._identities.change_entries(change.upserted, change.removed)
        if change.early is not None:
            asked = change.early
            self._identities.renew_early(asked.issuer_key_ids, self._clock.unix(), asked.within_seconds)
            self._node.renew_early(asked.issuer_key_ids, asked.within_seconds)
        self._policies.take(change.news, full=change.full)
        if change.wanted is not None:
            self._reporter.take(change.wanted)
        self._changed()

    # ------------------------------------------------------------------ poll

    async def _poll(self, session: ServerSession) -> None:
        entries = await session.api.sync_entries(self._identities.entries)
        own = await session.api.bundle()
        wanted = sorted({domain for entry in entries.values() for domain in entry.federates_with})
        federated: dict[TrustDomain, Bundle] = {}
        for start in range(0, len(wanted), MAX_FEDERATED_AT_ONCE):
            share = wanted[start : start + MAX_FEDERATED_AT_ONCE]
            for bundle in await asyncio.gather(*(session.api.federated_bundle(domain) for domain in share)):
                if bundle is not None:
                    federated[bundle.trust_domain] = bundle
        await self._take_bundles(session, own, federated)
        self._identities.replace_entries(entries.values())
        self._changed()

    # ------------------------------------------------------------------ both

    async def _take_bundles(
        self, session: ServerSession, own: Bundle, federated: dict[TrustDomain, Bundle]
    ) -> None:
        self._jwt_svids.bundle_changed(self._identities.bundle, own)
        await self._node.take_bundle(own)
        self._identities.replace_bundles(own, federated)
        if self._reported != own.sequence:
            try:
                await session.api.post_status(own.sequence)
                self._reported = own.sequence
            except PermissionDenied:
                raise
            except GatehouseError as error:
                _log.info("status_not_posted", error=str(error))  # asked again with the next change

    def _changed(self) -> None:
        self._keeper.wake()
        self._stored.set()

    def _succeeded(self) -> None:
        if self._failures:
            self._keeper.server_answers()
        self.last_sync = self._clock.unix()
        self.first_word.set()
        self._node.answered()
        self.error = ""
        self._failures = 0

    async def _failed(self, session: ServerSession, error: GatehouseError, stop: asyncio.Event) -> None:
        self._failures += 1
        self.error = str(error)
        self._node.failed(session, error)
        if self._failures > 1 and isinstance(error, Unavailable | DeadlineExceeded):
            self._node.reconnect()  # the server has several processes, and another may be better off
        backoff = POLL_BACKOFF if self._polling else SERVER
        delay = backoff.delay(self._failures, str(session.serial))
        _log.warning("sync_failed", error=str(error), retry_seconds=round(delay, 1))
        await self._pause(stop, delay)

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        """Waits, but not longer than it takes for another connection to be ready."""
        await wait_any(stop, self._node.changed, timeout_seconds=seconds)
