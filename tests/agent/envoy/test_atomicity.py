"""A policy is replaced as a whole: no request is ever judged by parts of two policies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.names import DENY, HTTP_RBAC

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
FLIPS = 100
CLIENTS = 4
MIXED = "/mixed"
RELOADS = r"extension_config_discovery\..*config_reload"


def either(admitting: Callable[..., WorkloadPolicy]) -> tuple[WorkloadPolicy, WorkloadPolicy]:
    """Two policies that refuse `/mixed`: one allows everything and denies that, the other allows `/other`
    alone and denies nothing. What one denies and the other allows, together, would let it through."""
    at_mixed, at_other = ([{"url_path": {"path": {"exact": path}}}] for path in (MIXED, "/other"))
    everyone = [{"any": True}]
    wide, narrow = admitting(PAY, WEB), admitting(PAY, WEB)
    rules = {"action": "DENY", "policies": {"no": {"permissions": at_mixed, "principals": everyone}}}
    deny = {"name": DENY, "typed_config": {"@type": HTTP_RBAC, "rules": rules}}
    config: Any = narrow.http_filters[0]["typed_config"]
    (policy,) = config["rules"]["policies"].values()
    policy["permissions"] = at_other
    return replace(wide, http_filters=(deny, *wide.http_filters)), replace(
        narrow, tcp_filters=wide.tcp_filters
    )


async def statuses(
    port: int, paths: Iterator[str], seen: Counter[tuple[str, int]], stop: asyncio.Event
) -> None:
    """Asks on one connection, one request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not stop.is_set():
            path = next(paths)
            writer.write(f"GET {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            await reader.readexactly(length)
            seen[path, int(head.split()[1])] += 1
    finally:
        writer.close()


def turns() -> Iterator[str]:
    while True:
        yield from (MIXED, MIXED, MIXED, "/other")


def test_no_request_passes_by_parts_of_two_policies(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    wide, narrow = either(admitting)

    async def story() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            it.enforcement.put(enforcing(wide))
            pay, _ = await it.pair()
            async with asyncio.timeout(10):
                while await it.status("/other") != 200:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.01)
            seen: Counter[tuple[str, int]] = Counter()
            stop = asyncio.Event()
            clients = [
                asyncio.create_task(statuses(it.ports["http"], turns(), seen, stop)) for _ in range(CLIENTS)
            ]
            before = await pay.stat(RELOADS)
            for number in range(FLIPS):
                it.enforcement.put(enforcing((narrow, wide)[number % 2], sequence=number + 2))
                await asyncio.sleep(0.06)
            reloads = await pay.stat(RELOADS) - before
            stop.set()
            await asyncio.gather(*clients)
            assert not {key: count for key, count in seen.items() if key[0] == MIXED and key[1] != 403}
            assert not {key: count for key, count in seen.items() if key[0] != MIXED and key[1] != 200}
            assert seen[MIXED, 403] > 2 * FLIPS
            assert reloads > FLIPS / 2, "Envoy should have seen most of the policies"

    run_async(story())
