"""What else goes through Envoy: gRPC with its streams, and tokens of end users."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey

from agent.enforcement.ports import WorkloadPolicy
from control_plane.core.errors import PermissionDenied
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.runtime.transport import Channel, Server, health
from policies.edge import edge_policies
from policies.inventory_file import inventory_from_document
from policies.project import Project

DOMAIN = "spiffe://agents.test"
WEB, PAY = f"{DOMAIN}/web", f"{DOMAIN}/ns/shop/sa/pay"
METHODS = "/grpc.health.v1.Health/"


def test_grpc_calls_and_streams(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, free_port: Any
) -> None:
    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/ns/shop/sa/pay")) as it:
            server = Server([health(lambda: True)])
            await server.listen_unix(it.folder / "pay.sock")
            at = f"127.0.0.1:{free_port()}"
            inbound = {
                "name": "api",
                "listen": at,
                "upstream": f"unix:{it.folder}/pay.sock",
                "protocol": "grpc",
            }
            outbound = {
                "name": "pay", "listen": f"unix:{it.folder}/out.sock", "upstream": at,
                "spiffe_id": PAY, "protocol": "grpc",
            }  # fmt: skip
            pay = it.envoy({"name": "pay", "spiffe_id": PAY, "inbound": [inbound]})
            web = it.envoy({"name": "web", "spiffe_id": WEB, "outbound": [outbound]})
            await pay.live("api")
            await web.live("pay")
            request = health_pb2.HealthCheckRequest()
            async with Channel.unix(it.folder / "out.sock") as channel:

                async def check() -> int:
                    answer = await channel.unary(
                        METHODS + "Check", request, health_pb2.HealthCheckResponse, timeout=10
                    )
                    return int(answer.status)

                with pytest.raises(PermissionDenied, match="RBAC: access denied"):
                    await check()
                it.enforcement.put(enforcing(admitting(PAY, WEB)))
                async with asyncio.timeout(10):
                    while True:
                        try:
                            assert await check() == health_pb2.HealthCheckResponse.SERVING
                            break
                        except PermissionDenied:
                            await asyncio.sleep(0.02)
                async with channel.server_stream(
                    METHODS + "Watch", request, health_pb2.HealthCheckResponse
                ) as call:
                    first = await asyncio.wait_for(call.receive(), 10)
                    assert first is not None and first.status == health_pb2.HealthCheckResponse.SERVING
                    # A policy that is another and still admits it leaves the stream alone.
                    it.enforcement.put(enforcing(admitting(PAY, WEB, f"{WEB}/2"), sequence=2))
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(call.receive(), 1.5)
            await server.close(0)

    run_async(work())


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A web server's certificate for `localhost` that vouches for itself, and its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an issuer")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, both = folder / "issuer.pem", folder / "issuer-and-key.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    both.write_bytes(path.read_bytes() + key.private_bytes(serialization.Encoding.PEM, form, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, path


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tokens_are_checked_with_the_keys_of_their_issuer(
    lab: Any, entry: Any, run_async: Any, enforcing: Any, free_port: Any, scheme: str
) -> None:
    key, other = (ECKey.import_key(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    keys = json.dumps({"keys": [key.as_dict(private=False)]})

    def token(signer: ECKey, **claims: str) -> str:
        text = jwt.encode(
            {"alg": "ES256"}, {"iss": "https://id.test", "exp": 4_000_000_000, **claims}, signer
        )
        return f"authorization: Bearer {text}\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(keys)}\r\n\r\n{keys}".encode()
        )
        await writer.drain()
        writer.close()

    def policy(uri: str, port: int) -> WorkloadPolicy:
        rego = 'package gatehouse.authz\nallow if input.jwt.claims.role == "admin"\n'
        services = [{"name": "api", "ports": [{"port": port, "protocol": "http"}]}]
        inventory = inventory_from_document(
            {
                "mesh": {"trust_domain": "agents.test"},
                "issuers": [
                    {"name": "id", "issuer": "https://id.test", "jwks_uri": uri, "claims": {"role": "string"}}
                ],
                "workloads": [
                    {"name": "pay", "namespace": "shop", "service_account": "pay", "mode": "envoy",
                     "labels": {"app": "pay"}, "services": services}
                ],
            }
        )  # fmt: skip
        (edge,) = edge_policies(Project.of({"a.rego": rego}), inventory, frozenset({PAY}))
        assert not edge.narrower
        return WorkloadPolicy(edge.workload, SpiffeId.parse(PAY), edge.http, edge.tcp)

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/ns/shop/sa/pay")) as it:
            context, authorities = certificate(it.folder)
            issuer = await asyncio.start_server(
                serve, "127.0.0.1", 0, ssl=context if scheme == "https" else None
            )
            uri = f"{scheme}://localhost:{issuer.sockets[0].getsockname()[1]}/keys"
            pay, port, _ = await it.service(PAY, authorities=str(authorities))
            it.ports = {"http": free_port()}
            web = it.envoy(
                {
                    "name": "web",
                    "spiffe_id": WEB,
                    "outbound": [
                        {"name": "http", "listen": f"127.0.0.1:{it.ports['http']}",
                         "upstream": f"127.0.0.1:{port}", "spiffe_id": PAY, "protocol": "http"}
                    ],
                }
            )  # fmt: skip
            await web.live("http")
            it.enforcement.put(enforcing(policy(uri, port)))
            async with asyncio.timeout(15):
                while await it.status(headers=token(key, role="admin")) != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert await it.status(headers=token(key, role="clerk")) == 403
            assert await it.status() == 403
            assert await it.status(headers=token(other, role="admin")) == 401
            assert await pay.stat(r".*update_rejected") == 0
            issuer.close()

    run_async(work())


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A TCP service that speaks first, and sends back what it gets."""
    writer.write(b"hello, who are you?")
    with contextlib.suppress(OSError):
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
    writer.close()


