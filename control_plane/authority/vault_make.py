"""Making authorities below a root whose key is Vault's: our key, Vault's signature.

The same for both modes: where Vault signs only our intermediate, it signs the leaves; where Vault signs the
leaves, it is the standby. Its key is made by our key manager and is never one of Vault's: it has to sign
while Vault is sealed. Keys for tokens are made as without Vault.
"""

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.authority.make import Maker
from control_plane.authority.ports import Above, KeyManager, KeyPurpose, KeyType, Signer
from control_plane.authority.schedule import CA_BACKDATE_SECONDS, Lifetimes
from control_plane.authority.state import IssuingCa, JwtSlot, Upstream, X509Slot
from control_plane.authority.vault_intermediate import Asked, check_intermediate, read_issuer
from control_plane.authority.vault_ports import VaultIssuer, VaultPki
from control_plane.core.bundle import Bundle, X509Authority, subject_key_id
from control_plane.core.ca_csr import build_ca_csr
from control_plane.core.ca_profile import can_be_constrained
from control_plane.core.certificate import Certificate, read_certificate
from control_plane.core.errors import (
    FailedPrecondition,
    GatehouseError,
    PeerMisbehaved,
    Unauthenticated,
    Unavailable,
)
from control_plane.core.lifetime import Window
from control_plane.core.profile import SigningRequest, build_leaf
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.core.svid import verify_x509
from control_plane.core.tbs import new_serial
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

ABOVE_SECONDS: Final = 60.0  # how long an answer to "who would sign?" is good for
BACKDATE_MARGIN_SECONDS: Final = 60  # Vault refuses back-dating before the start of its own issuer

_log = get_logger("authority")


