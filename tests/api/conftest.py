"""A whole server in this process: database, authority, node port over TLS, admin socket. And its clients."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, server_id
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types import entry_pb2 as entry_types
from control_plane.proto.spire.api.types import selector_pb2, spiffeid_pb2
from control_plane.proto.spire.api.types.jointoken_pb2 import JoinToken
from control_plane.runtime.clock import Clock
from control_plane.runtime.tls import TlsClient, TlsIdentity
from control_plane.runtime.transport import Channel
from control_plane.settings import load_settings
from control_plane.sql.database import prepare
from control_plane.wiring.listener import NodeListener
from control_plane.wiring.management import AdminListener, lifecycle_of
from control_plane.wiring.process import MANAGEMENT_JOURNAL, Parts

TD = TrustDomain("example.org")
AGENT = "/spire.api.server.agent.v1.Agent/"
ENTRY = "/spire.api.server.entry.v1.Entry/"


def new_key_and_csr() -> tuple[bytes, bytes]:
    """A P-256 key (PKCS #8 PEM) and a CSR without names (DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        csr.public_bytes(Encoding.DER),
    )


def message_of(spiffe_id: str | SpiffeId) -> spiffeid_pb2.SPIFFEID:
    parsed = SpiffeId.parse(str(spiffe_id))
    return spiffeid_pb2.SPIFFEID(trust_domain=parsed.trust_domain.name, path=parsed.path)


def entry_for(name: str, parent: str | SpiffeId, *selectors: str, **other: Any) -> entry_types.Entry:
    pairs = [text.partition(":") for text in selectors or ("unix:uid:1",)]
    return entry_types.Entry(
        spiffe_id=message_of(f"spiffe://{TD}{name}"),
        parent_id=message_of(parent),
        selectors=[selector_pb2.Selector(type=t, value=v) for t, _, v in pairs],
        **other,
    )


@dataclass
class TestAgent:
    """An agent that attested, and its connection."""

    __test__ = False
    id: SpiffeId
    channel: Channel
    identity: TlsIdentity


@dataclass
class TestServer:
    """The running server, as tests see it."""

    __test__ = False
    parts: Parts
    port: int
    admin: Channel
    lifecycle: Any
    channels: list[Channel] = field(default_factory=list)

    def tls(self, identity: TlsIdentity | None = None) -> Channel:
        client = TlsClient(server_id(TD), lambda: self.parts.trust.own, lambda: identity)
        channel = Channel.tcp("127.0.0.1", self.port, client)
        self.channels.append(channel)
        return channel

    async def token(self, **other: Any) -> str:
        request = agent_pb2.CreateJoinTokenRequest(ttl=60, **other)
        return (await self.admin.unary(AGENT + "CreateJoinToken", request, JoinToken)).value

    async def attest(
        self, type_: str, payload: bytes, answer: Callable[[bytes], bytes] | None = None
    ) -> TestAgent:
        pem, csr = new_key_and_csr()
        params = agent_pb2.AttestAgentRequest.Params()
        params.data.type, params.data.payload, params.params.csr = type_, payload, csr
        async with self.tls().stream(
            AGENT + "AttestAgent", agent_pb2.AttestAgentResponse, timeout=10
        ) as call:
            await call.send(agent_pb2.AttestAgentRequest(params=params))
            response = await call.receive()
            while response is not None and response.WhichOneof("step") == "challenge":
                assert answer is not None
                await call.send(agent_pb2.AttestAgentRequest(challenge_response=answer(response.challenge)))
                response = await call.receive()
            await call.end()
        assert response is not None
        svid = response.result.svid
        identity = TlsIdentity(tuple(svid.cert_chain), Secret(pem))
        spiffe_id = SpiffeId(TrustDomain(svid.id.trust_domain), svid.id.path)
        return TestAgent(spiffe_id, self.tls(identity), identity)

    async def join(self) -> TestAgent:
        return await self.attest("join_token", (await self.token()).encode())

    async def create(self, *entries: entry_types.Entry) -> entry_pb2.BatchCreateEntryResponse:
        request = entry_pb2.BatchCreateEntryRequest(entries=entries)
        return await self.admin.unary(ENTRY + "BatchCreateEntry", request, entry_pb2.BatchCreateEntryResponse)


Scenario = Callable[[TestServer], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(
    directory: Path, *, clock: Clock | None = None, **flags: object
) -> AsyncIterator[TestServer]:
    settings = load_settings(
        file=None,
        environment={},
        flags={"data_dir": str(directory), "trust_domain": TD.name, "bind": "127.0.0.1:0"} | flags,
    )
    prepare(settings.database)
    parts = Parts(settings, MANAGEMENT_JOURNAL, clock)
    stop = asyncio.Event()
    await parts.open()
    lifecycle = lifecycle_of(parts)
    await lifecycle.tick()
    listening = asyncio.Event()
    ready = asyncio.Event()
    node = NodeListener(parts, listening.set)
    services = [parts, parts.replica, parts.confirmations, node, AdminListener(parts, ready.set)]
    tasks = [asyncio.create_task(service.run(stop)) for service in services]
    async with asyncio.timeout(10):
        await listening.wait()
        await ready.wait()
    server = TestServer(parts, node.port, Channel.unix(settings.admin_socket), lifecycle)
    try:
        yield server
    finally:
        for channel in [server.admin, *server.channels]:
            await channel.close()
        stop.set()
        await asyncio.gather(*tasks)
        await parts.close()


@pytest.fixture
def serve(short_dir: Path) -> Callable[..., None]:
    """Runs a scenario against a server of its own; keyword arguments are settings."""

    def run(scenario: Scenario, **flags: Any) -> None:
        (short_dir / "d").mkdir(mode=0o700)

        async def main() -> None:
            async with asyncio.timeout(60):
                async with running(short_dir / "d", **flags) as server:
                    await scenario(server)

        asyncio.run(main())

    return run


@pytest.fixture
def api() -> Any:
    """The functions of this file, for tests that can't import it."""

    class Tools:
        td = TD
        new_key_and_csr = staticmethod(new_key_and_csr)
        message_of = staticmethod(message_of)
        entry_for = staticmethod(entry_for)
        random = staticmethod(os.urandom)

    return Tools
