"""Real Envoys between test services, fed by the agent's own services, with the policy of the test.

The agent is the whole agent with the fake server; beside its socket there is a second one whose policy is a
`FakeEnforcement`. Needs an `envoy`; without one the tests that start it are skipped with one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.enforcement.counts import DecisionCounts
from agent.enforcement.ports import Enforcement, Ruling, WorkloadPolicy
from agent.envoy.address import Address
from agent.envoy.bootstrap import ALONE, FLAGS, bootstrap
from agent.envoy.description import ServiceDescription
from agent.envoy.names import ALLOW, HTTP_RBAC, NETWORK_RBAC
from agent.envoy.program import find_envoy
from agent.envoy.wiring import EnvoyParts, build_envoy_parts
from agent.refusals import Refusals
from control_plane.core.errors import NotFound
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.transport import Limits, Server, health

DOMAIN = "spiffe://agents.test"


def admitting(destination: str, *callers: str) -> WorkloadPolicy:
    """A policy that admits these callers to everything, in HTTP and TCP."""
    principals = [{"authenticated": {"principal_name": {"exact": one}}} for one in callers]
    policies = {"some": {"permissions": [{"any": True}], "principals": principals}} if callers else {}
    http, tcp = (
        {
            "name": ALLOW,
            "typed_config": {"@type": kind, **prefix, "rules": {"action": "ALLOW", "policies": policies}},
        }
        for kind, prefix in ((HTTP_RBAC, {}), (NETWORK_RBAC, {"stat_prefix": "x"}))
    )
    return WorkloadPolicy("n/w", SpiffeId.parse(destination), (http,), (tcp,))


def enforcing(*policies: WorkloadPolicy, quarantined: tuple[str, ...] = (), sequence: int = 1) -> Enforcement:
    """These policies in force."""
    return Enforcement(
        sequence=sequence,
        version=sequence,
        workloads={one.spiffe_id: one for one in policies},
        quarantined=frozenset(map(SpiffeId.parse, quarantined)),
        settled=True,
    )


class FakeEnforcement:
    """An EnforcementSource that holds what the test puts in force, and decides as `judge` does."""

    def __init__(self) -> None:
        self.judge: Callable[[SpiffeId, Any], Ruling] = lambda destination, request: Ruling(True, "a fake")
        self.current = Enforcement(settled=True)
        self._changed = asyncio.Event()

    def put(self, enforcement: Enforcement) -> None:
        """Puts this in force."""
        self.current = enforcement.coming(self.current, SystemClock().now().timestamp())
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def decide(self, destination: SpiffeId, request: Any) -> Ruling:
        """See Decisions."""
        return self.judge(destination, request)

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

    def start(self, document: Any = None, level: str = "warning", flags: Sequence[str] = (ALONE,)) -> None:
        """Starts it with a bootstrap configuration, or again with the last one."""
        config = self.folder / f"{self.name}.json"
        if document is not None:
            config.write_text(json.dumps(document))
        command = [str(find_envoy()), "-c", str(config), *FLAGS, *flags, "--concurrency", "1", "-l", level]
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

    async def stat(self, pattern: str) -> int:
        """The sum of the counters or gauges whose names match."""
        found = (await self.ask(f"/stats?filter=^{pattern}$")).splitlines()
        return sum(int(line.rpartition(": ")[2]) for line in found if ": " in line)

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
    """An agent, the policy in force, Envoys, and the services behind them."""

    def __init__(self, run: Any, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self.enforcement = FakeEnforcement()
        self.counts = DecisionCounts(self.enforcement)
        self.socket = folder / "e.sock"
        self.envoys: list[Envoy] = []
        self.ports: dict[str, int] = {}
        self.described: dict[str, dict[str, Any]] = {}
        self.parts: EnvoyParts
        self._services: list[asyncio.Server] = []
        self._grpc: Server | None = None
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
            self.enforcement,
            clock,
            Refusals(clock, agent.sync.first_word, str),
            agent.ready,
            self.counts,
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

    async def end(self) -> None:
        """Ends everything."""
        for envoy in self.envoys:
            envoy.stop()
        await self.close()
        for each in self._services:
            each.close()
        if self._grpc is not None:
            await self._grpc.close(0)

    def envoy(self, description: dict[str, Any], *, delta: bool = True, level: str = "warning") -> Envoy:
        """Starts an Envoy for a service."""
        one = Envoy(self.folder, description["name"])
        self.envoys.append(one)
        document = bootstrap(
            ServiceDescription.parse(description), self.socket, Address(path=str(one.admin)), delta=delta
        )
        one.start(document, level)
        return one

    def started(self, name: str, document: Any) -> Envoy:
        """Starts an Envoy with a bootstrap configuration from elsewhere."""
        one = Envoy(self.folder, name)
        one.admin = Path(document["admin"]["address"]["pipe"]["path"])
        self.envoys.append(one)
        one.start(document)
        return one

    async def pair(self, *, delta: bool = True, server: str = f"{DOMAIN}/pay") -> tuple[Envoy, Envoy]:
        """Envoys of `web` and `pay`. Web finds pay's HTTP service at the port `http`, its TCP service at
        `tcp`, each with mutual TLS between the two, and expects `server` there."""
        http, tcp = await self._listen(mirror), await self._listen(echo)
        self.ports = {name: free_port() for name in ("http-in", "tcp-in", "http", "tcp")}
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        pay = {
            "name": "pay",
            "spiffe_id": f"{DOMAIN}/pay",
            "access_log": str(self.folder / "access.log"),
            "inbound": [
                {"name": "http", "listen": at["http-in"], "upstream": http, "protocol": "http"},
                {"name": "tcp", "listen": at["tcp-in"], "upstream": tcp, "protocol": "tcp"},
            ],
        }
        web = {
            "name": "web",
            "spiffe_id": f"{DOMAIN}/web",
            "outbound": [
                {
                    "name": name,
                    "listen": at[name],
                    "upstream": at[f"{name}-in"],
                    "spiffe_id": server,
                    "protocol": name,
                }
                for name in ("http", "tcp")
            ],
        }
        self.described = {"pay": pay, "web": web}
        envoys = self.envoy(pay, delta=delta), self.envoy(web, delta=delta)
        for each in envoys:
            await each.live("http", "tcp")
        return envoys

    async def service(self, spiffe_id: str, **more: Any) -> tuple[Envoy, int, int]:
        """One Envoy before a service with this identity; gives the ports of its HTTP and its TCP listener.
        Its gRPC, on the port `grpc`, knows nothing but the health service."""
        self._grpc = Server([health(lambda: True)])
        await self._grpc.listen_unix(self.folder / "grpc.sock")
        upstreams = {
            "http": await self._listen(mirror),
            "tcp": await self._listen(echo),
            "grpc": f"unix:{self.folder}/grpc.sock",
        }
        self.ports = {name: free_port() for name in upstreams}
        inbound = [
            {"name": name, "listen": f"127.0.0.1:{port}", "upstream": upstreams[name], "protocol": name}
            for name, port in self.ports.items()
        ]
        envoy = self.envoy({"name": "one", "spiffe_id": spiffe_id, "inbound": inbound, **more})
        await envoy.live(*upstreams)
        return envoy, self.ports["http"], self.ports["tcp"]

    async def status(self, path: str = "/", headers: str = "") -> int:
        """The status of a request from web to pay."""
        return (await self.request(path, headers))[0]

    async def request(self, path: str = "/", headers: str = "", method: str = "GET") -> tuple[int, str]:
        """Status and body; the body is the request as pay got it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["http"])
        head = f"{method} {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n{headers}\r\n"
        writer.write(head.encode("latin-1"))
        try:
            answer = (await asyncio.wait_for(reader.read(), 30)).decode()
        finally:
            writer.close()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]

    async def until_status(self, wanted: int, seconds: float = 5) -> float:
        """Asks until this is the answer; gives the seconds that it took."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.timeout(seconds):
            while await self.status() != wanted:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        return loop.time() - start

    async def _listen(self, handler: Callable[..., Any]) -> str:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        self._services.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP service that answers with the request; `/slow` takes its time, and `/stream`
    answers a line each 50 ms, for ever; a WebSocket gets back what it sends."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            if request.startswith(b"GET /stream"):
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                while True:
                    writer.write(b"5\r\ntick\n\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            if b"upgrade: websocket" in request.lower():
                upgraded = b"connection: upgrade\r\nupgrade: websocket"
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + upgraded + b"\r\n\r\n")
                await echo(reader, writer)
                return
            if request.startswith(b"GET /slow"):
                await asyncio.sleep(0.6)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(request) + request)
            await writer.drain()
    writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A TCP service that sends back what it gets."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
    writer.close()


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
                await it.end()

    return running


@pytest.fixture(name="admitting")
def _admitting() -> Callable[..., WorkloadPolicy]:
    return admitting


@pytest.fixture(name="enforcing")
def _enforcing() -> Callable[..., Enforcement]:
    return enforcing


@pytest.fixture(name="free_port")
def _free_port() -> Callable[[], int]:
    return free_port
