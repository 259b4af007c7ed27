"""A federated authority speaks for its own trust domain alone, whatever names it writes into a certificate.

Envoy's SPIFFE validator picks the authorities by the first URI of a certificate, while its rules match any
name in it: without care, a foreign authority that adds a name of ours to its own would pass for us.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509

from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.tls import TlsIdentity

WEB, PAY = "spiffe://agents.test/web", "spiffe://agents.test/pay"
OTHER = TrustDomain.parse("other.test")
OURS = x509.UniformResourceIdentifier("spiffe://other.test/web")
STOLEN = x509.UniformResourceIdentifier(WEB)

ACCEPTED = {
    "one name": (OURS,),
    "a DNS name beside it": (OURS, x509.DNSName("web.other.test"), x509.DNSName("*.other.test")),
}
REFUSED = {
    "a second URI": (OURS, STOLEN),
    "a second URI of its own": (OURS, x509.UniformResourceIdentifier("spiffe://other.test/more")),
    "a DNS name that is an ID": (OURS, x509.DNSName(WEB)),
    "a DNS name with a slash among others": (OURS, x509.DNSName("a.test"), x509.DNSName("x/web")),
    "no URI": (x509.DNSName(WEB),),
    "a comma": (x509.UniformResourceIdentifier(f"spiffe://other.test/web,{WEB}"),),
}


@pytest.fixture(scope="module")
def authorities() -> ModuleType:
    """The module with certificate authorities for tests."""
    path = Path(__file__).parents[2] / "fakes" / "tls_authority.py"
    spec = importlib.util.spec_from_file_location("gatehouse_fakes_tls_authority", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def federated(authority: Any) -> Bundle:
    """The bundle of the foreign trust domain."""
    der = ssl.PEM_cert_to_DER_cert(authority.pem)
    return Bundle(OTHER, (X509Authority(der),), sequence=1)


def federating(lab: Any, entry: Any, authority: Any) -> Any:
    """An agent with a workload whose entry federates with the foreign trust domain."""
    bundle = federated(authority)
    return lab(
        entry("e1", "/one", federates_with=["other.test"]),
        before=lambda server: server.federated.update({OTHER: bundle}),
    )


def context(authority: Any, identity: TlsIdentity, role: int) -> ssl.SSLContext:
    """TLS 1.3 with this certificate, of a party that accepts everybody: it is the attacker's."""
    found = ssl.SSLContext(role)
    if role == ssl.PROTOCOL_TLS_CLIENT:
        # An SVID has no host name, and whom Envoy lets in is what is asked here, not who Envoy is.
        found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    found.load_cert_chain(*authority.write("attacker", identity))
    return found


async def answered(port: int, tls: ssl.SSLContext, sent: bytes) -> bytes:
    """What a listener answers first; nothing if it closes."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(64), 10)
    except OSError:
        return b""
    writer.close()
    return answer


def test_a_caller_with_more_names_than_its_own_is_nobody(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, authorities: Any, short_dir: Any
) -> None:
    authority = authorities.CertificateAuthority.make(short_dir, "other")

    async def work() -> None:
        async with federating(lab, entry, authority) as it:
            _, http, tcp = await it.service("spiffe://agents.test/one")
            # Both are let in, so that all that is refused is refused for its names.
            policy = admitting("spiffe://agents.test/one", WEB, "spiffe://other.test/web")
            it.enforcement.put(enforcing(policy))
            request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

            async def answers(*names: Any) -> tuple[bytes, bytes]:
                tls = context(authority, authority.issue(*names), ssl.PROTOCOL_TLS_CLIENT)
                return (await answered(http, tls, request))[:12], await answered(tcp, tls, b"hello")

            expected = (b"HTTP/1.1 200", b"hello")
            async with asyncio.timeout(20):
                while await answers(OURS) != expected:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.05)
            for what, accepted in ACCEPTED.items():
                assert await answers(*accepted) == expected, what
            for what, refused in REFUSED.items():
                assert await answers(*refused) == (b"", b""), what

    run_async(work())


def test_a_server_with_a_name_of_ours_beside_its_own_gets_no_request(
    lab: Any, entry: Any, run_async: Any, authorities: Any, short_dir: Any, free_port: Any
) -> None:
    authority = authorities.CertificateAuthority.make(short_dir, "other")

    async def work() -> None:
        got: list[bytes] = []

        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append(await reader.read(64))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        bundle = federated(authority)
        async with lab(
            entry("e1", "/web", federates_with=["other.test"]),
            before=lambda server: server.federated.update({OTHER: bundle}),
        ) as it:
            ports = {name: free_port() for name in ("ours", "theirs")}
            servers = []
            for name, names in {
                "ours": (OURS, x509.UniformResourceIdentifier(PAY)),
                "theirs": (OURS,),
            }.items():
                tls = context(authority, authority.issue(*names), ssl.PROTOCOL_TLS_SERVER)
                servers.append(await asyncio.start_server(impostor, "127.0.0.1", ssl=tls))
                ports[f"{name}-server"] = servers[-1].sockets[0].getsockname()[1]
            expected = {"ours": PAY, "theirs": "spiffe://other.test/web"}
            outbound = [
                {
                    "name": name,
                    "listen": f"127.0.0.1:{ports[name]}",
                    "upstream": f"127.0.0.1:{ports[f'{name}-server']}",
                    "spiffe_id": spiffe_id,
                    "protocol": "http",
                }
                for name, spiffe_id in expected.items()
            ]
            web = it.envoy({"name": "web", "spiffe_id": WEB, "outbound": outbound})
            await web.live("ours", "theirs")
            it.ports = {"http": ports["theirs"]}
            await it.until_status(200, 20)
            got.clear()
            _, writer = await asyncio.open_connection("127.0.0.1", ports["ours"])
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(20):
                failed = r"cluster\.ours\.ssl\.fail_verify_error"
                while not await web.stat(failed):  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.05)
            assert not got
            writer.close()
            for each in servers:
                each.close()

    run_async(work())


def test_connections_end_when_the_authority_of_their_caller_is_withdrawn(
    lab: Any, entry: Any, run_async: Any, admitting: Any, enforcing: Any, authorities: Any, short_dir: Any
) -> None:
    authority = authorities.CertificateAuthority.make(short_dir, "other")

    async def work() -> None:
        async with federating(lab, entry, authority) as it:
            _, http, tcp = await it.service("spiffe://agents.test/one")
            it.enforcement.put(enforcing(admitting("spiffe://agents.test/one", "spiffe://other.test/web")))
            tls = context(authority, authority.issue(OURS), ssl.PROTOCOL_TLS_CLIENT)
            request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
            async with asyncio.timeout(20):
                while not await answered(tcp, tls, b"hello"):  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.05)
            kept = [await asyncio.open_connection("127.0.0.1", port, ssl=tls) for port in (http, tcp)]
            for reader, writer in kept:
                writer.write(request)
                assert await asyncio.wait_for(reader.read(4096), 10)

            # Something else that is new to the Envoy ends nothing.
            it.run.server.put(entry("e2", "/two", "unix:uid:54321"))
            await asyncio.sleep(1)
            assert not any(reader.at_eof() for reader, _ in kept)

            it.run.server.federated.clear()
            it.run.server.change()
            for reader, writer in kept:
                await asyncio.wait_for(ended(reader), 20)
                writer.close()
            assert not await answered(http, tls, request)
            assert not await answered(tcp, tls, b"hello")

    run_async(work())


async def ended(reader: asyncio.StreamReader) -> None:
    """Returns when the connection is closed, in order or not."""
    try:
        while await reader.read(4096):
            pass
    except OSError:
        return
