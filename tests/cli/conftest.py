"""A central service for the command line: gRPC and REST on unix sockets, answers from memory."""

from __future__ import annotations

import asyncio
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from control_plane.cli.root import app
from control_plane.core.errors import NotFound
from control_plane.proto.gatehouse.server.v1 import entry_pb2 as priority_pb2
from control_plane.proto.gatehouse.server.v1 import quarantine_pb2
from control_plane.proto.google.protobuf.empty_pb2 import Empty
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types import (
    agent_pb2 as agents,
)
from control_plane.proto.spire.api.types import (
    bundle_pb2 as bundles,
)
from control_plane.proto.spire.api.types import (
    entry_pb2 as entries,
)
from control_plane.proto.spire.api.types import (
    jointoken_pb2,
    jwtsvid_pb2,
    spiffeid_pb2,
    status_pb2,
    x509svid_pb2,
)
from control_plane.runtime.transport import Server, service

ALREADY_EXISTS, NOT_FOUND = 6, 5


@dataclass
class FakeRegistry:
    """What the fake knows, and what it was asked."""

    entries: dict[str, entries.Entry] = field(default_factory=dict)
    priorities: dict[str, int] = field(default_factory=dict)
    agents: list[agents.Agent] = field(default_factory=list)
    quarantined: dict[str, quarantine_pb2.Quarantined] = field(default_factory=dict)
    federated: dict[str, bundles.Bundle] = field(default_factory=dict)
    authority: bytes = b""
    asked: list[Any] = field(default_factory=list)
    rest: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    status: int = health_pb2.HealthCheckResponse.SERVING
    refusal: int = 0  # code of what is said to an update, and to a bundle that is to go

    async def batch_create_entry(self, call: object, request: Any) -> Any:
        results = []
        for position, entry in enumerate(request.request.entries):
            same = [each for each in self.entries.values() if each.spiffe_id == entry.spiffe_id]
            if same:
                status = status_pb2.Status(code=ALREADY_EXISTS, message="similar entry already exists")
                results.append(entry_pb2.BatchCreateEntryResponse.Result(status=status, entry=same[0]))
                continue
            made = entries.Entry()
            made.CopyFrom(entry)
            made.id = entry.id or f"entry-{len(self.entries)}"
            self.entries[made.id] = made
            self.priorities[made.id] = request.priorities.get(position, 0)
            results.append(entry_pb2.BatchCreateEntryResponse.Result(status=status_pb2.Status(), entry=made))
        return entry_pb2.BatchCreateEntryResponse(results=results)

    async def batch_update_entry(self, call: object, request: Any) -> Any:
        self.asked.append(request)
        changed = request.request.entries[0]
        self.priorities[changed.id] = request.priorities.get(0, 0)
        result = entry_pb2.BatchUpdateEntryResponse.Result(status=self._said(), entry=changed)
        return entry_pb2.BatchUpdateEntryResponse(results=[result])

    async def batch_delete_entry(self, call: object, request: Any) -> Any:
        results = []
        for name in request.ids:
            gone = self.entries.pop(name, None)
            status = (
                status_pb2.Status(message="OK")
                if gone
                else status_pb2.Status(code=NOT_FOUND, message="no such entry")
            )
            results.append(entry_pb2.BatchDeleteEntryResponse.Result(status=status, id=name))
        return entry_pb2.BatchDeleteEntryResponse(results=results)

    async def get_priorities(self, call: object, request: Any) -> Any:
        known = {name: self.priorities.get(name, 0) for name in request.entry_ids}
        return priority_pb2.GetPrioritiesResponse(priorities=known)

    async def get_quarantined(self, call: object, request: Any) -> Any:
        found = {name: one for name, one in self.quarantined.items() if name in request.spiffe_ids}
        return quarantine_pb2.GetQuarantinedResponse(quarantined=found)

    async def get_entry(self, call: object, request: Any) -> Any:
        if request.id not in self.entries:
            raise NotFound(f"there is no entry {request.id}", hint="`gatehouse entry show` lists all")
        return self.entries[request.id]

    async def list_entries(self, call: object, request: Any) -> Any:
        """Two a page, so that paging is walked."""
        self.asked.append(request)
        start = int(request.page_token or 0)
        found = list(self.entries.values())
        token = str(start + 2) if start + 2 < len(found) else ""
        return entry_pb2.ListEntriesResponse(entries=found[start : start + 2], next_page_token=token)

    async def count_entries(self, call: object, request: Any) -> Any:
        self.asked.append(request)
        return entry_pb2.CountEntriesResponse(count=len(self.entries))

    async def create_join_token(self, call: object, request: Any) -> Any:
        self.asked.append(request)
        return jointoken_pb2.JoinToken(value="a-token", expires_at=2_000_000_000)

    async def list_agents(self, call: object, request: Any) -> Any:
        return agent_pb2.ListAgentsResponse(agents=self.agents)

    async def get_agent(self, call: object, request: Any) -> Any:
        return next(each for each in self.agents if each.id == request.id)

    async def ban_agent(self, call: object, request: Any) -> Any:
        self.asked.append(request)
        return Empty()

    async def delete_agent(self, call: object, request: Any) -> Any:
        self.asked.append(request)
        return Empty()

    async def get_bundle(self, call: object, request: Any) -> Any:
        authority = bundles.X509Certificate(asn1=self.authority)
        return bundles.Bundle(trust_domain="cli.test", x509_authorities=[authority], sequence_number=7)

    async def batch_set_federated_bundle(self, call: object, request: Any) -> Any:
        self.federated[request.bundle[0].trust_domain] = request.bundle[0]
        result = bundle_pb2.BatchSetFederatedBundleResponse.Result(
            status=status_pb2.Status(), bundle=request.bundle[0]
        )
        return bundle_pb2.BatchSetFederatedBundleResponse(results=[result])

    async def batch_delete_federated_bundle(self, call: object, request: Any) -> Any:
        results = [
            bundle_pb2.BatchDeleteFederatedBundleResponse.Result(status=self._said(), trust_domain=name)
            for name in request.trust_domains
        ]
        return bundle_pb2.BatchDeleteFederatedBundleResponse(results=results)

    def _said(self) -> status_pb2.Status:
        return status_pb2.Status(code=self.refusal, message="refused" if self.refusal else "")

    async def list_federated_bundles(self, call: object, request: Any) -> Any:
        return bundle_pb2.ListFederatedBundlesResponse(bundles=self.federated.values())

    async def mint_x509_svid(self, call: object, request: Any) -> Any:
        asked = x509.load_der_x509_csr(request.csr)
        self.asked.append(asked)
        svid = x509svid_pb2.X509SVID(
            cert_chain=[self.authority],
            id=spiffeid_pb2.SPIFFEID(trust_domain="cli.test", path="/minted"),
            expires_at=2_000_000_000,
        )
        return svid_pb2.MintX509SVIDResponse(svid=svid)

    async def mint_jwt_svid(self, call: object, request: Any) -> Any:
        svid = jwtsvid_pb2.JWTSVID(token="a.b.c", id=request.id, expires_at=2_000_000_000, issued_at=1)
        return svid_pb2.MintJWTSVIDResponse(svid=svid)

    async def check(self, call: object, request: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=self.status)


