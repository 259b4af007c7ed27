"""Making authorities of our own: keys from the key manager, CA certificates around them. Nothing is stored.

A crash after this and before the state is stored leaves keys that nothing refers to; the life cycle sweeps
them.
"""

import asyncio
import hashlib
from collections.abc import Callable

from control_plane.authority.ports import Above, KeyManager, KeyPurpose, KeyType, Signer
from control_plane.authority.schedule import CA_BACKDATE_SECONDS, Lifetimes
from control_plane.authority.state import IssuingCa, JwtSlot, X509Slot
from control_plane.core.ca_profile import build_intermediate, build_root
from control_plane.core.certificate import Certificate, read_certificate
from control_plane.core.lifetime import Window
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.tbs import key_id_of, new_serial


class Maker:
    """Makes authorities of one trust domain; see `ports.SlotMaker`.

    `roots` keeps the keys of roots if they aren't to be with the others; it may be far away, and is asked in
    threads. Without it nothing here waits.
    """

    def __init__(
        self,
        keys: KeyManager,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        *,
        random_bytes: Callable[[int], bytes],
        x509_key_type: KeyType = KeyType.EC_P256,
        jwt_key_type: KeyType = KeyType.EC_P256,
        constrain_uris: bool = True,
        roots: KeyManager | None = None,
    ) -> None:
        self._keys = keys
        self._roots = roots
        self._trust_domain = trust_domain
        self._lifetimes = lifetimes
        self._random_bytes = random_bytes
        self._x509_key_type = x509_key_type
        self._jwt_key_type = jwt_key_type
        self._constrain_uris = constrain_uris

    async def above(self) -> Above | None:
        """Nobody."""
        return None

    async def x509(self, now: int) -> X509Slot:
        """A new root and an issuing CA below it."""
        if self._roots is None:
            return self._x509(self._keys, now)
        return await asyncio.to_thread(self._x509, self._roots, now)

    async def issuing(self, slot: X509Slot, now: int) -> IssuingCa:
        """A fresh issuing CA below an existing root."""
        root = read_certificate(slot.root)
        if self._roots is None:
            return self._issuing(root, self._keys.get(slot.root_key_id), now)
        return await asyncio.to_thread(
            lambda roots: self._issuing(root, roots.get(slot.root_key_id), now), self._roots
        )

    def _x509(self, roots: KeyManager, now: int) -> X509Slot:
        signer = roots.create(KeyPurpose.X509, self._x509_key_type)
        window = Window(now - CA_BACKDATE_SECONDS, now + self._lifetimes.root_ttl_seconds)
        root = build_root(
            self._trust_domain, signer.public_key, new_serial(self._random_bytes), window, signer.sign
        )
        return X509Slot(
            authority_id=key_id_of(signer.public_key).hex(),
            root=root,
            root_key_id=signer.key_id,
            not_before=window.not_before,
            not_after=window.not_after,
            issuing=self._issuing(read_certificate(root), signer, now),
        )

    async def jwt(self, now: int) -> JwtSlot:
        """A new key for tokens, named by its digest."""
        signer = self._keys.create(KeyPurpose.JWT, self._jwt_key_type)
        return JwtSlot(
            authority_id=hashlib.sha256(signer.public_key).hexdigest()[:32],
            public_key=signer.public_key,
            key_id=signer.key_id,
            not_before=now - CA_BACKDATE_SECONDS,
            not_after=now + self._lifetimes.jwt_key_ttl_seconds,
        )

    async def withdrawn(self, slot: X509Slot) -> None:
        """The bundle says all: nobody else has signed anything."""

    def _issuing(self, root: Certificate, root_key: Signer, now: int) -> IssuingCa:
        signer = self._keys.create(KeyPurpose.X509, self._x509_key_type)
        window = Window(
            max(root.not_before, now - CA_BACKDATE_SECONDS), now + self._lifetimes.issuing_ttl_seconds
        )
        certificate = build_intermediate(
            self._trust_domain,
            signer.public_key,
            new_serial(self._random_bytes),
            window,
            root,
            root_key.sign,
            constrain_uris=self._constrain_uris,
        )
        return IssuingCa(certificate, signer.key_id, window.not_before, window.not_after)