class VaultMaker:
    """See `ports.SlotMaker`. `local` makes the keys for tokens."""

    def __init__(
        self,
        pki: VaultPki,
        keys: KeyManager,
        local: Maker,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        clock: Clock,
        *,
        random_bytes: Callable[[int], bytes],
        constrain_uris: bool = True,
    ) -> None:
        self._pki = pki
        self._keys = keys
        self._local = local
        self._trust_domain = trust_domain
        self._lifetimes = lifetimes
        self._clock = clock
        self._random_bytes = random_bytes
        self._constrain_uris = constrain_uris
        self._failure: GatehouseError | None = None
        self._seen: tuple[float, VaultIssuer] | None = None

    async def above(self) -> Above | None:
        """Who would sign in Vault, as it was within the last minute; None while Vault doesn't say."""
        try:
            issuer = await self._issuer()
        except GatehouseError as error:
            if self._failure is None:  # once an outage, not at each look
                _log.warning("vault_issuer_unknown", reason=str(error))
                self._failure = error
            return None
        self._failure = None
        return Above(subject_key_id(issuer.chain[-1]), issuer.issuer_id)

    async def x509(self, now: int) -> X509Slot:
        """The root that is above us now, and an issuing CA below it."""
        self._seen = None
        try:
            issuer = await self._issuer()
        except Unavailable as error:
            # What the outage began with says more than that nobody asks any more.
            first = self._failure or error
            raise Unavailable(
                f"making an authority below Vault's root: {first.message}",
                hint=first.hint or "Vault is needed for this; `gatehouse check vault` tells what is wrong",
            ) from error
        root = read_issuer(issuer.chain, now)[-1]
        return X509Slot(
            authority_id=subject_key_id(root.der),
            root=root.der,
            root_key_id="",
            not_before=root.not_before,
            not_after=root.not_after,
            issuing=await self._issuing(issuer.issuer_id, issuer.chain, now),
        )

    async def issuing(self, slot: X509Slot, now: int) -> IssuingCa:
        """By the issuer that Vault would sign by if it leads to the slot's root, else by the one before."""
        issuer = await self._issuer()
        if subject_key_id(issuer.chain[-1]) == slot.authority_id:
            return await self._issuing(issuer.issuer_id, issuer.chain, now)
        before = slot.issuing.upstream
        if before is None:
            raise FailedPrecondition(f"x509 authority {slot.authority_id}: isn't one of Vault's")
        return await self._issuing(before.issuer_id, (*before.chain, slot.root), now)

    async def jwt(self, now: int) -> JwtSlot:
        """A key of our own."""
        return await self._local.jwt(now)

    async def withdrawn(self, slot: X509Slot) -> None:
        """Revokes our intermediate in Vault and has the revocation list written anew, for verifiers that
        look at it. Best effort: what counts for SVIDs is the bundle."""
        if slot.issuing.upstream is None:
            return
        serial = read_certificate(slot.issuing.certificate).serial
        try:
            await self._pki.revoke(serial)
            await self._pki.rotate_crl()
        except GatehouseError as error:
            _log.error("not_revoked_in_vault", serial=f"{serial:x}", reason=str(error))
        else:
            _log.info("revoked_in_vault", serial=f"{serial:x}")

    async def _issuer(self) -> VaultIssuer:
        now = self._clock.monotonic()
        if self._seen is None or now - self._seen[0] >= ABOVE_SECONDS:
            issuer = await self._pki.issuer()
            read_issuer(issuer.chain, self._clock.unix())
            self._seen = now, issuer
        return self._seen[1]

    async def _issuing(self, issuer_id: str, chain: tuple[bytes, ...], now: int) -> IssuingCa:
        path = read_issuer(chain, now)
        signer = self._keys.create(KeyPurpose.X509, KeyType.EC_P256)
        made: IssuingCa | None = None
        try:
            certificate = await self._signed(signer, issuer_id, path[0], now)
            upstream = Upstream(issuer_id, tuple(ca.der for ca in path[:-1]))
            candidate = IssuingCa(
                certificate.der, signer.key_id, certificate.not_before, certificate.not_after, upstream
            )
            self._rehearse(certificate, signer, candidate.chain, path[-1], now)
            made = candidate
            return candidate
        finally:
            # Vault may be away for days, and this is tried every few seconds.
            if made is None:
                self._keys.delete(signer.key_id)

    async def _signed(self, signer: Signer, issuer_id: str, issuer: Certificate, now: int) -> Certificate:
        name = f"Gatehouse Issuing CA {new_serial(self._random_bytes):x}"
        constrained = self._constrain_uris and can_be_constrained(self._trust_domain)
        csr = build_ca_csr(
            self._trust_domain, name, signer.public_key, signer.sign, constrain_uris=constrained
        )
        ttl = self._lifetimes.issuing_ttl_seconds
        spare = now - issuer.not_before - BACKDATE_MARGIN_SECONDS
        answer = await self._pki.sign_intermediate(
            csr,
            common_name=name,
            ttl_seconds=ttl,
            uri_host=self._trust_domain.name if constrained else "",
            backdate_seconds=max(0, min(CA_BACKDATE_SECONDS, spare)),
            issuer_id=issuer_id,
        )
        asked = Asked(self._trust_domain, signer.public_key, now, ttl, constrained)
        return check_intermediate(answer, issuer, asked)

    def _rehearse(
        self, ca: Certificate, signer: Signer, chain: tuple[bytes, ...], root: Certificate, now: int
    ) -> None:
        """Signs a leaf that never leaves, for a key that nobody keeps, and verifies it as a peer would: path
        lengths, constraints and key usages of everything above are held against it too."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        request = SigningRequest(
            server_id(self._trust_domain),
            spki,
            new_serial(self._random_bytes),
            Window(ca.not_before, now + 60),
        )
        bundle = Bundle(self._trust_domain, (X509Authority(root.der),))
        try:
            verify_x509([build_leaf(request, ca, signer.sign), *chain], bundle, now)
        except Unauthenticated as error:
            raise PeerMisbehaved(
                f"intermediate {ca.title} signed by Vault: what it signs would be refused: {error.message}"
            ) from error
