"""Wrong clocks and long sleep, over real sockets: server and agent in one process, each with its clock.

OpenSSL judges certificates by the machine's own clock, which no test moves. So a clock that is wrong is one
that is away from it, and a machine that slept is one whose clock was behind and is now right.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent.settings import AgentSettings, WrittenSettings
from agent.wiring import Agent, build_agent, serve
from control_plane.core.errors import GatehouseError, PermissionDenied, Unauthenticated
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2

pytestmark = pytest.mark.timeout(120)
HOUR = 3600
UID = f"unix:uid:{os.getuid()}"
ENTRIES = "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries"


class Skewed:
    """The machine's clock, wrong by some seconds; `monotonic` doesn't count sleep, as Linux' doesn't."""

    def __init__(self, by_seconds: float = 0.0) -> None:
        self.by_seconds = by_seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self.by_seconds, UTC)

    def unix(self) -> int:
        return int(time.time() + self.by_seconds)

    def monotonic(self) -> float:
        return time.monotonic()


def _in_process() -> ModuleType:
    """The server that the tests of the API run."""
    path = Path(__file__).resolve().parents[1] / "api" / "conftest.py"
    spec = importlib.util.spec_from_file_location("gatehouse_tests_api", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SERVERS = _in_process()


@contextlib.asynccontextmanager
async def pair(folder: Path, server_clock: Skewed, agent_clock: Skewed) -> AsyncIterator[tuple[Any, Agent]]:
    """A server with an entry for this process, and an agent that starts to attest."""
    (folder / "d").mkdir(mode=0o700)
    (folder / "run").mkdir(mode=0o700)
    (folder / "a").mkdir(mode=0o700)
    async with SERVERS.running(folder / "d", clock=server_clock) as server:
        node = SpiffeId.of(SERVERS.TD, "node")
        token = await server.token(agent_id=SERVERS.message_of(node))
        await server.create(SERVERS.entry_for("/web", node, UID))
        bundle = folder / "bundle.pem"
        bundle.write_text(server.parts.trust.own.to_pem())
        settings = AgentSettings.parse(
            WrittenSettings(
                data_dir=str(folder / "a"),
                trust_domain=SERVERS.TD.name,
                server=f"127.0.0.1:{server.port}",
                trust_bundle=str(bundle),
                join_token=Secret(token),
            )
        )
        agent = await build_agent(settings, agent_clock, {"XDG_RUNTIME_DIR": str(folder / "run")})
        stop = asyncio.Event()
        task = asyncio.create_task(serve(agent, stop))
        try:
            yield server, agent
        finally:
            stop.set()
            await asyncio.wait_for(task, 20)


async def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
    """Waits for something to become true."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 -- nothing tells it
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


def serials(agent: Agent) -> set[int]:
    """What the agent holds for workloads."""
    return {held.svid.serial for held in agent.identities.held().values()}


def _own_serial(agent: Agent) -> int:
    """The agent's own certificate."""
    assert agent.node.credential is not None
    return agent.node.credential.held.svid.serial


@pytest.mark.parametrize("by_seconds", [-600, 600])
def test_an_agent_whose_clock_is_wrong_gets_and_renews_its_identity_or_says_why_not(
    short_dir: Path, by_seconds: int
) -> None:
    async def main() -> None:
        clock = Skewed(by_seconds)
        async with pair(short_dir, Skewed(), clock) as (_, agent):
            if by_seconds < 0:
                # What the server signs isn't valid yet for this agent: it says so, and waits for its clock.
                await until(
                    lambda: "clock" in agent.node.error or agent.node.credential, "an error or success"
                )
                if agent.node.credential is None:
                    clock.by_seconds = 0
            await until(lambda: agent.node.credential, "the attestation", 60)
            await until(lambda: serials(agent), "the workload's SVID", 60)

    asyncio.run(main())


@pytest.mark.parametrize("by_seconds", [-600, 600])
def test_a_server_whose_clock_jumps_for_a_while_loses_no_agent(short_dir: Path, by_seconds: int) -> None:
    async def main() -> None:
        clock = Skewed()
        async with pair(short_dir, clock, Skewed()) as (server, agent):
            await until(lambda: serials(agent), "the workload's SVID")
            before = serials(agent)
            clock.by_seconds = by_seconds
            other = await _new_connection(server, agent)
            if by_seconds < 0:
                assert isinstance(other, Unauthenticated | PermissionDenied) and "not valid" in str(other), (
                    other
                )
            await asyncio.sleep(1.5)
            assert serials(agent) == before, "a wrong clock elsewhere takes nothing from workloads"
            assert agent.node.standing.value == "attested"
            clock.by_seconds = 0
            assert await _new_connection(server, agent) is None
            [record] = server.parts.replica.index.agents.values()
            assert not record.banned

    asyncio.run(main())


async def _new_connection(server: Any, agent: Agent) -> GatehouseError | None:
    """What a call on a new connection with the agent's certificate gets."""
    assert agent.node.credential is not None
    held = agent.node.credential.held
    channel = server.tls(SERVERS.TlsIdentity(held.svid.chain, held.private_key))
    try:
        await channel.unary(
            ENTRIES,
            entry_pb2.GetAuthorizedEntriesRequest(),
            entry_pb2.GetAuthorizedEntriesResponse,
            timeout=10,
        )
    except GatehouseError as error:
        return error
    return None


def test_after_sixteen_hours_of_sleep_everything_is_renewed_without_an_operator(short_dir: Path) -> None:
    async def main() -> None:
        server_clock, agent_clock = Skewed(-16 * HOUR), Skewed(-16 * HOUR)
        async with pair(short_dir, server_clock, agent_clock) as (server, agent):
            await until(lambda: serials(agent), "the workload's SVID")
            own, before = _own_serial(agent), serials(agent)
            server_clock.by_seconds = agent_clock.by_seconds = 0
            await until(lambda: _own_serial(agent) != own, "the agent's renewal", 60)
            await until(lambda: serials(agent) and not serials(agent) & before, "new SVIDs", 60)
            now = agent_clock.unix()
            assert all(held.svid.not_after - now >= 18 * HOUR for held in agent.identities.held().values())
            [record] = server.parts.replica.index.agents.values()
            assert not record.banned and agent.node.standing.value == "attested"

    asyncio.run(main())
