"""Odd requests at the running Envoy: it refuses them, or policy sees what the service behind it gets.

The table of HTTP/1.1 paths is in test_envoy.py. Here are WebSockets and HTTP/2 with its pseudo-headers,
sent by a client that checks nothing (`http2_caller`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from http2_caller import Answer, Http2Caller, svid_of

from agent.enforcement.ports import Ruling, WorkloadPolicy
from agent.envoy.names import ALLOW, HTTP_RBAC
from control_plane.core.spiffe_id import SpiffeId

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
CUT_OFF_SECONDS = 4.0

START = [(":method", "GET"), (":scheme", "https"), (":authority", "shop.test"), (":path", "/ok")]
REFUSED = 0  # the stream or the connection is ended
# What is sent, and what may come: only GET https://shop.test/ok with x-team red or without it is allowed.
TABLE: dict[str, tuple[list[tuple[str, str]], set[int]]] = {
    "as it should be": (START, {200}),
    "a path that climbs to what is allowed": ([*START[:3], (":path", "/admin/../ok")], {200}),
    "a path that climbs to what isn't": ([*START[:3], (":path", "/ok/../admin")], {403}),
    "escaped dots": ([*START[:3], (":path", "/ok/%2e%2e/admin")], {403}),
    "an escaped slash": ([*START[:3], (":path", "/ok%2f..%2fadmin")], {400}),
    "an escaped NUL": ([*START[:3], (":path", "/ok%00")], {400}),
    "a NUL": ([*START[:3], (":path", "/ok\0")], {REFUSED, 400}),
    "a fragment": ([*START[:3], (":path", "/ok#/admin")], {REFUSED, 400}),
    "a space": ([*START[:3], (":path", "/ok HTTP/1.1")], {REFUSED, 400, 403}),
    "a parameter": ([*START[:3], (":path", "/ok;/admin")], {403}),
    "another case": ([*START[:3], (":path", "/OK")], {403}),
    "no slash": ([*START[:3], (":path", "ok")], {REFUSED, 400, 403, 404}),
    "an empty path": ([*START[:3], (":path", "")], {REFUSED, 400, 403, 404}),
    "a whole address": ([*START[:3], (":path", "https://shop.test/ok")], {REFUSED, 400, 403, 404}),
    "two paths": ([*START, (":path", "/admin")], {REFUSED, 400}),
    "two methods": ([*START, (":method", "DELETE")], {REFUSED, 400}),
    "two authorities": ([*START, (":authority", "admin.test")], {REFUSED, 400}),
    "no path": (START[:3], {REFUSED, 400}),
    "no method": (START[1:], {REFUSED, 400}),
    "a method in small letters": ([(":method", "get"), *START[1:]], {403}),
    "a method with a break": ([(":method", "GET /admin HTTP/1.1\r\nx: y"), *START[1:]], {REFUSED, 400}),
    "another authority": ([*START[:2], (":authority", "admin.test"), START[3]], {403}),
    "the authority in capitals, with a port": (
        [*START[:2], (":authority", "SHOP.test:443"), START[3]],
        {200},
    ),
    "a user in the authority": (
        [*START[:2], (":authority", "shop.test@admin.test"), START[3]],
        {REFUSED, 400, 403},
    ),
    "a host that says something else": ([*START, ("host", "admin.test")], {200, REFUSED, 400}),
    "a host that is allowed": (
        [*START[:2], (":authority", "admin.test"), START[3], ("host", "shop.test")],
        {403, REFUSED, 400},
    ),
    "a host alone": ([*START[:2], START[3], ("host", "shop.test")], {200, REFUSED, 400}),
    "a host alone that isn't allowed": ([*START[:2], START[3], ("host", "admin.test")], {403, REFUSED, 400}),
    "a pseudo-header after others": ([*START[:3], ("x-team", "red"), START[3]], {REFUSED, 400}),
    "an unknown pseudo-header": ([*START, (":team", "red")], {REFUSED, 400}),
    "one of answers": ([*START, (":status", "200")], {REFUSED, 400}),
    "a protocol": ([*START, (":protocol", "websocket")], {REFUSED, 400}),
    "a tunnel": ([(":method", "CONNECT"), (":authority", "shop.test")], {REFUSED, 400, 403, 404}),
    "a name in capitals": ([*START, ("X-Team", "red")], {REFUSED, 400}),
    "a name with a space": ([*START, ("x team", "red")], {REFUSED, 400}),
    "a value with a break": ([*START, ("x-team", "red\r\nx-role: admin")], {REFUSED, 400}),
    "a value with a NUL": ([*START, ("x-team", "red\0")], {REFUSED, 400}),
    "a header of connections": ([*START, ("transfer-encoding", "chunked")], {REFUSED, 400}),
    "an underscore": ([*START, ("x_team", "red")], {REFUSED, 400}),
    "the right team": ([*START, ("x-team", "red")], {200}),
    "the wrong team": ([*START, ("x-team", "blue")], {403}),
    "both teams": ([*START, ("x-team", "red"), ("x-team", "blue")], {403}),
}


def only_ok() -> WorkloadPolicy:
    """GET /ok of shop.test, for team red or whoever names none: in Envoy's own rules."""
    red = {"header": {"name": "x-team", "string_match": {"exact": "red"}}}
    none = {"header": {"name": "x-team", "present_match": True, "invert_match": True}}
    rules = [
        {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
        {"header": {"name": ":authority", "string_match": {"exact": "shop.test", "ignore_case": True}}},
        {"url_path": {"path": {"exact": "/ok"}}},
        {"or_rules": {"rules": [red, none]}},
    ]
    policies = {"ok": {"permissions": [{"and_rules": {"rules": rules}}], "principals": [{"any": True}]}}
    config = {"@type": HTTP_RBAC, "rules": {"action": "ALLOW", "policies": policies}}
    return WorkloadPolicy("n/w", SpiffeId.parse(PAY), ({"name": ALLOW, "typed_config": config},), ())


@pytest.mark.parametrize("judged", [False, True], ids=["by Envoy", "by the agent"])
def test_pseudo_headers_and_odd_fields(
    lab: Any, entry: Any, run_async: Any, enforcing: Any, short_dir: Path, judged: bool
) -> None:
    def judge(_: SpiffeId, document: Any) -> Ruling:
        asked = document["request"]
        fits = (asked["method"], asked["path"], asked.get("host")) == ("GET", "/ok", "shop.test")
        return Ruling(fits and asked["headers"].get("x-team", "red") == "red", "judged")

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            _, port, _ = await it.service(PAY)
            it.enforcement.judge = judge
            policy = only_ok()
            it.enforcement.put(
                enforcing(WorkloadPolicy("n/w", policy.spiffe_id, policy.http_filters, (), {}, judged))
            )
            contexts = await svid_of(it.run, WEB, short_dir)
            caller = Http2Caller(port, contexts())
            async with asyncio.timeout(20):
                while (await caller.ask(START)).status != 200:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.05)
            caller.close()

            async def answer_to(fields: list[tuple[str, str]]) -> Answer:
                """Over a connection of its own: Envoy takes half a second to close those that it refuses."""
                caller = Http2Caller(port, contexts())
                try:
                    return await caller.ask(fields)
                finally:
                    caller.close()

            answers = await asyncio.gather(*(answer_to(fields) for fields, _ in TABLE.values()))
            for (what, (_, expected)), answer in zip(TABLE.items(), answers, strict=True):
                assert answer.status in expected, (what, answer)
                if answer.status == 200:  # the service got just what was judged
                    line, *headers = answer.body.decode("latin-1").lower().split("\r\n")
                    assert line == "get /ok http/1.1", what
                    assert [one for one in headers if one.startswith("host:")] == ["host: shop.test"], what

    run_async(work())


