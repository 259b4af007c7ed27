"""Whom to trust before anything is known: the first trust bundle, from a file that the operator brings.

After the first contact the bundle is kept in the cache and follows the server's; the file is then read only
when that bundle doesn't verify the server any more (`trust` says what counts of it). Without a file there is
only `UnsafeBootstrap`: take whatever answers. It is a named danger, not a default.
"""

import ssl
from pathlib import Path
from typing import Final

from agent.heard import Heard
from agent.server_api import GrpcServerApi
from control_plane.core.bundle import Bundle
from control_plane.core.errors import FailedPrecondition, InvalidInput, Unauthenticated
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.core.svid import X509Svid
from control_plane.runtime.clock import Clock
from control_plane.runtime.files import read_bounded
from control_plane.runtime.tls import ALPN, TlsClient, peer_chain
from control_plane.runtime.transport import Channel

MAX_BUNDLE_FILE_BYTES: Final = 4 << 20


def read_trust_bundle(path: Path, trust_domain: TrustDomain) -> Bundle:
    """Reads PEM certificates or a SPIFFE bundle (JSON), told apart by the first character.

    Raises FailedPrecondition if the file can't be read, InvalidInput if it holds no X.509 authority.
    """
    try:
        content = read_bounded(path, MAX_BUNDLE_FILE_BYTES)
    except OSError as error:
        raise FailedPrecondition(
            f"reading the trust bundle {path}: {error.strerror}",
            hint="export it on the server with: gatehouse bundle show > bundle.pem",
        ) from error
    if content.lstrip().startswith(b"{"):
        bundle = Bundle.parse_json(trust_domain, content)
    else:
        bundle = Bundle.parse_pem(trust_domain, content)
    if not bundle.x509_authorities:
        raise InvalidInput(f"trust bundle {path}: holds no X.509 authority, so no server could be verified")
    return bundle


class UnsafeBootstrap(TlsClient):
    """TLS to a server that nobody vouches for: only the name that it gives itself is looked at.

    Whoever stands between agent and server at this moment owns the agent from then on. For trying things
    out on one machine; the operator asks for it by `--insecure-bootstrap`.
    """

    def context(self) -> ssl.SSLContext:
        """A context that accepts any certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([ALPN])
        return context

    def verify(self, tls: ssl.SSLObject) -> None:
        """Compares the ID in the certificate, which anybody could have written there."""
        chain = peer_chain(tls)
        if not chain or X509Svid.from_chain(chain).spiffe_id != self.expect:
            raise Unauthenticated(f"the server doesn't call itself {self.expect}")


async def unsafe_bundle(host: str, port: int, trust_domain: TrustDomain, clock: Clock) -> Bundle:
    """The bundle of whatever answers. Raises GatehouseError if nothing does."""
    tls = UnsafeBootstrap(server_id(trust_domain), lambda: Bundle(trust_domain), None, clock)
    api = GrpcServerApi(Channel.tcp(host, port, tls), trust_domain, Heard())
    try:
        return await api.bundle()
    finally:
        await api.close()
