"""Mutual TLS with SPIFFE IDs: who is let in, who is called, rotation, and what is refused."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.bundle import Bundle
from control_plane.core.errors import FailedPrecondition, InvalidInput, Unauthenticated, Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.verify_x509 import verify_x509
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.tls import TlsClient, TlsIdentity, TlsServerSource
from control_plane.runtime.transport import Channel, Limits, Peer, Server

Run = Callable[[Coroutine[Any, Any, Any]], Any]
GET = entry_pb2.DESCRIPTOR.services_by_name["Entry"].methods_by_name["GetEntry"]
AGENT = "spiffe://example.org/spire/agent/join_token/a"


async def get(channel: Channel, entry_id: str = "a", **options: Any) -> Entry:
    return await channel.unary(GET, entry_pb2.GetEntryRequest(id=entry_id), Entry, timeout=10, **options)


async def reached(port: int, tls: TlsClient) -> Entry:
    async with Channel.tcp("127.0.0.1", port, tls) as channel:
        return await get(channel)


def test_anonymous_and_known_clients_are_served(
    run: Run, services: Any, entries: Any, authority: Any
) -> None:
    async def main() -> None:
        server = Server(services)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        await reached(port, authority.client())
        await reached(port, authority.client(AGENT))
        await server.close(0.1)

    run(main())
    anonymous, known = (call.peer for call in entries.calls)
    assert (anonymous.kind, anonymous.chain, anonymous.unix) == ("tls", (), None)
    assert verify_x509(known.chain, authority.bundle(), SystemClock().unix()) == SpiffeId.parse(AGENT)


def test_admission_can_refuse_by_the_callers_chain(run: Run, services: Any, authority: Any) -> None:
    async def admit(peer: Peer) -> None:
        if peer.chain:
            spiffe_id = verify_x509(peer.chain, authority.bundle(), SystemClock().unix())
            peer.attributes["spiffe_id"] = spiffe_id
            if spiffe_id.path == "/banned":
                raise Unauthenticated(f"{spiffe_id} isn't welcome")

    async def main() -> None:
        server = Server(services, admit=admit)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        await reached(port, authority.client(AGENT))
        with pytest.raises(Unauthenticated, match="isn't welcome"):
            await reached(port, authority.client("spiffe://example.org/banned"))
        await server.close(0.1)

    run(main())


def test_a_client_of_a_foreign_authority_is_refused(
    run: Run, services: Any, entries: Any, authority: Any, make_authority: Any
) -> None:
    foreign = make_authority("example.org").identity(AGENT)

    async def main() -> None:
        server = Server(services)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        tls = TlsClient(authority.client().expect, authority.bundle, lambda: foreign)
        with pytest.raises(Unavailable, match="may not accept our certificate"):
            await reached(port, tls)
        await server.close(0.1)

    run(main())
    assert entries.calls == []


def test_a_client_calls_only_the_server_that_it_expects(
    run: Run, services: Any, entries: Any, authority: Any, make_authority: Any
) -> None:
    other = make_authority("example.org")

    async def main() -> None:
        server = Server(services)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        expected = authority.client().expect
        with pytest.raises(Unauthenticated, match="isn't trusted"):
            await reached(port, TlsClient(expected, other.bundle))
        with pytest.raises(Unauthenticated, match=r"expected spiffe://example\.org/another"):
            await reached(port, TlsClient(SpiffeId.parse("spiffe://example.org/another"), authority.bundle))
        with pytest.raises(FailedPrecondition, match=r"no X\.509 authority"):
            await reached(port, TlsClient(expected, lambda: Bundle(authority.trust_domain)))
        await server.close(0.1)

    run(main())
    assert entries.calls == []


def test_a_server_of_another_trust_domain_is_refused_even_if_its_authority_is_in_the_union(
    run: Run, services: Any, make_authority: Any
) -> None:
    """OpenSSL is content with the union of authorities; only our check knows whose they are."""
    ours, theirs = make_authority("example.org"), make_authority("other.org")
    impostor = TlsServerSource(theirs.identity("spiffe://example.org/spire/server"), [])

    class Union(Bundle):
        """What OpenSSL gets holds both authorities; what our check gets holds ours."""

        def x509_der(self) -> bytes:
            return bytes(ours.root + theirs.root)

    bundle = Union(ours.trust_domain, ours.bundle().x509_authorities, (), 1, 300)

    async def main() -> None:
        server = Server(services)
        port = await server.listen_tcp("127.0.0.1", 0, impostor)
        with pytest.raises(Unauthenticated):
            await reached(
                port, TlsClient(SpiffeId.parse("spiffe://example.org/spire/server"), lambda: bundle)
            )
        await server.close(0.1)

    run(main())


def test_rotation_is_per_connection_and_needs_no_restart(
    run: Run, services: Any, authority: Any, make_authority: Any
) -> None:
    after = make_authority("example.org")

    async def main() -> None:
        server = Server(services)
        source = authority.server_source()
        port = await server.listen_tcp("127.0.0.1", 0, source)
        early = Channel.tcp("127.0.0.1", port, authority.client(AGENT))
        await get(early)
        source.swap(after.identity("spiffe://example.org/spire/server"), [after.root])
        await get(early)  # what is open stays
        await reached(port, after.client(AGENT))
        with pytest.raises(Unauthenticated):
            await reached(port, authority.client(AGENT))
        old_identity = authority.identity(AGENT)
        with pytest.raises(Unavailable):
            await reached(port, TlsClient(after.client().expect, after.bundle, lambda: old_identity))
        await early.close()
        await server.close(0.1)

    run(main())


def test_a_broken_identity_leaves_the_old_one(authority: Any) -> None:
    source = authority.server_source()
    context = source.context()
    mixed = TlsIdentity(authority.identity(AGENT).chain, authority.identity(AGENT).key)
    with pytest.raises(InvalidInput, match="don't fit"):
        source.swap(mixed, [])
    with pytest.raises(InvalidInput):
        source.swap(TlsIdentity(mixed.chain, Secret(b"no key")), [])
    assert source.context() is context


def handshake(port: int, authority: Any, **options: Any) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.root)
    context.maximum_version = options.get("version", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    if options.get("alpn", True):
        context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    return context.wrap_socket(raw, session=options.get("session"))


def test_versions_sessions_and_alpn(run: Run, services: Any, authority: Any) -> None:
    async def main() -> None:
        server = Server(services)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        lax = await server.listen_tcp("127.0.0.1", 0, authority.server_source(allow_tls12=True))
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(handshake, port, authority, version=ssl.TLSVersion.TLSv1_2)
        connection = await asyncio.to_thread(handshake, lax, authority, version=ssl.TLSVersion.TLSv1_2)
        assert connection.version() == "TLSv1.2"
        connection.close()
        connection = await asyncio.to_thread(handshake, port, authority)
        assert connection.version() == "TLSv1.3" and connection.selected_alpn_protocol() == "h2"
        assert b"\0\0" in await asyncio.to_thread(connection.recv, 100)  # SETTINGS, and no ticket came before
        assert connection.session is None or not connection.session.has_ticket
        connection.close()
        plain = await asyncio.to_thread(handshake, port, authority, alpn=False)
        assert await asyncio.to_thread(received_until_end, plain) == b""
        await server.close(0.1)

    run(main())


def received_until_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except OSError:
        pass
    return received


def test_silent_handshakes_are_given_up(run: Run, services: Any, authority: Any) -> None:
    async def main() -> None:
        server = Server(services, limits=Limits(handshake_timeout_seconds=0.3))
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        await asyncio.sleep(0.1)
        assert server.connections == 50
        await reached(port, authority.client(AGENT))
        await asyncio.sleep(1)
        assert server.connections == 0
        for each in silent:
            each.close()
        await server.close(0.1)

    run(main())


def test_no_key_is_left_on_disk_or_in_open_files(authority: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        authority.server_source()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def resumed_once(port: int, authority: Any) -> tuple[bool, bytes]:
    """Connects twice with TLS 1.2 and one session: whether it was resumed, and what came then."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.root)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10)) as first:
        first.recv(100)
        session = first.session
    second = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=2), session=session)
    try:
        return bool(second.session_reused), second.recv(100)
    except OSError:
        return bool(second.session_reused), b""
    finally:
        second.close()


def test_sessions_are_not_resumed(run: Run, services: Any, authority: Any) -> None:
    """A resumed session would bring a certificate that nobody checked on this connection."""

    async def main() -> None:
        server = Server(services)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source(allow_tls12=True))
        reused, received = await asyncio.to_thread(resumed_once, port, authority)
        assert not reused and received
        await server.close(0.1)

    run(main())
