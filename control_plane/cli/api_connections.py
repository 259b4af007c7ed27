"""HTTP over a unix socket, and over TLS to a server that is known by its SPIFFE ID.

Apart from `api_access`: most commands need no HTTP, and start faster without.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.core.errors import FailedPrecondition, InvalidInput, Unauthenticated
from control_plane.runtime.files import read_bounded

if TYPE_CHECKING:
    from control_plane.cli.api_access import ApiElsewhere

MAX_BUNDLE_BYTES = 4 << 20


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server that listens at a path."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class TlsConnection(http.client.HTTPConnection):
    """A connection to a server elsewhere; nothing is sent before it is known who answers."""

    def __init__(self, server: ApiElsewhere, timeout_seconds: float) -> None:
        super().__init__(server.host, server.port, timeout=timeout_seconds)
        self._server = server

    def connect(self) -> None:
        """Raises Unauthenticated for another than the server, and what reading the files raises."""
        authorities = _read_bundle(self._server.bundle)
        context = _context(authorities, self._server)
        super().connect()
        try:
            self.sock = context.wrap_socket(self.sock)
        except ssl.SSLCertVerificationError as error:
            raise Unauthenticated(
                f"connecting to {self._server}: no authority in {self._server.bundle} vouches for it "
                f"({error.verify_message})",
                hint="is this the present bundle of the server's trust domain?",
            ) from error
        _require_server(self.sock, authorities, str(self._server))


def _read_bundle(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BUNDLE_BYTES)
    except OSError as error:
        raise FailedPrecondition(
            f"reading the trust bundle {path}: {error.strerror}",
            hint="print it on the server with: gatehouse bundle show",
        ) from error


def _context(authorities: bytes, server: ApiElsewhere) -> ssl.SSLContext:
    """TLS 1.3 with these authorities (PEM) and the caller's certificate, if there is one."""
    from control_plane.core.bundle import Bundle
    from control_plane.core.spiffe_id import TrustDomain
    from control_plane.runtime.tls import load_trust

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # an SVID has no host name; `_require_server` checks what it has
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        load_trust(context, Bundle.parse_pem(TrustDomain("unknown"), authorities).x509_der())
    except InvalidInput as error:
        raise InvalidInput(
            f"reading the trust bundle {server.bundle}: it holds no certificates in PEM"
        ) from error
    if server.svid is not None:
        _load_svid(context, server.svid, server.key or server.svid)
    return context


def _load_svid(context: ssl.SSLContext, svid: Path, key: Path) -> None:
    """Has the caller's certificate shown. A key under a password is refused; OpenSSL would ask for it."""
    try:
        context.load_cert_chain(svid, key, password=b"")
    except ssl.SSLError as error:
        raise InvalidInput(
            f"reading the certificate {svid} and the key {key}: they don't fit, or one isn't plain PEM"
        ) from error
    except OSError as error:
        raise FailedPrecondition(
            f"reading the certificate {svid} and the key {key}: {error.strerror}",
            hint="name them with --remote-svid and --remote-key",
        ) from error


def _require_server(tls: ssl.SSLSocket, authorities: bytes, what: str) -> None:
    """Returns if a Gatehouse server has answered.

    A bundle is of one trust domain, so the server that it vouches for is that trust domain's, whatever its
    name is. Raises Unauthenticated.
    """
    from control_plane.core.bundle import Bundle
    from control_plane.core.spiffe_id import server_id
    from control_plane.core.svid import X509Svid
    from control_plane.core.verify_x509 import Purpose, verify_x509
    from control_plane.runtime.clock import SystemClock
    from control_plane.runtime.tls import peer_chain

    chain = peer_chain(tls)
    try:
        claimed = X509Svid.from_chain(chain).spiffe_id
    except InvalidInput as error:
        raise Unauthenticated(f"connecting to {what}: {error.message}") from error
    bundle = Bundle.parse_pem(claimed.trust_domain, authorities)
    found = verify_x509(chain, bundle, SystemClock().unix(), purpose=Purpose.SERVER_AUTH)
    if found != server_id(found.trust_domain):
        raise Unauthenticated(
            f"connecting to {what}: {found} answers, expected {server_id(found.trust_domain)}",
            hint="is this the address of the server's management API?",
        )
