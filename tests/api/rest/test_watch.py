"""`gatehouse policy status --watch`, as a person runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CUT = {"spiffe_id": "spiffe://example.org/web", "reason": "odd calls"}
PUSH = {"files": {"a.rego": "package a"}, "inventory": "", "reason": "r", "wait_seconds": 0}


def test_what_happens_is_told_until_ctrl_c(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        command = [Path(sys.executable).with_name("gatehouse"), "policy", "status", "--watch"]
        told = {**os.environ, "GATEHOUSE_TOKEN": api.token("vera"), "PYTHONUNBUFFERED": "1"}
        watching = await asyncio.create_subprocess_exec(
            *command, "--output", "json", "--data-dir", api.data, stdout=subprocess.PIPE, env=told
        )
        try:
            assert watching.stdout is not None

            async def until(wanted: str) -> dict[str, Any]:
                assert watching.stdout is not None
                async with asyncio.timeout(60):
                    async for line in watching.stdout:
                        if line.startswith(b'{"event"') and json.loads(line)["event"] == wanted:
                            found: dict[str, Any] = json.loads(line)
                            return found
                raise AssertionError(f"it ended before {wanted}")

            async with asyncio.timeout(60):
                first = await watching.stdout.readline()
            assert first.startswith(b"{"), "the status comes first"
            changed = 0
            while not changed:  # until it listens: what came before that isn't told
                await api.call("POST", "/v1/quarantine", CUT)
                await api.call("POST", "/v1/quarantine/release", CUT)
                try:
                    async with asyncio.timeout(1):
                        changed = (await until("quarantine.set"))["revision"]
                except TimeoutError:
                    continue
            assert (await api.call("POST", "/v1/policy/versions", PUSH, by="ada")).status == 201
            assert (await until("policy.version"))["author"] == "login:ada"
            watching.send_signal(signal.SIGINT)
            async with asyncio.timeout(40):
                assert await watching.wait() == 0
        finally:
            if watching.returncode is None:
                watching.kill()
                await watching.wait()

    rest(scenario)


def test_who_may_not_watch_is_told_so(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        command = [Path(sys.executable).with_name("gatehouse"), "policy", "status", "--watch"]
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, "--data-dir", api.data],
            env={**os.environ, "GATEHOUSE_TOKEN": api.token("nobody")},
            capture_output=True,
            text=True,
            timeout=80,
        )
        assert done.returncode == 1 and "has no role" in done.stderr, done

    rest(scenario)
