"""Real TLS handshakes in memory: two workloads, each with an SVID and the bundle that its node holds."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from openssl_clock import set_clock

from control_plane.core.bundle import Bundle
from control_plane.core.verify_x509 import Purpose, verify_x509
from control_plane.runtime.tls import TlsIdentity, TlsServerSource, load_identity, load_trust, peer_chain


@dataclass
class End:
    """Who shows what, and trusts whom."""

    identity: TlsIdentity
    bundle: Bundle


def shake_hands(caller: End, callee: End, now: int) -> None:
    """Mutual TLS by OpenSSL, whose clock says `now`; then both chains by our rules. Raises what refuses."""
    source = TlsServerSource(callee.identity, [one.certificate for one in callee.bundle.x509_authorities])
    accepting = source.context()
    accepting.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.check_hostname = False  # who answers is known by a SPIFFE ID, not by the name of a host
    calling.set_alpn_protocols(["h2"])
    load_identity(calling, caller.identity)
    load_trust(calling, b"".join(one.certificate for one in caller.bundle.x509_authorities))
    for context in (accepting, calling):
        set_clock(context, now)
    ends = _handshake(calling, accepting)
    for end, bundle, purpose in zip(
        ends, (caller.bundle, callee.bundle), (Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH), strict=True
    ):
        verify_x509(peer_chain(end), bundle, now, purpose=purpose)


def _handshake(calling: ssl.SSLContext, accepting: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = calling.wrap_bio(down, up)
    server = accepting.wrap_bio(up, down, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return client, server
    raise AssertionError("the handshake doesn't end")
