"""A small certificate authority, an echo service, and event loops for the tests of the runtime."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.errors import DenialReason, NotFound, PermissionDenied, Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types import entry_pb2 as types_entry_pb2
from control_plane.runtime.tls import TlsClient, TlsIdentity, TlsServerSource
from control_plane.runtime.transport import Call, Service, health, reflection, service

SERVER_ID = SpiffeId.parse("spiffe://example.org/spire/server")


class Authority:
    """A throw-away CA of one trust domain."""

    def __init__(self, trust_domain: str = "example.org") -> None:
        self.trust_domain = TrustDomain.parse(trust_domain)
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = f"{trust_domain} {x509.random_serial_number():x}"[:64]
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._root = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_uri(f"spiffe://{trust_domain}"), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.root = self._root.public_bytes(serialization.Encoding.DER)

    def bundle(self) -> Bundle:
        return Bundle(self.trust_domain, (X509Authority.parse(self.root),), (), 1, 300)

    def identity(self, spiffe_id: str) -> TlsIdentity:
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(x509.Name([]), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(_uri(spiffe_id), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return TlsIdentity((der,), Secret(_pkcs8(key)))

    def server_source(self, **options: Any) -> TlsServerSource:
        return TlsServerSource(self.identity(str(SERVER_ID)), [self.root], **options)

    def client(self, spiffe_id: str | None = None, expect: SpiffeId = SERVER_ID) -> TlsClient:
        identity = self.identity(spiffe_id) if spiffe_id else None
        return TlsClient(expect, self.bundle, lambda: identity)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=6))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )


def _uri(text: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(text)])


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Entries:
    """An implementation of the Entry service that does what the ID or the metadata of a request says."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.calls: list[Call] = []

    async def get_entry(self, call: Call, request: Any) -> types_entry_pb2.Entry:
        self.calls.append(call)
        match request.id:
            case "not-found":
                raise NotFound("entry 'ü 100%': there is none", hint="create it")
            case "banned":
                raise PermissionDenied("the agent is banned", reason=DenialReason.AGENT_BANNED)
            case "busy":
                raise Unavailable("busy", retry_after_seconds=1.5)
            case "bug":
                raise KeyError("secret-detail")
            case "slow":
                try:
                    await asyncio.sleep(30)
                finally:
                    self.ended.append("slow")
            case "metadata":
                call.set_initial_metadata({"x-first": call.first("x-asked") or "none"})
                call.set_trailing_metadata({"x-last": "1"})
        if request.id.startswith("big:"):
            return types_entry_pb2.Entry(id="big", hint="h" * int(request.id[4:]))
        return types_entry_pb2.Entry(id=request.id, hint=call.peer.address)

    async def count_entries(self, call: Call, request: Any) -> bytes:
        return entry_pb2.CountEntriesResponse(count=7).SerializeToString()

    async def sync_authorized_entries(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                entries = [types_entry_pb2.Entry(id=each) for each in request.ids]
                yield entry_pb2.SyncAuthorizedEntriesResponse(entries=entries, more=True)
            yield entry_pb2.SyncAuthorizedEntriesResponse(more=False)
        finally:
            self.ended.append("sync")


ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def make_authority() -> Callable[[str], Authority]:
    return Authority


@pytest.fixture
def entries() -> Entries:
    return Entries()


@pytest.fixture
def services(entries: Entries) -> list[Service]:
    """The Entry service with health and reflection."""
    entry = service(ENTRY, entries)
    standard = health(lambda: True, {"spire.api.server.entry.v1.Entry": lambda: False})
    return [entry, standard, *reflection([entry, standard])]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a new event loop, once on each kind, and fails if it takes over a minute."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(60):
                return await main

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(bounded())

    return run
