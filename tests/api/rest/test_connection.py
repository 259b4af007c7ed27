"""HTTP/1.1 as it comes in: what RFC 9112 forbids and nobody needs is refused as a problem, and nothing is
taken for the beginning of something else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from control_plane.wiring.rest_connection import MAX_HEAD_BYTES, MAX_HEADERS
from control_plane.wiring.rest_server import RestServer

HOST = b"host: x\r\n"
ASKED = b"GET / HTTP/1.1\r\n" + HOST


def talk(short_dir: Path, *scripts: bytes) -> list[tuple[bytes, list[str]]]:
    """What is answered to each script on a connection of its own, and the paths that the application saw."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message: dict[str, Any] = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
        if message["type"] == "http.disconnect":
            return
        seen.append(scope["path"])
        head = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})

    def one(script: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(40)
            peer.connect(str(short_dir / "a.sock"))
            answer = b""
            with contextlib.suppress(ConnectionError):
                peer.sendall(script)
            with contextlib.suppress(ConnectionError):
                while piece := peer.recv(65536):
                    answer += piece
            return answer

    async def main() -> list[tuple[bytes, list[str]]]:
        stop = asyncio.Event()
        running = asyncio.create_task(RestServer(app, short_dir / "a.sock").run(stop))
        async with asyncio.timeout(40):
            while not (short_dir / "a.sock").exists():  # noqa: ASYNC110 -- it has no event
                await asyncio.sleep(0.01)
        found = []
        for script in scripts:
            seen.clear()
            found.append((await asyncio.to_thread(one, script), list(seen)))
        stop.set()
        await running
        return found

    return asyncio.run(main())


def is_refused(answer: bytes, status: int) -> bool:
    """A problem of this status and the end of the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return (
        head.startswith(f"HTTP/1.1 {status} ".encode())
        and b"application/problem+json" in head
        and b"connection: close" in head
        and json.loads(body)["status"] == status
    )


@pytest.mark.parametrize(
    ("script", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(ASKED + HOST + b"\r\n", 400, id="two hosts"),
        pytest.param(ASKED + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, id="gzip"),
        pytest.param(ASKED + b"transfer-encoding: identity\r\n\r\n", 501, id="identity"),
        pytest.param(ASKED + b"content-length: 1\r\ncontent-length: 1\r\n\r\nx", 400, id="two lengths"),
        pytest.param(
            ASKED + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="length and chunks",
        ),
        pytest.param(ASKED + b"x: a\r\n folded\r\n\r\n", 400, id="folded"),
        pytest.param(ASKED + b"x : a\r\n\r\n", 400, id="blank before the colon"),
        pytest.param(ASKED + b"x: a\x00b\r\n\r\n", 400, id="NUL"),
        pytest.param(ASKED + b"x: y\r\n" * MAX_HEADERS + b"\r\n", 431, id="many fields"),
        pytest.param(ASKED + b"x: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, id="long field"),
        pytest.param(
            b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431, id="long path"
        ),
        pytest.param(b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="not ASCII"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
    ],
)
def test_what_is_no_request_is_a_problem(short_dir: Path, script: bytes, status: int) -> None:
    [(answer, seen)] = talk(short_dir, script)
    assert is_refused(answer, status), answer[:300]
    assert not seen


def test_a_head_that_never_ends_is_cut_off(short_dir: Path) -> None:
    [(answer, seen)] = talk(short_dir, ASKED + b"x: " + b"y" * (40 * MAX_HEAD_BYTES))
    assert is_refused(answer, 431) or answer == b"", "a problem, unless it was lost with what came behind"
    assert not seen


def test_fields_behind_a_body_reach_nobody(short_dir: Path) -> None:
    chunked = ASKED + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\ngatehouse-break-glass: 1\r\n\r\n"
    [(answer, seen)] = talk(short_dir, chunked)
    assert answer == b"" and not seen


def test_requests_that_come_together_are_answered_in_order(short_dir: Path) -> None:
    many = b"".join(b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n" for number in range(50))
    last = b"GET /50 HTTP/1.1\r\nconnection: close\r\n" + HOST + b"\r\n"
    garbled = many + b"\x00nonsense\r\n\r\n"
    [(answer, seen), (broken, _)] = talk(short_dir, many + last, garbled)
    assert answer.count(b"HTTP/1.1 200 ") == 51 and seen == [f"/{number}" for number in range(51)]
    assert b" 400 " not in broken, "no answer to one is taken for the answer to another"


def test_nothing_is_upgraded(short_dir: Path) -> None:
    upgrade = b"GET /a HTTP/1.1\r\n" + HOST + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
    [(answer, seen)] = talk(short_dir, upgrade + b"GET /b HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ") and b"connection: close" in answer
    assert seen == ["/a"]
