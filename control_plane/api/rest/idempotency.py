"""`Idempotency-Key`: a change that is asked for again under its key is answered again and not made again.

Answers are kept for a day, by subject and key; errors are not, so that trying again tries again. The same key
with another request is a mistake of the caller's and refused (draft-ietf-httpapi-idempotency-key-header).
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from fastapi import Request, Response
from fastapi.routing import APIRoute

from control_plane.api.rest.gate import Gate, check_headers
from control_plane.api.rest.problems import problem
from control_plane.core.errors import InvalidInput
from control_plane.runtime.answers import Answer, Answers

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotency-replayed"
MAX_KEY_CHARACTERS: Final = 128


def route_class(gate: Gate, answers: Answers, unix: Callable[[], int]) -> type[APIRoute]:
    """A class of routes that heed the header on every method that changes something."""
    asking: set[tuple[str, str]] = set()

    class Repeatable(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            handle = super().get_route_handler()

            async def handler(request: Request) -> Response:
                key = request.headers.get(HEADER)
                if key is None or request.method == "GET":
                    return await handle(request)
                if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
                    raise InvalidInput(f"{HEADER}: expected 1 to {MAX_KEY_CHARACTERS} printable characters")
                subject = gate.subject_of(request).id
                check_headers(request)  # what is answered again doesn't come to the gate
                asked = (request.method.encode(), request.url.path.encode(), await request.body())
                digest = await asyncio.to_thread(_digest, asked)
                if (subject, key) in asking:
                    return problem(409, "in-progress", f"{HEADER}: this request is being worked on")
                asking.add((subject, key))
                try:
                    known = await answers.find(subject, key)
                    if known is not None:
                        return _again(known, digest)
                    response = await handle(request)
                    kept = Answer(digest, response.status_code, bytes(response.body).decode())
                    await answers.keep(subject, key, kept, unix())
                    return response
                finally:
                    asking.discard((subject, key))

            return handler

    return Repeatable


def _digest(parts: Iterable[bytes]) -> str:
    asked = hashlib.sha256()
    for part in parts:
        asked.update(len(part).to_bytes(8, "big"))
        asked.update(part)
    return asked.hexdigest()


def _again(known: Answer, digest: str) -> Response:
    if known.request_digest != digest:
        return problem(
            422, "key-reused", f"{HEADER}: this key was used for another request", "make a new key for it"
        )
    return Response(known.body, known.status, {REPLAYED: "true"}, "application/json")
