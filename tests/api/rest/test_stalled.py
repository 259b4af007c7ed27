"""Peers that don't take their answers, or come in numbers: they are cut, memory is bounded, others served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from control_plane.api.rest import sending
from control_plane.wiring import management, rest_connection, rest_door
from control_plane.wiring.events import events_of

PEOPLE = "spiffe://example.org/people/"
MUCH = "# much\n" * (1 << 20)
"""More than the kernel keeps for two sockets."""
PUSH = {
    "files": {"a.rego": "package a\n\nx := 1\n", "b.rego": "package b\n" + MUCH},
    "inventory": "mesh: {trust_domain: example.org}\n",
    "reason": "r",
    "wait_seconds": 0,
}
FILES = "/v1/policy/versions/1/files"


class Cuts:
    """Waits for connections that are given up, and sees how much their transports held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._happened = asyncio.Queue[int]()
        before = rest_connection.TimedConnection._not_taken

        def told(connection: Any) -> None:
            held = connection.transport.get_write_buffer_size()
            before(connection)
            self._happened.put_nowait(held)

        monkeypatch.setattr(rest_connection.TimedConnection, "_not_taken", told)

    async def next(self) -> int:
        """Bytes that were held for the next peer that is cut."""
        return await asyncio.wait_for(self._happened.get(), 40)


@contextlib.contextmanager
def peer(api: Any, svid: Any = None, *, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connection with little room for what it doesn't read: TLS with an SVID, else the unix socket."""
    if svid is None:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(40)
            plain.connect(str(api.path))
            yield plain
        return
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(40)
        plain.bind((source, 0))
        plain.connect(("127.0.0.1", api.port))
        with api.context(svid).wrap_socket(plain, server_hostname="localhost") as tls:
            yield tls


@contextlib.asynccontextmanager
async def connected(api: Any, svid: Any = None) -> AsyncIterator[socket.socket]:
    """The same beside a server that shakes hands in this very loop."""
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, peer(api, svid))


def ask(connection: socket.socket, path: str) -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())


def served(connection: socket.socket) -> bool:
    """Whether a small question is answered."""
    ask(connection, "/v1/health")
    answer = b""
    while not answer.endswith(b"}"):
        piece = connection.recv(65536)
        if not piece:
            return False
        answer += piece
    return answer.startswith(b"HTTP/1.1 200 ")


def rest_of(connection: socket.socket) -> int:
    """How many bytes still come."""
    size = 0
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := connection.recv(1 << 16):
            size += len(piece)
    return size


@pytest.mark.parametrize(("tls", "drips"), [(False, True), (True, False)])
def test_who_does_not_take_its_answer_is_cut(
    rest: Any, monkeypatch: pytest.MonkeyPatch, tls: bool, drips: bool
) -> None:
    monkeypatch.setattr(rest_connection, "TAKE_SECONDS", 1.0)

    async def scenario(api: Any) -> None:
        cuts, over = Cuts(monkeypatch), threading.Event()
        assert (await api.call("POST", "/v1/policy/versions", PUSH, by="ada")).status == 201
        vera = await api.mint(PEOPLE + "vera") if tls else None

        def drip(connection: socket.socket) -> None:
            while not over.wait(0.05):
                connection.recv(1)

        async with connected(api, vera) as connection:
            await asyncio.to_thread(ask, connection, FILES)
            dripping = asyncio.create_task(asyncio.to_thread(drip, connection)) if drips else None
            held = await cuts.next()
            over.set()
            if dripping is not None:
                await dripping
            assert held <= 4 * sending.PIECE_BYTES
            assert await asyncio.to_thread(rest_of, connection) < len(MUCH)
        assert (await api.call("GET", "/v1/health")).status == 200

    rest(scenario)