def test_a_websocket_is_a_request_that_runs(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def upgraded(it: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.ports["http"])
        fields = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        writer.write(f"GET /chat HTTP/1.1\r\nhost: shop.test\r\n{fields}{key}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        return reader, writer, int(head.split()[1])

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.judge = lambda *_: Ruling(it.enforcement.current.version == 2, "judged")
            it.enforcement.put(enforcing(admitting(PAY)))
            await it.until_status(403)
            assert (await upgraded(it))[2] == 403
            it.enforcement.put(enforcing(admitting(PAY, WEB), sequence=2))
            await it.until_status(200)
            reader, writer, status = await upgraded(it)
            assert status == 101
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(5), 20) == b"hello"
            await asyncio.sleep(1.5)  # longer than the skew of clocks that is allowed for
            it.enforcement.put(enforcing(admitting(PAY), sequence=3))
            async with asyncio.timeout(CUT_OFF_SECONDS):
                assert await reader.read() == b""
            writer.close()

    run_async(work())


def test_no_caller_steers_us_by_headers_of_envoys_own(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, short_dir: Path
) -> None:
    """A caller on the loopback interface or in a private network, as most are, is no part of us."""
    steering = {
        "x-envoy-upstream-rq-timeout-ms": "100",
        "x-envoy-upstream-rq-per-try-timeout-ms": "50",
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "9",
        "x-envoy-internal": "true",
        "x-envoy-original-path": "/admin",
        "x-envoy-decorator-operation": "another",
    }

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            _, port, _ = await it.service(PAY)
            it.enforcement.put(enforcing(admitting(PAY, WEB)))
            caller = Http2Caller(port, (await svid_of(it.run, WEB, short_dir))())
            async with asyncio.timeout(20):
                while (await caller.ask(START)).status != 200:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.05)
            answer = await caller.ask([*START[:3], (":path", "/slow"), *steering.items()])
            caller.close()
            assert answer.status == 200, answer
            assert not [name for name in steering if name in answer.body.decode()], answer.body

    run_async(work())