def test_a_tcp_service_hears_of_nobody_who_is_denied(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, free_port: Any
) -> None:
    """Envoy's filters look at a connection when its first bytes come; a service that speaks before that would
    tell it to anybody in the mesh. Where that is wanted, it has to be said."""

    async def work() -> None:
        async with lab(entry("e1", "/web"), entry("e2", "/ns/shop/sa/pay")) as it:
            upstream = await it._listen(greet)
            ports = {name: (free_port(), free_port()) for name in ("tcp", "tcp-server-first")}
            inbound = [
                {"name": name, "listen": f"127.0.0.1:{port}", "upstream": upstream, "protocol": name}
                for name, (port, _) in ports.items()
            ]
            outbound = [
                {"name": name, "listen": f"127.0.0.1:{port}", "upstream": f"127.0.0.1:{at}",
                 "spiffe_id": PAY, "protocol": name}
                for name, (at, port) in ports.items()
            ]  # fmt: skip
            await it.envoy({"name": "pay", "spiffe_id": PAY, "inbound": inbound}).live(*ports)
            await it.envoy({"name": "web", "spiffe_id": WEB, "outbound": outbound}).live(*ports)

            async def heard(name: str, said: bytes, expected: bytes) -> bytes:
                """What comes within a second, or as soon as it is what is expected."""
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[name][1])
                writer.write(said)
                found = b""
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(1 if not expected else 20):
                        while found != expected and (more := await reader.read(100)):
                            found += more
                writer.close()
                return found

            greeting = b"hello, who are you?"
            it.enforcement.put(enforcing(admitting(PAY)))
            await asyncio.sleep(1)
            for said in (b"", b"me"):
                assert await heard("tcp", said, b"") == b""
            it.enforcement.put(enforcing(admitting(PAY, WEB), sequence=2))
            async with asyncio.timeout(20):
                while await heard("tcp", b"me", greeting + b"me") != greeting + b"me":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert await heard("tcp-server-first", b"", greeting) == greeting

    run_async(work())
