"""One connection as the server sees it: admission, its calls, and how it ends.

A call is one task. Whatever happens in it ends as trailers here: a GatehouseError as its status, a deadline
as DEADLINE_EXCEEDED, an exception that nobody meant as INTERNAL with an id whose story is in the log. The
session doesn't know sockets and listeners; `server` owns those and calls `tick` about once a second.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from grpclib.protocol import AbstractHandler, Stream
from h2.errors import ErrorCodes

from control_plane.core.errors import (
    Bug,
    DeadlineExceeded,
    GatehouseError,
    Unavailable,
    Unimplemented,
    shown,
)
from control_plane.runtime import tracing
from control_plane.runtime.log import Log
from control_plane.runtime.transport import messages
from control_plane.runtime.transport.call import Call
from control_plane.runtime.transport.connection import (
    LeanConnection,
    LeanStream,
    StreamGone,
)
from control_plane.runtime.transport.engine import Headers
from control_plane.runtime.transport.exchange import StreamReply, StreamRequests
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.peer import Peer
from control_plane.runtime.transport.service import Interceptor, Method
from control_plane.runtime.transport.status import OK_TRAILERS, to_trailers

Admit = Callable[[Peer], Coroutine[None, None, None]]
Observe = Callable[[str, str, float], None]
"""Told of each call that ended: its method (empty for one that isn't served), its status, and seconds."""
_CANCELLED = "1"  # of gRPC: nobody heard the end
_LONGEST_DEADLINE_SECONDS = 30 * 86_400.0  # more is no deadline, and timers have a range
_ON_THE_WAY_SECONDS = 0.25
_CLOSE_SECONDS = 5.0  # for what was written to leave, before a closing connection is cut


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What all connections of a server share."""

    methods: Mapping[str, Method]
    interceptors: Sequence[Interceptor]
    limits: Limits
    admit: Admit | None
    log: Log
    observe: Observe | None = None


class _Malformed(Exception):
    """The headers break HTTP/2; the stream is reset."""


class _Refusal(Exception):
    """The request is no gRPC request; it gets an HTTP status and no gRPC status."""

    def __init__(self, http_status: str) -> None:
        self.http_status = http_status


class Session(AbstractHandler):
    """The calls of one connection."""

    def __init__(
        self, dispatch: Dispatch, peer: Peer, connection: LeanConnection, transport: asyncio.Transport
    ) -> None:
        loop = asyncio.get_running_loop()
        self.peer = peer
        self._dispatch = dispatch
        self._connection = connection
        self._transport = transport
        self._calls: dict[LeanStream, asyncio.Task[None]] = {}
        self._admission: asyncio.Task[None] | None = None
        self._ending: GatehouseError | None = None
        self._refusing = False
        self._quiet_since = self._opened_at = loop.time()
        self._drain_deadline: float | None = None
        self._cut_at: float | None = None
        self._expires_at: float | None = None

    # What the protocol tells.

    def admit(self) -> None:
        """Starts the check of who is there; calls wait for its end."""
        if self._dispatch.admit is not None:
            self._admission = asyncio.get_running_loop().create_task(self._dispatch.admit(self.peer))
            self._admission.add_done_callback(self._admitted)

    def accept(self, stream: Stream, headers: Headers, release_stream: Callable[[], None]) -> None:
        assert isinstance(stream, LeanStream)
        if self._refusing:
            stream.abandon(ErrorCodes.REFUSED_STREAM)
            release_stream()
            return
        task = asyncio.get_running_loop().create_task(self._serve(stream, headers))
        self._calls[stream] = task
        task.add_done_callback(partial(self._done, stream, release_stream))

    def cancel(self, stream: Stream) -> None:
        assert isinstance(stream, LeanStream)
        task = self._calls.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """The connection is closing: nobody can be answered any more."""
        self._refusing = True
        if self._cut_at is None:
            self._cut_at = asyncio.get_running_loop().time() + _CLOSE_SECONDS
        for task in self._calls.values():
            task.cancel()

    def connection_lost(self) -> None:
        """The connection is gone."""
        self.close()
        if self._admission is not None:
            self._admission.cancel()
        self.peer.close()

    # What the server asks for.

    def drain(self, grace_seconds: float) -> None:
        """Announces the end; calls that are open may finish within `grace_seconds`."""
        if self._drain_deadline is not None:
            return
        loop = asyncio.get_running_loop()
        self._drain_deadline = loop.time() + grace_seconds
        self._connection.announce_end()
        # Calls that were on their way when the announcement went out are still served.
        loop.call_later(_ON_THE_WAY_SECONDS, self._stop_accepting)

    def end(self, error: GatehouseError) -> None:
        """Ends all calls with `error` and closes the connection."""
        self._ending = error
        self._drain_deadline = asyncio.get_running_loop().time()
        for task in self._calls.values():
            task.cancel()
        self._stop_accepting()

    def _stop_accepting(self) -> None:
        if not self._refusing:
            self._refusing = True
            self._connection.fix_end()
        if not self._calls:
            self._hang_up()

    def expire_after(self, seconds: float) -> None:
        """The connection is drained at that age."""
        self._expires_at = self._opened_at + seconds

    def tick(self, now: float) -> None:
        """Notices what time has done to the connection; `now` is the loop's time."""
        limits = self._dispatch.limits
        if self._cut_at is not None:
            if now >= self._cut_at:
                self._transport.abort()
        elif self._drain_deadline is not None:
            if now >= self._drain_deadline and self._ending is None:
                self.end(Unavailable("the server ends this connection", hint="connect again"))
            elif now >= self._drain_deadline + _CLOSE_SECONDS:
                self._transport.abort()
        elif not self._connection.greeted and now - self._opened_at > limits.handshake_timeout_seconds:
            self._hang_up()
        elif self._expires_at is not None and now >= self._expires_at:
            self.drain(limits.age_grace_seconds)
        elif not self._calls and 0 < limits.idle_timeout_seconds < now - self._quiet_since:
            self.drain(0.0)

    @property
    def open_calls(self) -> int:
        """Calls that are being served on this connection."""
        return len(self._calls)

    # One call.

    async def _serve(self, stream: LeanStream, headers: Headers) -> None:
        reply = StreamReply(stream, self._dispatch.limits.send_timeout_seconds)
        try:
            await reply.finish(await self._answer(stream, headers, reply))
        except _Refusal as refusal:
            await stream.send(None, b"", [(":status", refusal.http_status)], timeout=1.0)
            stream.abandon(ErrorCodes.NO_ERROR)
        except _Malformed:
            stream.abandon(ErrorCodes.PROTOCOL_ERROR)
        except StreamGone:
            return

    async def _answer(self, stream: LeanStream, headers: Headers, reply: StreamReply) -> Headers:
        """Runs a call and returns the trailers that it ends with."""
        observe = self._dispatch.observe
        if observe is None:
            return await self._outcome(stream, headers, reply)
        loop = asyncio.get_running_loop()
        begun, status, path = loop.time(), _CANCELLED, dict(headers).get(":path", "")
        try:
            trailers = await self._outcome(stream, headers, reply)
            status = dict(trailers)["grpc-status"]
            return trailers
        finally:
            observe(path if path in self._dispatch.methods else "", status, loop.time() - begun)

    async def _outcome(self, stream: LeanStream, headers: Headers, reply: StreamReply) -> Headers:
        path = ""
        try:
            call, method = self._open(headers)
            path = call.method
            headers.clear()  # the call has what matters, and may last for hours
            reply.opened(call)
            with tracing.Span(path, call.first(tracing.HEADER), tracing.Kind.SERVER):
                if call.deadline is None:
                    await self._run(call, method, stream, reply)
                else:
                    async with asyncio.timeout_at(call.deadline):
                        await self._run(call, method, stream, reply)
        except GatehouseError as error:
            return to_trailers(error)
        except TimeoutError:
            if call.deadline is None or call.remaining_seconds():
                return to_trailers(self._bug(path))
            return to_trailers(DeadlineExceeded(f"{path}: the caller's deadline passed"))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._ending is None or task is None:
                raise
            task.uncancel()
            return to_trailers(self._ending)
        except (_Refusal, _Malformed, StreamGone):
            raise
        except Exception:
            # The border: whatever a handler didn't foresee must become a status and a story in the log.
            return to_trailers(self._bug(path))
        return OK_TRAILERS

    async def _run(self, call: Call, method: Method, stream: LeanStream, reply: StreamReply) -> None:
        if self._admission is not None:
            await asyncio.shield(self._admission)
        for interceptor in self._dispatch.interceptors:
            await interceptor(call)
        await method.serve(call, StreamRequests(stream, method.request_class, self._dispatch.limits), reply)

    def _open(self, headers: Headers) -> tuple[Call, Method]:
        """Checks the headers of a request as grpc/doc/PROTOCOL-HTTP2.md has them."""
        if not messages.is_well_formed(headers):
            raise _Malformed
        named = dict(headers)
        if named.get(":method") != "POST":
            raise _Refusal("405")
        content_type = named.get("content-type", "")
        if content_type != messages.CONTENT_TYPE and content_type != messages.CONTENT_TYPE + "+proto":
            raise _Refusal("415")
        path = named.get(":path", "")
        method = self._dispatch.methods.get(path)
        if method is None:
            raise Unimplemented(f"{shown(path)} is not served here")
        loop = asyncio.get_running_loop()
        deadline = None
        timeout = named.get("grpc-timeout")
        if timeout is not None:
            seconds = messages.parse_timeout(timeout)
            deadline = loop.time() + seconds if seconds < _LONGEST_DEADLINE_SECONDS else None
        return Call(self.peer, path, messages.read_metadata(headers), deadline, loop.time), method

    def _bug(self, path: str) -> Bug:
        error_id = secrets.token_hex(8)
        self._dispatch.log.exception("call_failed", method=path, peer=self.peer.address, error_id=error_id)
        return Bug(f"internal error {error_id}", hint="the server's log has it under this id")

    # Ends.

    def _done(
        self, stream: LeanStream, release_stream: Callable[[], None], task: "asyncio.Task[None]"
    ) -> None:
        self._calls.pop(stream, None)
        release_stream()
        self._quiet_since = asyncio.get_running_loop().time()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._dispatch.log.error("call_task_failed", peer=self.peer.address, exc_info=error)
        if self._refusing and not self._calls:
            self._hang_up()

    def _admitted(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._admission = None
            return
        if isinstance(error, GatehouseError):
            self._dispatch.log.info("connection_not_admitted", peer=self.peer.address, reason=str(error))
        else:
            self._dispatch.log.error("admission_failed", peer=self.peer.address, exc_info=error)
        # The task stays where it is: calls that are on the way fail with its error, then the connection ends.
        self._expires_at = asyncio.get_running_loop().time()

    def cut(self) -> None:
        """Closes the connection without waiting for what is written to leave."""
        self._transport.abort()

    def _hang_up(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()
        if self._cut_at is None:
            self._cut_at = asyncio.get_running_loop().time() + _CLOSE_SECONDS


__all__ = ["Admit", "Dispatch", "Observe", "Session"]
