"""The management process in this process, called over its unix socket; people come with tokens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.runtime.transport import Channel
from control_plane.settings import load_settings
from control_plane.sql.database import prepare
from control_plane.wiring.management import manage

ISSUER = "https://login.test"
TOML = """
[roles]
local_administrators = {local}
grants = [
    "login:all viewer", "login:all auditor", "login:all author", "login:all approver", "login:all operator",
    "login:all sensor",
    "login:vera viewer", "login:audrey auditor", "login:ada author", "login:grace approver",
    "login:olga operator", "login:both author", "login:sam sensor", "login:both approver",
    "login:narrow operator spiffe://example.org/ns/shop",
    "spiffe://example.org/people/vera viewer", "spiffe://example.org/people/audrey auditor",
    "spiffe://example.org/people/ada author", "spiffe://example.org/people/grace approver",
    "spiffe://example.org/people/olga operator",
    "spiffe://example.org/people/narrow operator spiffe://example.org/ns/shop",
]
[[oidc]]
name = "login"
issuer = "https://login.test"
jwks_file = "{jwks}"
audience = "gatehouse"
"""


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Api:
    """A client of the socket and of the TLS port, as anybody could write it."""

    path: Path
    key: ECKey
    port: int

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.path.parent

    def serves_tls(self) -> bool:
        """Whether the port is open and its authority published."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0 and (self.data / "bundle.pem").exists()

    async def mint(self, spiffe_id: str) -> Path:
        """An X.509-SVID with its key as a file, as `gatehouse svid mint` would make it."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = builder.add_extension(name, critical=False).sign(key, hashes.SHA256())
        async with Channel.unix(self.data / "server.sock") as channel:
            answer = await channel.unary(
                "/spire.api.server.svid.v1.SVID/MintX509SVID",
                svid_pb2.MintX509SVIDRequest(csr=csr.public_bytes(Encoding.DER)),
                svid_pb2.MintX509SVIDResponse,
                timeout=30,
            )
        pem = "".join(ssl.DER_cert_to_PEM_cert(one) for one in answer.svid.cert_chain).encode()
        pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self.data / (hashlib.sha256(spiffe_id.encode()).hexdigest()[:8] + ".pem")
        path.write_bytes(pem)
        return path

    def context(self, svid: Path | None = None) -> ssl.SSLContext:
        """A client that knows nothing but the published bundle, and looks at the name of the host."""
        context = ssl.create_default_context(cafile=str(self.data / "bundle.pem"))
        if svid is not None:
            context.load_cert_chain(svid)
        return context

    def token(self, name: str, *, key: ECKey | None = None, **claims: Any) -> str:
        all_claims = {"iss": ISSUER, "aud": "gatehouse", "sub": name, "exp": 4_000_000_000} | claims
        header = {"alg": "ES256", "kid": (key or self.key).kid}
        return jwt.encode(
            header, {name: value for name, value in all_claims.items() if value}, key or self.key
        )

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str | None = None,
        token: str | None = None,
        tls: bool = False,
        svid: Path | None = None,
        **headers: str,
    ) -> Reply:
        """One request: over the unix socket, or over TLS with or without a client certificate."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        token = self.token(by) if by is not None else token
        if token is not None:
            told["authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, bytes):
            body, told["content-type"] = json.dumps(body), "application/json"
        return await asyncio.to_thread(self._call, method, path, body, told, tls or svid is not None, svid)

    def connect(self, tls: bool = False, svid: Path | None = None) -> http.client.HTTPConnection:
        """An open connection."""
        if tls:
            return http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self.context(svid))
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.path))
        return connection

    def _call(
        self, method: str, path: str, body: Any, headers: dict[str, str], tls: bool, svid: Path | None
    ) -> Reply:
        connection = self.connect(tls, svid)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            lower = {name.lower(): value for name, value in answer.getheaders()}
            told = json.loads(content) if content and "json" in lower["content-type"] else content.decode()
            return Reply(answer.status, lower, told or None)


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def rest(short_dir: Path) -> Callable[..., None]:
    """Runs a scenario against a management process of its own."""

    def run(
        scenario: Callable[[Api], Coroutine[Any, Any, None]],
        *,
        local: bool = True,
        more: str = "",
        seconds: float = 90,
    ) -> None:
        key = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
        jwks, toml = short_dir / "jwks.json", short_dir / "server.toml"
        jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
        toml.write_text(TOML.format(jwks=jwks, local=str(local).lower()) + more)
        data = short_dir / "d"
        data.mkdir(mode=0o700)

        async def main() -> None:
            settings = load_settings(
                file=toml,
                environment={},
                flags={
                    "data_dir": str(data),
                    "trust_domain": "example.org",
                    "bind": "127.0.0.1:0",
                    "api.bind": f"127.0.0.1:{free_port()}",
                },
            )
            prepare(settings.database)
            stop, started = asyncio.Event(), asyncio.Event()
            process = asyncio.create_task(manage(settings, stop=stop, started=started.set))
            try:
                async with asyncio.timeout(seconds):
                    await started.wait()
                    assert settings.api_bind is not None
                    api = Api(settings.rest_socket, key, settings.api_bind[1])
                    while not (settings.rest_socket.exists() and api.serves_tls()):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    await scenario(api)
            finally:
                stop.set()
                await process

        asyncio.run(main())

    return run
