"""TLS with SPIFFE identities: contexts from SVIDs in memory, and the chain that a peer presented.

OpenSSL checks a peer's chain against the union of the authorities that it was given; which trust domain may
vouch for which ID it can't know, so that is checked again with `core.verify_x509`: by `TlsClient.verify` for
servers, by the server's admission for clients. Host names are never looked at. Keys don't touch a disk.
"""

import _ssl  # for the encoding constant of the one private call, see `peer_chain`
import base64
import contextlib
import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from control_plane.core.bundle import Bundle
from control_plane.core.errors import FailedPrecondition, InvalidInput, PeerMisbehaved, Unauthenticated
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.verify_x509 import Purpose, verify_x509
from control_plane.runtime.clock import Clock, SystemClock

ALPN = "h2"


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A chain with its key: DER certificates, leaf first, without the root; the key PKCS#8, DER or PEM."""

    chain: tuple[bytes, ...]
    key: Secret[bytes]


class TlsServerSource:
    """The context for the next connection of a server; `swap` changes it without touching open ones.

    Client certificates are asked for and optional. TLS 1.3, with `allow_tls12` also 1.2; sessions are never
    resumed, since a resumed one skips the check of the certificate. `alpn` is the protocol that is spoken.
    """

    def __init__(
        self, identity: TlsIdentity, trust: Iterable[bytes], *, allow_tls12: bool = False, alpn: str = ALPN
    ) -> None:
        self._allow_tls12 = allow_tls12
        self._alpn = alpn
        self._context = self._build(identity, trust)

    def swap(self, identity: TlsIdentity, trust: Iterable[bytes]) -> None:
        """Takes a new identity and the authorities (DER) that clients may come from.

        Raises:
            InvalidInput: chain and key don't fit or can't be read; what was there stays.
        """
        self._context = self._build(identity, trust)

    def context(self) -> ssl.SSLContext:
        """The context for one new connection."""
        return self._context

    def _build(self, identity: TlsIdentity, trust: Iterable[bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _restrict(context, allow_tls12=self._allow_tls12, alpn=self._alpn)
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        context.verify_mode = ssl.CERT_OPTIONAL
        load_identity(context, identity)
        authorities = b"".join(trust)
        if authorities:
            load_trust(context, authorities)
        return context


class UntrustedServer(Unauthenticated):
    """No authority of the bundle has signed the server's certificate: a wrong server, or an old bundle."""


@dataclass(frozen=True, slots=True)
class TlsClient:
    """How a client knows its server and shows itself.

    `bundle` and `svid` are asked for at each connection, so rotation needs no new client. Without `svid` the
    client stays anonymous, as before attestation.
    """

    expect: SpiffeId
    bundle: Callable[[], Bundle]
    svid: Callable[[], TlsIdentity | None] | None = None
    clock: Clock = field(default_factory=SystemClock)
    allow_tls12: bool = False

    def context(self) -> ssl.SSLContext:
        """A context for one connection.

        Raises:
            FailedPrecondition: the bundle has no authority, so no server could be trusted.
        """
        bundle = self.bundle()
        if not bundle.x509_authorities:
            raise FailedPrecondition(
                f"connecting to {self.expect}: the bundle of {bundle.trust_domain} has no X.509 authority",
                hint="give the trust bundle of the server",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # an SVID has no host name; `verify` checks what it has
        context.verify_mode = ssl.CERT_REQUIRED
        _restrict(context, allow_tls12=self.allow_tls12)
        load_trust(context, bundle.x509_der())
        identity = self.svid() if self.svid is not None else None
        if identity is not None:
            load_identity(context, identity)
        return context

    def verify(self, tls: ssl.SSLObject) -> None:
        """Checks who answered, before anything is sent to it.

        Raises:
            Unauthenticated: the certificate isn't valid for the expected ID.
            PeerMisbehaved: the server doesn't speak HTTP/2.
        """
        if tls.selected_alpn_protocol() != ALPN:
            raise PeerMisbehaved(f"{self.expect} negotiated no HTTP/2 (ALPN {tls.selected_alpn_protocol()})")
        found = verify_x509(peer_chain(tls), self.bundle(), self.clock.unix(), purpose=Purpose.SERVER_AUTH)
        if found != self.expect:
            raise Unauthenticated(f"the server is {found}, expected {self.expect}")


def peer_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """The certificates that the peer sent, in DER, leaf first; () if it sent none. Nothing is verified here.

    Python has a public call for this from 3.13 on. Before, the object under SSLObject has the same call;
    this is the only place that reaches for it.
    """
    if tls.getpeercert(binary_form=True) is None:
        return ()  # both calls below trip over a server whose client sent nothing: one element that is None
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return tuple(public())
    chain = tls._sslobj.get_unverified_chain()  # type: ignore[union-attr]
    return tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain or ())


def load_identity(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """Loads chain and key through a file in memory, since `ssl` takes only files.

    Raises:
        InvalidInput: they don't fit or can't be read.
        FailedPrecondition: /proc isn't mounted, so the file in memory has no name.
    """
    pem = "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in identity.chain).encode()
    descriptor = os.memfd_create("tls-identity", os.MFD_CLOEXEC)
    try:
        content = pem + _key_pem(identity.key.reveal())
        os.write(descriptor, content)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError as error:
        raise FailedPrecondition(
            "loading a TLS key: /proc/self/fd isn't there", hint="mount /proc"
        ) from error
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"loading a TLS identity: certificate and key don't fit ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, b"\0" * len(content), 0)
        os.close(descriptor)


def load_trust(context: ssl.SSLContext, authorities: bytes) -> None:
    """Adds concatenated DER certificates as anchors. Raises InvalidInput if they can't be read."""
    try:
        context.load_verify_locations(cadata=authorities)
    except ssl.SSLError as error:
        raise InvalidInput(f"loading TLS trust anchors: {error}") from error


def _restrict(context: ssl.SSLContext, *, allow_tls12: bool, alpn: str = ALPN) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if allow_tls12 else ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([alpn])


def _key_pem(key: bytes) -> bytes:
    if key.lstrip().startswith(b"-----BEGIN"):
        return key
    body = base64.encodebytes(key)
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"


__all__: Sequence[str] = [
    "ALPN",
    "TlsClient",
    "TlsIdentity",
    "TlsServerSource",
    "load_identity",
    "load_trust",
    "peer_chain",
]
