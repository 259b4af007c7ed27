"""How an answer leaves: large ones in pieces, each once the one before has been taken, within a time for all.

What answers hold in memory while peers take them is bounded for all of them together: who would go over it is
told to come again. A peer that takes nothing at all is the connection's affair (`wiring.rest_connection`).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.types import Message, Send

from control_plane.api.rest.problems import problem_of
from control_plane.core.errors import Unavailable

PIECE_BYTES: Final = 64 << 10
MAX_HELD_BYTES: Final = 64 << 20
PATIENCE_SECONDS: Final = 30.0
BYTES_A_SECOND: Final = 32 << 10
"""The slowest at which a large answer may be taken."""


class NotTaken(Exception):
    """The peer doesn't read what we answer, or far too slowly."""


@dataclass(slots=True)
class HeldAnswers:
    """What large answers hold at the moment, in bytes."""

    size: int = 0


class Sending:
    """The `send` of one request. The head waits for the first of the body, for it may be replaced."""

    __slots__ = ("_head", "_held", "_refused", "_request", "_send")

    def __init__(self, request: Request, send: Send, held: HeldAnswers) -> None:
        self._request = request
        self._send = send
        self._held = held
        self._head: Message | None = None
        self._refused = False

    async def __call__(self, message: Message) -> None:
        """Sends a message. Raises NotTaken."""
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        body = message.get("body", b"")
        large = len(body) > PIECE_BYTES
        if self._head is not None:
            if large and self._held.size + len(body) > MAX_HELD_BYTES:
                await self._refuse()
                return
            head, self._head = self._head, None
            await self._send(head)
        if large:
            await self._in_pieces(body, more=message.get("more_body", False))
        else:
            await self._send(message)

    async def _in_pieces(self, body: bytes, *, more: bool) -> None:
        self._held.size += len(body)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS + len(body) / BYTES_A_SECOND):
                for begin in range(0, len(body), PIECE_BYTES):
                    end = begin + PIECE_BYTES
                    last = end >= len(body) and not more
                    await self._send(
                        {"type": "http.response.body", "body": body[begin:end], "more_body": not last}
                    )
        except TimeoutError as error:
            raise NotTaken from error
        finally:
            self._held.size -= len(body)

    async def _refuse(self) -> None:
        self._head, self._refused = None, True
        error = Unavailable("too many large answers are being taken at once", retry_after_seconds=5)
        await problem_of(self._request, error)(self._request.scope, self._request.receive, self._send)
