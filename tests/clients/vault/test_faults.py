"""What a Vault, or something in its place, may do to us: bounded, named, and our token goes nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from real_vault import Server

from control_plane.authority.vault_ports import VaultHealth
from control_plane.clients.vault.adapter import HvacExchange
from control_plane.clients.vault.breaker import FAILURES, OPEN_SECONDS, RETRY_RESERVE, Breaker
from control_plane.clients.vault.door import VaultDoor
from control_plane.core.errors import GatehouseError, NotFound, PermissionDenied, Unavailable
from control_plane.core.secret import Secret
from control_plane.runtime.addresses import HttpAddress

WHAT = "reading the mounts"


async def ask(door: VaultDoor) -> Any:
    return (await door.ask("get", "auth/token/lookup-self", what=WHAT)).body


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"html": True}, r"isn't Vault's JSON.*Please"),
        ({"large": True}, "larger than 1048576 bytes"),
        ({"cut": True}, "cut"),
        ({"status": 500}, "500"),
        ({"status": 502, "html": True}, "502"),
        ({"status": 429}, "429"),
        ({"status": 412}, "412"),
        ({"status": 473}, "473"),
        ({"delay_seconds": 30.0}, "no whole answer in time"),
        ({"drip_seconds": 0.1}, "no whole answer in time"),
    ],
)
async def test_no_usable_answer_is_unavailable(fake: Server, fault: dict[str, Any], told: str) -> None:
    door = fake.door(timeout_seconds=1.0)
    await ask(door)
    for name, value in fault.items():
        setattr(fake.fake.faults, name, value)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=told):
        await ask(door)
    # A second call would be held back by then, or fail likewise: what counts is that no wait is long.
    assert time.monotonic() - started < 15
    if "status" not in fault:
        assert await door.health() is VaultHealth.UNREACHABLE


async def test_a_redirect_is_not_followed(fake: Server) -> None:
    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("X-Vault-Token"))
            self.send_response(200)
            self.end_headers()

    other = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
    try:
        door = fake.door()
        await ask(door)
        fake.fake.faults.redirect_to = f"http://127.0.0.1:{other.server_port}/v1/sys/mounts"
        with pytest.raises(Unavailable, match="redirect, which isn't followed with a token"):
            await ask(door)
    finally:
        other.shutdown()
        other.server_close()
    assert seen == []


async def test_a_sealed_vault_is_named_once_and_then_not_asked_again(fake: Server) -> None:
    door = fake.door()
    await ask(door)
    fake.fake.state.sealed = True
    fake.fake.requests.clear()
    with pytest.raises(Unavailable, match="Vault is sealed"):
        await ask(door)
    assert len(fake.fake.requests) == 1
    with pytest.raises(Unavailable, match=r"asked again in .*: Vault is sealed") as caught:
        await ask(door)
    assert len(fake.fake.requests) == 1 and (caught.value.retry_after_seconds or 0) <= OPEN_SECONDS
    assert await door.health() is VaultHealth.SEALED
    fake.fake.state.sealed = False
    deadline = time.monotonic() + 30
    while True:
        try:
            await ask(door)
            break
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("status", "health"),
    [
        (200, VaultHealth.ACTIVE),
        (429, VaultHealth.STANDBY),
        (472, VaultHealth.RECOVERY),
        (473, VaultHealth.PERFORMANCE_STANDBY),
        (299, VaultHealth.UNREACHABLE),
    ],
)
async def test_each_health_code_has_its_meaning(fake: Server, status: int, health: VaultHealth) -> None:
    fake.fake.state.health_status = status
    assert await fake.door().health() is health


async def test_a_vault_that_is_not_initialised_says_so(fake: Server) -> None:
    fake.fake.state.initialised = False
    assert await fake.door().health() is VaultHealth.NOT_INITIALISED


async def test_nobody_there_is_told_at_once(fake: Server) -> None:
    fake.fake.__exit__()
    door = fake.door()
    started = time.monotonic()
    with pytest.raises(Unavailable, match="ConnectionRefused"):
        await ask(door)
    assert time.monotonic() - started < 10
    assert await door.health() is VaultHealth.UNREACHABLE


async def test_places_are_bounded_and_the_wait_for_one_too(fake: Server) -> None:
    door = fake.door(max_requests=2, timeout_seconds=2.0)
    await ask(door)
    fake.fake.faults.delay_seconds = 1.5
    results = await asyncio.gather(*(ask(door) for _ in range(8)), return_exceptions=True)
    assert all(isinstance(each, dict | Unavailable) for each in results)
    assert any("all places" in str(each) for each in results if isinstance(each, Unavailable))
    fake.fake.faults.delay_seconds = 0
    await asyncio.sleep(OPEN_SECONDS)
    assert isinstance(await ask(door), dict)


async def test_a_failure_that_passes_is_not_noticed(fake: Server) -> None:
    door = fake.door()
    await ask(door)
    answers = iter([412, 0])

    def change(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        fake.fake.faults.status = next(answers, 0)
        return answer

    fake.fake.faults.change = change
    assert await ask(door)


async def test_what_may_have_been_done_is_not_done_twice(fake: Server) -> None:
    door = fake.door()
    await ask(door)
    fake.fake.faults.status = 500
    fake.fake.requests.clear()
    with pytest.raises(Unavailable):
        await door.ask("post", "sys/seal", {}, what="sealing", repeatable=False)
    assert len(fake.fake.requests) == 1


async def test_a_refusal_costs_one_login_and_no_more(fake: Server) -> None:
    door = fake.door(token=Secret(fake.api.make_token()))
    with pytest.raises(PermissionDenied, match="sealing: Vault answered 403"):
        await door.ask("post", "sys/seal", {}, what="sealing")
    fake.fake.requests.clear()
    with pytest.raises(PermissionDenied):
        await door.ask("post", "sys/seal", {}, what="sealing")
    assert fake.fake.requests == [("POST", "sys/seal")]


async def test_no_token_is_in_a_message_or_shown(fake: Server) -> None:
    door = fake.door(token=Secret("hvs.very-secret"))
    with pytest.raises(PermissionDenied) as caught:
        await ask(door)
    assert "very-secret" not in str(caught.value) + repr(door) + repr(fake.settings(token=Secret("hvs.x")))


async def test_a_closed_door_is_told(fake: Server) -> None:
    door = fake.door()
    door.close()
    with pytest.raises(Unavailable, match="closed"):
        await ask(door)


async def test_an_unknown_path_is_no_outage(fake: Server) -> None:
    door = fake.door()
    for _ in range(FAILURES + 1):
        with pytest.raises(NotFound, match="no handler"):
            await door.ask("get", "nowhere/x", what=WHAT)
    assert await ask(door)


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_through() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failure(0.0)
    assert breaker.wait_seconds(0.0, 5.0) == 0
    breaker.failure(0.0)
    assert breaker.wait_seconds(0.5, 5.0) == OPEN_SECONDS - 0.5
    assert breaker.wait_seconds(OPEN_SECONDS, 5.0) == 0  # the probe
    assert breaker.wait_seconds(OPEN_SECONDS + 1, 5.0) == 4.0
    breaker.failure(OPEN_SECONDS + 1)
    assert breaker.wait_seconds(OPEN_SECONDS + 2, 5.0) == OPEN_SECONDS - 1
    assert breaker.wait_seconds(2 * OPEN_SECONDS + 1, 5.0) == 0
    breaker.success()
    assert breaker.wait_seconds(2 * OPEN_SECONDS + 1, 5.0) == 0 == breaker.wait_seconds(6.0, 5.0)


def test_a_probe_that_never_comes_back_does_not_block_the_next() -> None:
    breaker = Breaker()
    breaker.failure(0.0, decisive=True)
    assert breaker.wait_seconds(OPEN_SECONDS, 5.0) == 0
    assert breaker.wait_seconds(OPEN_SECONDS + 4.9, 5.0) > 0
    assert breaker.wait_seconds(OPEN_SECONDS + 5, 5.0) == 0


def test_retries_are_a_share_of_calls() -> None:
    breaker = Breaker()
    taken = sum(breaker.may_retry() for _ in range(1000))
    assert taken == RETRY_RESERVE
    for _ in range(30):
        breaker.success()
    assert 2 <= sum(breaker.may_retry() for _ in range(1000)) <= 3


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 x\r\n", b"HTTP/9", b"Content-Length: 5\r\n", b"\r\n",
        b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\n{}   \r\n0\r\n\r\n",
        b'{"data":{}}', b"Content-Encoding: gzip\r\n", b"A: " + b"b" * 70_000 + b"\r\n",
        b"Content-Length: -1\r\n", b"[" * 5000, b'{"errors": 5}', b"\x00\xff", b"FFFFFFFFFFFFFFFF\r\n",
    ]
)  # fmt: skip


@example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFF\r\n{}")
@given(st.lists(PIECES | st.binary(max_size=40), max_size=6).map(b"".join))
def test_any_bytes_in_place_of_an_answer_end_in_one_of_our_errors_or_an_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        exchange = HvacExchange(HttpAddress("127.0.0.1", listener.getsockname()[1], tls=False))
        started = time.monotonic()
        try:
            found = exchange.send("get", "sys/health", token=None, deadline=started + 5)
            assert isinstance(found.body, dict) and isinstance(found.errors, tuple)
        except GatehouseError:
            pass
        finally:
            exchange.close()
        assert time.monotonic() - started < 20
    thread.join(20)
