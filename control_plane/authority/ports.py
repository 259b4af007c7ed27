"""What the authority package needs from keys and storage, and what it offers to issuance.

Key managers and signers work on keys of this machine: their calls may block for the length of a file write
or of one signature, never for a network. A remote signer (Vault) will be another `Authority`.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from control_plane.authority.state import AuthorityState
from control_plane.core.certificate import Certificate
from control_plane.core.jwt_svid import JwtRequest
from control_plane.core.profile import SigningRequest
from control_plane.core.svid import JwtSvid, X509Svid


class KeyPurpose(enum.StrEnum):
    """What a key may be used for; it is part of the key's name and never changes."""

    X509 = "x509"
    JWT = "jwt"
    POLICY = "policy"
    LOG = "log"
    BUNDLE = "bundle"
    CACHE = "cache"


class KeyType(enum.StrEnum):
    """The kinds of keys that can be made."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"


class Signer(Protocol):
    """One private key that can be used and not read."""

    @property
    def key_id(self) -> str:
        """The name by which the key manager knows the key."""

    @property
    def purpose(self) -> KeyPurpose:
        """What the key is for."""

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    def sign(self, data: bytes) -> bytes:
        """Signs as X.509 does: ECDSA (DER) with the hash that fits the curve, RSA PKCS #1 v1.5 with
        SHA-256, or Ed25519. Safe to call from several threads."""


class KeyManager(Protocol):
    """Makes, keeps and finds private keys. Safe for several processes over the same storage."""

    def create(self, purpose: KeyPurpose, key_type: KeyType = KeyType.EC_P256) -> Signer:
        """Makes a key under a new, random name; durable on return. Raises ResourceExhausted or Unavailable
        if it can't be stored; nothing is left behind then."""

    def get(self, key_id: str) -> Signer:
        """Finds a key. Raises NotFound, Corrupt, or FailedPrecondition (unsafe file mode, passphrase)."""

    def key_ids(self, purpose: KeyPurpose | None = None) -> list[str]:
        """The names of all keys, or of those for one purpose, sorted."""

    def delete(self, key_id: str) -> None:
        """Forgets a key for good. Idempotent: a key that isn't there is no error."""

    def sweep(self, now: int) -> None:
        """Clears away what crashes left half made, once it is too old to be in the making (Unix seconds)."""


class X509Signer(Protocol):
    """What signs X.509-SVIDs at one moment: an immutable snapshot, valid to use after a newer one exists."""

    @property
    def authority_id(self) -> str:
        """The root's key identifier in hex, as in the bundle."""

    @property
    def issuer(self) -> Certificate:
        """The CA certificate that leaves are signed by."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        """What is served after the leaf: DER, without the root."""

    def tbs(self, request: SigningRequest) -> bytes:
        """The exact bytes that `sign` would sign for a request. Raises InvalidInput."""

    async def sign(self, tbs: Sequence[bytes]) -> list[bytes]:
        """Signs and gives DER certificates, in order. All or nothing; Unavailable if it can't be done now.
        The event loop isn't held for more than about a millisecond."""


class JwtSigner(Protocol):
    """What signs JWT-SVIDs at one moment."""

    @property
    def authority_id(self) -> str:
        """The key ID (`kid`)."""

    @property
    def not_after(self) -> int:
        """No token may end later (Unix seconds)."""

    async def sign(self, requests: Sequence[JwtRequest]) -> list[JwtSvid]:
        """Signs tokens, in order. All or nothing."""


@dataclass(frozen=True, slots=True)
class Active:
    """What signs now."""

    x509: X509Signer
    jwt: JwtSigner


class Authority(Protocol):
    """Who signs. Nothing is checked against entries or ledgers here: that is issuance's part."""

    def active(self) -> Active:
        """What signs now. Raises Unavailable while there is nothing."""

    async def sign_x509(self, requests: Sequence[SigningRequest]) -> list[X509Svid]:
        """Signs by what is active, without ledger: for self-tests and tools."""

    async def sign_jwt(self, requests: Sequence[JwtRequest]) -> list[JwtSvid]:
        """The same for tokens."""


class AuthorityStore(Protocol):
    """Keeps the state of the authorities. A fresh store holds an empty state at version 0."""

    async def load(self) -> tuple[int, AuthorityState]:
        """The latest state and its version."""

    async def save(self, expected_version: int, state: AuthorityState) -> int:
        """Replaces the state if its version is still `expected_version`; durable on return. Gives the new
        version, which is greater. Raises FailedPrecondition if somebody else was faster."""
