"""What stands before the application: names for requests, rates, who calls, and bodies that end.

Nothing of a body is read before the caller is known, and no more than its path and its caller's roles allow.
A body is read whole here, against a clock, so that the application never waits for a peer; what all bodies
together hold in memory is bounded too. Reads give way to changes (`turns`). How an answer leaves is
`sending`'s affair.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api.limits import Limiter
from control_plane.api.rest.conditions import NotJson, TooLarge, TooSlow
from control_plane.api.rest.evidence import TlsPeer
from control_plane.api.rest.gate import REQUEST_ID, Gate, request_id_of
from control_plane.api.rest.problems import problem_of
from control_plane.api.rest.sending import HeldAnswers, NotTaken, Sending
from control_plane.api.rest.turns import Turns
from control_plane.core.access import SubjectKind
from control_plane.core.errors import GatehouseError, InvalidInput, Unavailable, shown
from control_plane.rollout.version import MAX_CONTENT_BYTES
from control_plane.runtime import tracing
from control_plane.runtime.log import get_logger

MAX_BODY_BYTES: Final = 256 << 10
MAX_PUSH_BYTES: Final = MAX_CONTENT_BYTES * 3 // 2  # as JSON, with its escapes
PUSH: Final = "/v1/policy/versions"
MAX_HELD_BYTES: Final = 4 * MAX_PUSH_BYTES
MAX_REQUESTS: Final = 200
BODY_SECONDS: Final = 30.0

_log = get_logger("rest")


@dataclass(frozen=True, slots=True)
class Rates:
    """How often: by address before anybody is authenticated, by subject after it."""

    address: Limiter
    subject: Limiter

    def check_address(self, request: Request) -> None:
        """Counts a request for the address that it came from. Raises ResourceExhausted."""
        peer = getattr(request.state, "peer", None)
        if isinstance(peer, TlsPeer):
            self.address.spend(peer.source)

    def check_subject(self, request: Request, gate: Gate) -> None:
        """Counts a request for its subject, who has to be known. Raises Unauthenticated, PermissionDenied,
        ResourceExhausted."""
        subject = gate.subject_of(request)
        if subject.kind is not SubjectKind.LOCAL:
            self.subject.spend(subject.id)


class Front:
    """ASGI middleware; one for each application, for it counts."""

    def __init__(self, app: ASGIApp, gate: Gate, rates: Rates, *, more_requests: int = 0) -> None:
        self._app = app
        self._gate = gate
        self._rates = rates
        self._max_requests = MAX_REQUESTS + more_requests
        self._requests = 0
        self._held = 0
        self._held_answers = HeldAnswers()
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Other kinds of scope aren't served."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']}: only HTTP is served here")
        request = Request(scope)
        request_id = request_id_of(request)
        with tracing.Span(
            f"{scope['method']} {tracing.family(scope['path'])}",
            request.headers.get(tracing.HEADER),
            tracing.Kind.SERVER,
        ) as span:

            async def named(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
                    if message["status"] >= 500:
                        span.error = str(message["status"])
                await send(message)

            await self._answer(request, request_id, scope, receive, named)

    async def _answer(
        self, request: Request, request_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["method"] == "GET":
            await self._turns.wait()
        told = Sending(request, send, self._held_answers)
        self._requests += 1
        try:
            try:
                self._let_in(request)
                async with self._read(request, receive) as body:
                    _check_kind(request, body)
                    await self._app(scope, _replayed(body, receive), told)
            except GatehouseError as error:
                await problem_of(request, error)(scope, receive, told)
        except ClientDisconnect:
            return
        except NotTaken:
            # The response has begun and can't be ended well; the server closes the connection for that.
            _log.info("answer_not_taken", path=scope["path"], request_id=request_id)
        finally:
            self._requests -= 1

    def _let_in(self, request: Request) -> None:
        self._rates.check_address(request)
        if self._requests > self._max_requests:
            raise Unavailable(f"{self._max_requests} requests are being worked on", retry_after_seconds=1)
        self._rates.check_subject(request, self._gate)

    def _limit(self, request: Request) -> int:
        pushes = request.method == "POST" and request.url.path == PUSH
        return MAX_PUSH_BYTES if pushes and self._gate.may(request, "policy.propose") else MAX_BODY_BYTES

    @asynccontextmanager
    async def _read(self, request: Request, receive: Receive) -> AsyncIterator[bytes]:
        """The body, whole. Raises TooLarge, TooSlow, Unavailable where too many come at once."""
        declared, limit = request.headers.get("content-length", "0"), self._limit(request)
        if declared == "0" and "transfer-encoding" not in request.headers:
            yield b""
            return
        if not (declared.isascii() and declared.isdigit()):
            raise InvalidInput("content-length: expected a number")
        if int(declared[:20]) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    size += len(part)
                    self._held += len(part)
                    if size > limit:
                        raise _too_large(limit)
                    if self._held > MAX_HELD_BYTES:
                        raise Unavailable("too many large bodies at once", retry_after_seconds=5)
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
            body = b"".join(parts)
            parts.clear()
        except TimeoutError as error:
            self._held -= size
            raise TooSlow(f"the body didn't come in within {BODY_SECONDS:g} s") from error
        except BaseException:
            self._held -= size
            raise
        try:
            yield body
        finally:
            self._held -= size


def _check_kind(request: Request, body: bytes) -> None:
    """Raises NotJson for a body that doesn't say that it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/json":
        raise NotJson(
            f"content-type: {shown(kind or 'none')}, expected application/json",
            hint="with curl: --json instead of --data",
        )


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body may have {limit} bytes at most")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, and then whatever comes: the end of the connection."""
    waiting: list[bytes] = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
