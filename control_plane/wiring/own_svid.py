"""The certificate that the server shows: for spiffe://<trust domain>/spire/server, issued by ourselves.

It lives in memory, with a key of its own for each listener, and is replaced at half of its life, when its
authority is tainted or gone, or when another one signs. Open connections keep what they have.
"""

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.core.errors import GatehouseError, Unavailable
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import server_id
from control_plane.core.svid import X509Svid
from control_plane.runtime.log import get_logger
from control_plane.runtime.tls import ALPN, TlsIdentity, TlsServerSource
from control_plane.wiring.process import Parts

_REQUEST: Final = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


class OwnSvid:
    """Keeps `source` current: certificate, and the authorities that clients may come from.

    `dns_names` are put into the certificate for clients that look at names of hosts.
    """

    def __init__(
        self, parts: Parts, *, allow_tls12: bool = False, alpn: str = ALPN, dns_names: tuple[str, ...] = ()
    ) -> None:
        self._parts = parts
        self._allow_tls12 = allow_tls12
        self._alpn = alpn
        self._dns_names = dns_names
        self._log = get_logger("listener")
        self._svid: X509Svid | None = None
        self._identity: TlsIdentity | None = None
        self._source: TlsServerSource | None = None
        self._trust_changed = True
        parts.trust.listen(self._on_trust)

    @property
    def source(self) -> TlsServerSource:
        """What listeners take their contexts from; there once `refresh` gave true."""
        assert self._source is not None
        return self._source

    async def refresh(self) -> bool:
        """Renews the certificate if it is time, and takes in changed trust. False while nothing signs."""
        try:
            renewed = await self._renewed()
        except Unavailable:
            return self._svid is not None
        except GatehouseError as error:
            self._log.error("server_certificate_not_renewed", reason=str(error))
            return self._svid is not None
        if renewed is not None or self._trust_changed:
            self._trust_changed = False
            self._swap(renewed)
        return True

    async def _renewed(self) -> TlsIdentity | None:
        active = self._parts.authority.active().x509
        now, held = self._parts.clock.unix(), self._svid
        fresh = held is not None and now < (held.not_before + held.not_after) // 2
        # What a standby signed is replaced once the authority proper signs again.
        by_another = not active.mark and held is not None and held.chain[1:] != active.chain
        if held is not None and fresh and held.authority_id == active.authority_id and not by_another:
            return None
        key = ec.generate_private_key(ec.SECP256R1())
        csr = _REQUEST.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        svid = await self._parts.issuer.issue_own(
            server_id(self._parts.settings.trust_domain), csr, dns_names=self._dns_names
        )
        self._svid = svid
        self._log.info("server_certificate_issued", serial=f"{svid.serial:x}", expires_at=svid.not_after)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._identity = TlsIdentity(svid.chain, Secret(pem))
        return self._identity

    def _swap(self, renewed: TlsIdentity | None) -> None:
        identity, trust = renewed or self._identity, self._parts.trust.x509_authorities()
        assert identity is not None
        if self._source is None:
            self._source = TlsServerSource(identity, trust, allow_tls12=self._allow_tls12, alpn=self._alpn)
        else:
            self._source.swap(identity, trust)

    def _on_trust(self) -> None:
        self._trust_changed = True
