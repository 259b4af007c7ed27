"""What the agent's tests share: values in short form, the fake server, an agent that runs in this process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.holdings import HeldSvid
from agent.settings import AgentSettings, WrittenSettings
from agent.wiring import Agent, build_agent, serve
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.entry import Entry
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, agent_id
from control_plane.core.svid import X509Svid
from control_plane.proto import workloadapi_pb2 as pb
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.transport import Channel

TD, OTHER = TrustDomain("agents.test"), TrustDomain("other.test")
HEADER = (("workload.spiffe.io", "true"),)
UID = f"unix:uid:{os.getuid()}"


def _fake(name: str) -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "fakes" / f"{name}.py"
    known = f"gatehouse_fakes_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def node_server() -> ModuleType:
    """The module with the fake server."""
    return _fake("node_server")


@pytest.fixture(scope="session")
def entry() -> Callable[..., Entry]:
    """Makes an entry: entry("e1", "/w", "unix:uid:1", …)."""

    def make(entry_id: str, path: str, *selectors: str, **fields: Any) -> Entry:
        fields.setdefault("created_at", 1)
        return Entry.parse(
            id=entry_id,
            spiffe_id=f"spiffe://{TD}{path}",
            parent_id=f"spiffe://{TD}/node",
            selectors=selectors or (UID,),
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def held(node_server: ModuleType) -> Callable[..., HeldSvid]:
    """Makes an SVID with a key: held(spiffe_id, not_after=…, renew_at=…)."""
    ca = node_server.Ca(TD, 1_700_000_000)

    def make(
        spiffe_id: SpiffeId,
        *,
        not_after: int = 1_800_086_400,
        renew_at: int = 1_800_010_000,
        authority: str = "",
    ) -> HeldSvid:
        key = ec.generate_private_key(ec.SECP256R1())
        der = ca.leaf(spiffe_id, node_server.spki(key), 1_700_000_000, 3600)
        pkcs8 = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        svid = X509Svid.from_chain([der])
        svid = dataclasses.replace(svid, not_after=not_after, authority_id=authority or svid.authority_id)
        return HeldSvid(svid, Secret(pkcs8), renew_at)

    return make


@dataclasses.dataclass
class Running:
    """An agent with its server, and a client of its socket."""

    server: Any
    agent: Agent
    settings: AgentSettings
    channel: Channel
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
        """Waits for something to become true."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        assert condition(), what

    @contextlib.asynccontextmanager
    async def x509(self) -> AsyncIterator[Any]:
        """An open FetchX509SVID."""
        async with self.channel.server_stream(
            "/SpiffeWorkloadAPI/FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse, metadata=HEADER
        ) as call:
            yield call

    async def x509_once(self) -> pb.X509SVIDResponse:
        """Its first message."""
        async with self.x509() as call:
            async with asyncio.timeout(10):
                message = await call.receive()
            assert message is not None
            return message

    async def unary(self, method: str, request: Any, kind: Any, metadata: Any = HEADER) -> Any:
        return await self.channel.unary(
            f"/SpiffeWorkloadAPI/{method}", request, kind, metadata=metadata, timeout=20
        )

    async def first(self, method: str, request: Any, kind: Any, metadata: Any = HEADER) -> Any:
        """The first message of a stream."""
        async with self.channel.server_stream(
            f"/SpiffeWorkloadAPI/{method}", request, kind, metadata=metadata, timeout=20
        ) as call:
            return await call.receive()

    async def end(self) -> None:
        """Stops the agent, leaves the server."""
        self.stop.set()
        await self.channel.close()
        await asyncio.wait_for(self.task, 20)


@pytest.fixture
def agent_in(short_dir: Path, node_server: ModuleType) -> Callable[..., Any]:
    """A context manager that runs an agent against a (new or given) fake server."""

    @contextlib.asynccontextmanager
    async def running(
        *entries: Entry,
        server: Any = None,
        pushes: bool = True,
        wait: bool = True,
        keep_server: bool = False,
        environment: dict[str, str] | None = None,
        before: Callable[[Any], None] | None = None,
        trust: Bundle | None = None,
        **written: Any,
    ) -> AsyncIterator[Running]:
        own = server is None
        if server is None:
            server = node_server.FakeServer(TD, pushes=pushes)
            await server.start()
            server.tokens.add("token-1")
            written.setdefault("join_token", Secret("token-1"))
        server.put(*entries)
        if before is not None:
            before(server)
        bundle = short_dir / "bundle.pem"
        bundle.write_text((trust or server.bundle).to_pem())
        (short_dir / "run").mkdir(mode=0o700, exist_ok=True)
        settings = AgentSettings.parse(
            WrittenSettings(
                data_dir=str(short_dir / "data"),
                trust_domain=TD.name,
                server=f"127.0.0.1:{server.port}",
                trust_bundle=str(bundle),
                **written,
            )
        )
        settings.data_dir.mkdir(exist_ok=True)
        surroundings = environment or {"XDG_RUNTIME_DIR": str(short_dir / "run")}
        agent = await build_agent(settings, SystemClock(), surroundings)
        await agent.workload_server.listen_unix(settings.socket_path, 0o777)
        await agent.admin_server.listen_unix(settings.admin_socket_path, 0o600)
        stop = asyncio.Event()
        task = asyncio.create_task(serve(agent, stop))
        channel = Channel.unix(settings.socket_path)
        run = Running(server, agent, settings, channel, stop, task)
        try:
            if wait:
                await run.until(
                    lambda: task.done() or (agent.sync.last_sync and not agent.ready()), "the agent is ready"
                )
            yield run
        finally:
            if not task.done():
                await run.end()
            await channel.close()
            if own and not keep_server:
                await server.stop()

    return running


@pytest.fixture
def node_certificate(short_dir: Path, node_server: ModuleType) -> tuple[Path, Path, Any]:
    """A node's certificate and key as files, and the server's half of x509pop for them."""
    ca = node_server.Ca(TD, 1_700_000_000)
    key = ec.generate_private_key(ec.SECP256R1())
    der = ca.leaf(agent_id(TD, "any", "node"), node_server.spki(key), 1_700_000_000, 10**8)
    certificate, key_file = short_dir / "node.pem", short_dir / "node.key"
    certificate.write_bytes(x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key_file, node_server.X509Pop(der, key.public_key())


@pytest.fixture
def foreign(node_server: Any) -> tuple[Any, Bundle]:
    """A foreign trust domain: its JWT key and its bundle."""
    ca = node_server.Ca(OTHER, 1_700_000_000)
    key = node_server.JwtKey()
    bundle = Bundle(
        OTHER, (X509Authority(ca.certificate),), (JwtAuthority(key.key_id, key.spki, 0),), sequence=7
    )
    return key, bundle


@pytest.fixture(scope="session")
def run_async() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine to its end, within a minute."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(60):
                return await work

        return asyncio.run(bounded())

    return run
