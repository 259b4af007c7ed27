"""What the authority package needs from keys and storage, and what it offers to issuance.

Keys that sign certificates and tokens are of this machine: calls of their manager and signers may block for
the length of a file write or of one signature, never for a network. What signs certificates elsewhere (Vault)
is another `X509Signer`, whose `sign` waits without holding the event loop. Keys for other purposes may be far
away (Vault's transit): whoever uses those does it in threads.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from control_plane.authority.state import AuthorityState, IssuingCa, JwtSlot, X509Slot
from control_plane.core.certificate import Certificate
from control_plane.core.errors import GatehouseError
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

    @property
    def is_for_strangers(self) -> bool:
        """Whether certificates or tokens are signed, which anybody verifies who knows their standards."""
        return self in (KeyPurpose.X509, KeyPurpose.JWT)


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
        """Signs: ECDSA (DER) with the hash that fits the curve, Ed25519, or RSA with SHA-256, by PKCS #1 v1.5
        for certificates and tokens, by PSS (`core.signature.RSA_PSS`) for all else. Safe to call from several
        threads."""


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


@dataclass(frozen=True, slots=True)
class Order:
    """One leaf that is about to be signed; a signer makes it (`X509Signer.order`) and nobody changes it.

    `request.serial` is 0 where the signer leaves the number to somebody else; the window is then what is
    asked for, not what will come. `csr` is DER. `intent` are the bytes whose SHA-256 the ledger holds before
    anything is signed.
    """

    request: SigningRequest
    csr: bytes = field(repr=False)
    intent: bytes = field(repr=False)


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

    @property
    def mark(self) -> str:
        """What sets its signatures apart in the ledger; empty where nothing does."""

    @property
    def ends_with_issuer(self) -> bool:
        """Whether a leaf that would outlive the issuer ends with it. Elsewhere such a leaf is refused."""

    @property
    def not_after_jitter(self) -> float:
        """The share of a leaf's life by which its end may be drawn early."""

    def order(self, request: SigningRequest, csr: bytes) -> Order:
        """What this signer would sign for a request. Raises InvalidInput."""

    async def sign(self, orders: Sequence[Order]) -> list[bytes | GatehouseError]:
        """Signs: for each order, in order, a DER certificate that nobody has looked at yet, or why there is
        none. Raises what concerns all of them. The event loop isn't held for more than about a millisecond.
        """

    def check(self, certificate: bytes, order: Order) -> SigningRequest:
        """Holds a certificate of `sign` against its order; gives the request as it was really certified.

        Raises Bug or PeerMisbehaved, by whose fault it is, with the first difference."""


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


class WhoSigns(enum.StrEnum):
    """Whose key signs leaves."""

    NOBODY = "nobody"
    EMBEDDED = "embedded"  # ours, below a root of ours
    INTERMEDIATE = "intermediate"  # ours, below a root of Vault's, as the settings want it
    VAULT = "vault"
    STANDBY = "standby"  # ours, below a root of Vault's, for as long as Vault is away


@dataclass(frozen=True, slots=True)
class SigningStatus:
    """Who signs in this process, since when, and how long it could without anybody's help. Unix seconds.

    `issuing_ends` is the end of the issuing CA whose key is here, 0 where there is none; `last_error` what
    Vault's last failure said, at `last_error_at`, 0 if there was none.
    """

    signer: WhoSigns
    since: int = 0
    authority_id: str = ""
    issuing_ends: int = 0
    last_error: str = ""
    last_error_at: int = 0


class Authority(Protocol):
    """Who signs. Nothing is checked against entries or ledgers here: that is issuance's part."""

    def active(self) -> Active:
        """What signs now. Raises Unavailable while there is nothing."""

    def here(self) -> X509Signer:
        """What signs with a key of this machine, whoever signs for others now: for certificates that are
        needed on the way to that one. Raises Unavailable while there is nothing."""

    @property
    def status(self) -> SigningStatus:
        """Who signs, for people and metrics."""

    @property
    def stand_ins(self) -> tuple[bytes, ...]:
        """Key identifiers of CAs whose leaves should be replaced, since the one that they stood in for signs
        again; none while it doesn't, and where nobody stands in for anybody."""

    def reload(self, state: AuthorityState) -> None:
        """Signs by what is active in `state` from now on; if that can't be, raises and signs as before."""

    async def sign_x509(self, requests: Sequence[SigningRequest]) -> list[X509Svid]:
        """Signs by what is active, without ledger: for self-tests and tools."""

    async def sign_jwt(self, requests: Sequence[JwtRequest]) -> list[JwtSvid]:
        """The same for tokens."""


@dataclass(frozen=True, slots=True)
class Above:
    """Who would sign an issuing CA now, where that isn't us: the root that its chain leads to (an authority
    ID), and Vault's name of the issuer."""

    authority_id: str
    issuer_id: str


class SlotMaker(Protocol):
    """Makes authorities: keys, and certificates around them. Stores nothing else.

    What it makes for X.509 may take a network: raises Unavailable, PermissionDenied, PeerMisbehaved, and
    FailedPrecondition with the arithmetic where what came isn't what is needed. No key is left behind then.
    """

    async def above(self) -> Above | None:
        """Who would sign now; None where we sign for ourselves, and while it can't be known."""

    async def x509(self, now: int) -> X509Slot:
        """A new root, or the one that is above us now, and an issuing CA below it."""

    async def issuing(self, slot: X509Slot, now: int) -> IssuingCa:
        """A fresh issuing CA below an existing root."""

    async def jwt(self, now: int) -> JwtSlot:
        """A new key for tokens, named by its digest."""

    async def withdrawn(self, slot: X509Slot) -> None:
        """An authority was revoked: whoever else has signed for it may say so to others as well."""


class AuthorityStore(Protocol):
    """Keeps the state of the authorities. A fresh store holds an empty state at version 0."""

    async def load(self) -> tuple[int, AuthorityState]:
        """The latest state and its version."""

    async def save(self, expected_version: int, state: AuthorityState) -> int:
        """Replaces the state if its version is still `expected_version`; durable on return. Gives the new
        version, which is greater. Raises FailedPrecondition if somebody else was faster."""