def test_who_takes_a_large_answer_too_slowly_is_cut(rest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(sending, "BYTES_A_SECOND", 1 << 30)

    async def scenario(api: Any) -> None:
        assert (await api.call("POST", "/v1/policy/versions", PUSH, by="ada")).status == 201
        async with connected(api) as connection:
            await asyncio.to_thread(ask, connection, FILES)
            size = 0
            with contextlib.suppress(ConnectionError):
                while piece := await asyncio.to_thread(connection.recv, 65536):
                    size += len(piece)
                    await asyncio.sleep(0.1)
        assert 0 < size < len(MUCH)

    rest(scenario)


def test_answers_that_wait_for_their_readers_are_bounded_together(
    rest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_HELD_BYTES", len(MUCH) * 3 // 2)

    async def scenario(api: Any) -> None:
        assert (await api.call("POST", "/v1/policy/versions", PUSH, by="ada")).status == 201
        async with connected(api) as stalled:
            await asyncio.to_thread(ask, stalled, FILES)
            assert await asyncio.to_thread(stalled.recv, 4) == b"HTTP", "it has begun"
            refused = await api.call("GET", FILES, by="vera")
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert "large answers" in refused.body["detail"]
            assert (await api.call("GET", "/v1/health", by="vera")).status == 200, "small ones go on"
        async with asyncio.timeout(40):
            while (again := await api.call("GET", FILES, by="vera")).status == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert again.body["files"] == PUSH["files"]

    rest(scenario)


@pytest.mark.parametrize("tls", [False, True])
def test_a_listener_that_does_not_read_is_cut(rest: Any, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(rest_connection, "TAKE_SECONDS", 1.0)
    made: list[Any] = []

    def watched(parts: Any) -> Any:
        made.append(events_of(parts))
        return made[0]

    monkeypatch.setattr(management, "events_of", watched)

    async def scenario(api: Any) -> None:
        cuts, [events] = Cuts(monkeypatch), made
        vera = await api.mint(PEOPLE + "vera") if tls else None
        async with connected(api, vera) as connection:
            await asyncio.to_thread(ask, connection, "/v1/events?topic=quarantine")
            assert await asyncio.to_thread(connection.recv, 4) == b"HTTP"
            assert events.listeners == 1
            cut = asyncio.create_task(cuts.next())
            while not cut.done():
                for _ in range(200):
                    events.publish("quarantine.set", 0, {"reason": "x" * 1000})
                await asyncio.sleep(0.01)
            assert cut.result() <= (2 << 20), "a ring of events at most"
        async with asyncio.timeout(40):
            while events.listeners:  # noqa: ASYNC110 -- it has no event
                await asyncio.sleep(0.01)

    rest(scenario)


def test_one_connection_more_than_allowed_is_refused(rest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_door, "MAX_CONNECTIONS_PER_SOURCE", 3)
    monkeypatch.setattr(rest_door, "MAX_CONNECTIONS", 4)

    async def scenario(api: Any) -> None:
        vera = await api.mint(PEOPLE + "vera")

        def play() -> None:
            with contextlib.ExitStack() as stack:
                first = [stack.enter_context(peer(api, vera)) for _ in range(3)]
                assert all(map(served, first))
                with pytest.raises((ConnectionError, ssl.SSLError)), peer(api, vera):
                    pass
                other = stack.enter_context(peer(api, vera, source="127.0.0.2"))
                assert served(other), "another address has room of its own"
                with pytest.raises((ConnectionError, ssl.SSLError)), peer(api, vera, source="127.0.0.3"):
                    pass
                assert all(map(served, [*first, other])), "those that are in stay in"
                stack.pop_all().close()

        await asyncio.to_thread(play)
        async with asyncio.timeout(40):
            while True:  # places are free again once the server has seen the ends
                with contextlib.suppress(OSError):
                    assert (await api.call("GET", "/v1/health", svid=vera)).status == 200
                    break
                await asyncio.sleep(0.05)

    rest(scenario)


def test_pieces_make_the_body_that_was_meant() -> None:
    async def play(size: int) -> bytes:
        got: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            got.append(message)

        held = sending.HeldAnswers()
        to = sending.Sending(None, send, held)  # type: ignore[arg-type]
        body = json.dumps("x" * size).encode()
        await to({"type": "http.response.start", "status": 200, "headers": []})
        assert not got, "the head waits"
        await to({"type": "http.response.body", "body": body})
        assert [one.get("more_body", False) for one in got[1:]] == [True] * (len(got) - 2) + [False]
        assert held.size == 0
        assert b"".join(one["body"] for one in got[1:]) == body
        return body

    for size in (0, sending.PIECE_BYTES - 2, sending.PIECE_BYTES - 1, 3 * sending.PIECE_BYTES + 5):
        asyncio.run(play(size))
