"""A real Envoy in front of test services, fed by the agent's own services, with the policy of the test.

The agent is the whole agent with the fake server; beside its socket there is a second one whose policy is a
`FakeEnforcement`. Needs an `envoy`; without one the tests that start it are skipped with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.enforcement.ports import Enforcement
from agent.envoy.address import Address
from agent.envoy.bootstrap import FLAGS, bootstrap
from agent.envoy.description import ServiceDescription
from agent.envoy.program import find_envoy
from agent.envoy.wiring import EnvoyParts, build_envoy_parts
from agent.refusals import Refusals
from control_plane.core.errors import NotFound
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.transport import Limits, Server


class FakeEnforcement:
    """An EnforcementSource that holds what the test puts in force."""

    def __init__(self) -> None:
        self.current = Enforcement(settled=True)
        self._changed = asyncio.Event()

    def put(self, enforcement: Enforcement) -> None:
        """Puts this in force."""
        self.current = enforcement
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self, seen: Enforcement) -> Enforcement:
        """See EnforcementSource."""
        while self.current is seen:
            await self._changed.wait()
        return self.current


class Envoy:
    """One Envoy as a process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.log = folder / f"{name}.log"
        self.admin = folder / f"{name}.adm"
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, description: dict[str, Any], socket: Path, *, delta: bool = True, level: str = "warning"
    ) -> None:
        """Starts it for a service."""
        document = bootstrap(
            ServiceDescription.parse(description), socket, Address(path=str(self.admin)), delta=delta
        )
        config = self.folder / f"{self.name}.json"
        config.write_text(json.dumps(document))
        command = [str(find_envoy()), "-c", str(config), *FLAGS, "--concurrency", "1", "-l", level]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )

    async def ask(self, path: str, method: str = "GET") -> str:
        """The answer of its admin interface."""
        reader, writer = await asyncio.open_unix_connection(str(self.admin))
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        try:
            text = (await asyncio.wait_for(reader.read(), 10)).decode()
        finally:
            writer.close()
        return text.partition("\r\n\r\n")[2]

    async def stat(self, name: str) -> int:
        """One counter or gauge; 0 if there is none."""
        found = 0
        for line in (await self.ask(f"/stats?filter=^{name}$")).splitlines():
            found = int(line.rpartition(": ")[2])
        return found

    async def live(self, *listeners: str, seconds: float = 20) -> None:
        """Waits until it takes connections on these listeners."""

        async def ready() -> bool:
            with contextlib.suppress(OSError):
                answer = await self.ask("/listeners")
                return all(f"{name}::" in answer for name in listeners) and "LIVE" in await self.ask("/ready")
            return False

        assert self.process is not None
        async with asyncio.timeout(seconds):
            while not await ready():
                assert self.process.poll() is None, self.told()
                await asyncio.sleep(0.05)

    def told(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Ends it."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Lab:
    """An agent, the policy in force, and Envoys."""

    def __init__(self, run: Any, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self.enforcement = FakeEnforcement()
        self.socket = folder / "e.sock"
        self.envoys: list[Envoy] = []
        self.parts: EnvoyParts
        self._server: Server | None = None
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Starts the socket that Envoys are given; again after `close`, as another agent would."""
        agent, clock = self.run.agent, SystemClock()
        self._stop = asyncio.Event()
        self.parts = build_envoy_parts(
            agent.identities,
            agent.sessions,
            agent.broadcast,
            self.enforcement,
            clock,
            Refusals(clock, lambda: ""),
            agent.ready,
        )
        limits = Limits(idle_timeout_seconds=0, max_connection_age_seconds=0)
        self._server = Server(self.parts.services, limits=limits)
        await self._server.listen_unix(self.socket, 0o777)
        self._task = asyncio.create_task(self.parts.fleet.run(self._stop))

    async def close(self) -> None:
        """Ends it."""
        self._stop.set()
        if self._task is not None:
            await self._task
        if self._server is not None:
            await self._server.close(0)

    def envoy(self, description: dict[str, Any], **options: Any) -> Envoy:
        """Starts an Envoy."""
        one = Envoy(self.folder, description["name"])
        self.envoys.append(one)
        one.start(description, self.socket, **options)
        return one


@pytest.fixture
def lab(agent_in: Callable[..., Any], short_dir: Path) -> Callable[..., Any]:
    """A context manager: `async with lab(entries…) as it`."""
    try:
        find_envoy()
    except NotFound as error:
        pytest.skip(str(error))

    @contextlib.asynccontextmanager
    async def running(*entries: Any, **options: Any) -> AsyncIterator[Lab]:
        async with agent_in(*entries, **options) as run:
            it = Lab(run, short_dir)
            await it.serve()
            try:
                yield it
            finally:
                for envoy in it.envoys:
                    envoy.stop()
                await it.close()

    return running
