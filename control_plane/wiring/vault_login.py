"""Who we are to Vault where it knows us by an SVID: that of the server, issued for it.

Both kinds are issued and ledgered like any other, by keys of this machine, so they can be had while Vault is
away. Before the first authority is there they can't.
"""

import asyncio
import hashlib
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.core.errors import GatehouseError, Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.core.svid import JwtSvid, X509Svid
from control_plane.identity.issuance import Issuer, JwtIssue
from control_plane.runtime.clock import Clock
from control_plane.runtime.tls import TlsIdentity
from control_plane.settings import ServerSettings

ISSUE_SECONDS: Final = 5.0
MAX_COMMON_NAME: Final = 64  # RFC 5280 appendix A, ub-common-name

_REQUEST: Final = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))

T = TypeVar("T")


def common_name(trust_domain: TrustDomain) -> str:
    """How Vault names us. With spaces, so that nobody takes it for a host's name; of a long trust domain, the
    digest."""
    name = f"Gatehouse server of {trust_domain.name}"
    if len(name) <= MAX_COMMON_NAME:
        return name
    return f"Gatehouse server {hashlib.sha256(trust_domain.name.encode('ascii')).hexdigest()[:32]}"


class OwnLogin:
    """Implements `clients.vault.own.OwnSvids`. `bind` once there is an issuer, inside the event loop."""

    def __init__(self, settings: ServerSettings, clock: Clock) -> None:
        self._clock = clock
        self._trust_domain = settings.trust_domain
        self._item = JwtIssue(
            spiffe_id=server_id(settings.trust_domain), audience=(settings.written.vault.jwt_audience,)
        )
        self._bound: tuple[Issuer, asyncio.AbstractEventLoop] | None = None
        self._lock = threading.Lock()
        self._svid: X509Svid | None = None
        self._identity: TlsIdentity | None = None

    def bind(self, issuer: Issuer) -> None:
        """From now on SVIDs can be had, once an authority signs."""
        self._bound = issuer, asyncio.get_running_loop()

    @property
    def is_ready(self) -> bool:
        """See `OwnSvids`."""
        return self._bound is not None and self._bound[0].can_issue_here

    def jwt(self) -> Secret[str]:
        """See `OwnSvids`. Called from threads of the door: it blocks them, and not the loop."""
        issuer, loop = self._ready()
        return _wait(self._issue_jwt(issuer), loop)

    def identity(self) -> TlsIdentity:
        """See `OwnSvids`; from threads, too. While none can be issued, the one before serves to its end."""
        issuer, loop = self._ready()
        with self._lock:
            now, held, identity = self._clock.unix(), self._svid, self._identity
            if held is None or identity is None or now >= (held.not_before + held.not_after) // 2:
                try:
                    self._svid, self._identity = held, identity = _wait(self._issue_x509(issuer), loop)
                except GatehouseError:
                    if held is None or identity is None or now >= held.not_after:
                        raise
            return identity

    def _ready(self) -> tuple[Issuer, asyncio.AbstractEventLoop]:
        if self._bound is None:
            raise Unavailable("logging in to Vault: no SVID of our own can be had yet")
        return self._bound

    async def _issue_jwt(self, issuer: Issuer) -> Secret[str]:
        (outcome,) = await issuer.issue_jwt([self._item])
        if not isinstance(outcome, JwtSvid):
            raise outcome
        return Secret(outcome.token)

    async def _issue_x509(self, issuer: Issuer) -> tuple[X509Svid, TlsIdentity]:
        """With a fresh key, which stays in memory."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = _REQUEST.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        name = common_name(self._trust_domain)
        svid = await issuer.issue_here(server_id(self._trust_domain), csr, common_name=name)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return svid, TlsIdentity(svid.chain, Secret(pem))


def _wait(issuing: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    issued = asyncio.run_coroutine_threadsafe(issuing, loop)
    try:
        return issued.result(ISSUE_SECONDS)
    except FutureTimeout as error:
        issued.cancel()
        raise Unavailable("logging in to Vault: our own SVID wasn't issued in time") from error