SERVICES = (
    entry_pb2.DESCRIPTOR.services_by_name["Entry"],
    priority_pb2.DESCRIPTOR.services_by_name["Entry"],
    quarantine_pb2.DESCRIPTOR.services_by_name["Quarantine"],
    agent_pb2.DESCRIPTOR.services_by_name["Agent"],
    bundle_pb2.DESCRIPTOR.services_by_name["Bundle"],
    svid_pb2.DESCRIPTOR.services_by_name["SVID"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)


@pytest.fixture
def registry(short_dir: Path, authority_der: bytes) -> Iterator[FakeRegistry]:
    """A fake central service that listens in `short_dir`."""
    fake = FakeRegistry(authority=authority_der)
    loop = asyncio.new_event_loop()
    server: Server | None = None

    async def start() -> None:
        nonlocal server
        server = Server([service(each, fake) for each in SERVICES])
        await server.listen_unix(short_dir / "server.sock")

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    rest = _rest(short_dir / "api.sock", fake)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    yield fake
    rest.shutdown()
    rest.server_close()
    assert server is not None
    asyncio.run_coroutine_threadsafe(server.close(0), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def _rest(path: Path, fake: FakeRegistry) -> socketserver.ThreadingUnixStreamServer:
    """HTTP on a unix socket, answering what `fake.rest` has under (method, path)."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            fake.asked.append((self.command, self.path, json.loads(body) if body else None))
            status, text = fake.rest.get(
                (self.command, self.path.partition("?")[0]), (404, b'{"title": "nothing"}')
            )
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = answer

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    return socketserver.ThreadingUnixStreamServer(str(path), Handler)


@pytest.fixture(scope="session")
def authority_der() -> bytes:
    """Some self-signed CA certificate."""
    import datetime

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cli.test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def gatehouse(short_dir: Path) -> Callable[..., Result]:
    """Runs one command against `short_dir`."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--data-dir", str(short_dir)], prog_name="gatehouse")

    return run
