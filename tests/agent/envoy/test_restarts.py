"""Clients send throughout while agent or Envoy go away and come back: nobody is lost, nobody is let in."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agent.enforcement.ports import Ruling

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
AWAY_SECONDS = 3.0
Asked = tuple[str, str, int]
"""Method, path, status."""


@contextlib.asynccontextmanager
async def sending(it: Any, *requests: tuple[str, str]) -> AsyncIterator[Counter[Asked]]:
    """Clients that send each of the requests again and again; gives what was answered how often."""
    seen: Counter[Asked] = Counter()
    stop = asyncio.Event()

    async def send(method: str, path: str) -> None:
        while not stop.is_set():
            status, _ = await it.request(path, method=method)
            seen[method, path, status] += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as clients:
        for one in requests:
            clients.create_task(send(*one))
        try:
            yield seen
        finally:
            stop.set()


async def more(it: Any, seen: Counter[Asked], *expected: Asked) -> None:
    """Waits until each of these was answered some more times."""
    wanted = {one: seen[one] + 20 for one in expected}
    await it.run.until(lambda: all(seen[one] >= count for one, count in wanted.items()), f"{expected}", 40)


def judged_by_the_agent(it: Any, policy: Any) -> None:
    """Everything that isn't `/denied` may be."""
    it.enforcement.judge = lambda _, asked: Ruling(asked["request"]["path"] != "/denied", "judged")
    it.enforcement.put(dataclasses.replace(policy, workloads=custom(policy)))


def custom(enforcement: Any) -> dict[Any, Any]:
    return {key: dataclasses.replace(one, custom=True) for key, one in enforcement.workloads.items()}


def test_requests_that_the_agent_judges_wait_for_an_agent_that_restarts(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    allowed, denied = ("GET", "/a", 200), ("GET", "/denied", 403)

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            await it.pair()
            judged_by_the_agent(it, enforcing(admitting(PAY)))
            await it.until_status(200, 20)
            async with sending(it, allowed[:2], denied[:2]) as seen:
                for _ in range(2):
                    await more(it, seen, allowed, denied)
                    await it.close()
                    await asyncio.sleep(AWAY_SECONDS)
                    await it.serve()
                await more(it, seen, allowed, denied)
            assert set(seen) == {allowed, denied}

    run_async(work())


def test_callers_wait_for_an_envoy_that_was_killed(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any
) -> None:
    """What was running when it was killed goes again if that is safe: requests that only ask."""
    allowed, denied = ("GET", "/a", 200), ("GET", "/denied", 403)

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            judged_by_the_agent(it, enforcing(admitting(PAY)))
            await it.until_status(200, 20)
            async with sending(it, allowed[:2], denied[:2]) as seen:
                await more(it, seen, allowed, denied)
                pay.process.kill()
                pay.process.wait()
                await asyncio.sleep(1)
                pay.start()
                await more(it, seen, allowed, denied)
            assert set(seen) == {allowed, denied}

    run_async(work())


def run_envoy(it: Any, folder: Path, description: dict[str, Any], *flags: str) -> subprocess.Popen[bytes]:
    """`gatehouse-agent envoy run`."""
    service = folder / "service.yaml"
    service.write_text(json.dumps(description))
    command = [sys.executable, "-m", "agent", "envoy", "run", "--service", str(service)]
    command += ["--run-dir", str(folder), "--socket-path", str(it.socket), *flags]
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def test_an_envoy_takes_over_from_another(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, short_dir: Path
) -> None:
    """A hot restart loses nothing at all, whatever the method, and a request that runs is finished."""
    allowed, written, denied = ("GET", "/a", 200), ("POST", "/b", 200), ("POST", "/denied", 403)
    folder = short_dir / "run"
    folder.mkdir()

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            pay, _ = await it.pair()
            pay.stop()
            judged_by_the_agent(it, enforcing(admitting(PAY)))
            started = [run_envoy(it, folder, it.described["pay"], "--hot-restart")]
            try:
                await it.until_status(200, 30)
                async with sending(it, allowed[:2], written[:2], denied[:2]) as seen:
                    await more(it, seen, allowed, written, denied)
                    second = run_envoy(it, folder, it.described["pay"])
                    await it.run.until(lambda: second.poll() is not None, "it doesn't start beside", 40)
                    assert "--hot-restart takes over from it" in (folder / "run.log").read_text()
                    slow = asyncio.create_task(it.request("/slow"))
                    started.append(run_envoy(it, folder, it.described["pay"], "--hot-restart"))
                    await it.run.until(lambda: started[0].poll() == 0, "the old one ends", 60)
                    await more(it, seen, allowed, written, denied)
                    assert (await slow)[0] == 200
                assert set(seen) == {allowed, written, denied}
            finally:
                for one in started:
                    one.kill()
                    one.wait()

    run_async(work())


def test_one_that_was_started_alone_is_not_taken_over_from(
    lab: Any, entry: Any, run_async: Any, short_dir: Path
) -> None:
    folder = short_dir / "run"
    folder.mkdir()

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/pay")) as it:
            description = {"name": "pay", "spiffe_id": PAY, "inbound": [], "outbound": []}
            description["inbound"] = [
                {"listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", "protocol": "http", "name": "http"}
            ]
            first = run_envoy(it, folder, description)
            try:
                await it.run.until(lambda: len(it.parts.fleet) == 1, "Envoy asks", 40)
                second = run_envoy(it, folder, description, "--hot-restart")
                await it.run.until(lambda: second.poll() is not None, "it is told", 40)
                assert "was started without --hot-restart" in (folder / "run.log").read_text()
            finally:
                first.kill()
                first.wait()

    run_async(work())
