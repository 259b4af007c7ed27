"""A client sends throughout while the agent goes away and comes back: nobody is lost, nobody is let in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from agent.enforcement.ports import Ruling

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
AWAY_SECONDS = 3.0


@contextlib.asynccontextmanager
async def sending(it: Any, *paths: str) -> AsyncIterator[Counter[tuple[str, int]]]:
    """Clients that ask for each of the paths again and again; gives the statuses seen, by path."""
    seen: Counter[tuple[str, int]] = Counter()
    stop = asyncio.Event()

    async def send(path: str) -> None:
        while not stop.is_set():
            status, _ = await it.request(path)
            seen[path, status] += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as clients:
        for path in paths:
            clients.create_task(send(path))
        yield seen
        stop.set()


def test_requests_that_the_agent_judges_wait_for_an_agent_that_restarts(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            it.enforcement.judge = lambda _, request: Ruling(request["request"]["path"] == "/a", "judged")
            it.enforcement.put(enforcing(dataclasses.replace(admitting(PAY), custom=True)))
            await it.until_status(403)
            async with sending(it, "/a", "/b") as seen:
                for _ in range(2):
                    await it.run.until(
                        lambda before=seen["/a", 200]: seen["/a", 200] > before + 20, "answers"
                    )
                    await it.close()
                    await asyncio.sleep(AWAY_SECONDS)
                    await it.serve()
                await it.run.until(lambda before=seen["/a", 200]: seen["/a", 200] > before + 20, "answers")
            assert set(seen) == {("/a", 200), ("/b", 403)}

    run_async(work())
