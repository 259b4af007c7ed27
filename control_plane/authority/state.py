"""The state of the authorities, and the bundle that they make: pure values.

For X.509 and for JWT alike: at most one authority is ACTIVE (signs), at most one PREPARED (published, signs
next), any number OLD (published until nothing that it signed can be valid). How one state follows from
another is in `steps`.
"""

import enum
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.errors import NotFound, shown
from control_plane.core.spiffe_id import TrustDomain

REFRESH_HINT_SECONDS: Final = 300


class Status(enum.StrEnum):
    """Where an authority is on its way."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"


class Kind(enum.StrEnum):
    """What an authority signs."""

    X509 = "x509"
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Who signs our issuing CA where the root's key isn't ours: an issuer in Vault.

    `issuer_id` is Vault's name of it, empty where it has none. `chain` leads from its certificate to the one
    below the root (DER), and is empty where the root itself signs for us.
    """

    issuer_id: str
    chain: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class IssuingCa:
    """The intermediate that signs leaves: certificate (DER), the name of its key, its validity.

    `upstream` is None where our own root signed it.
    """

    certificate: bytes = field(repr=False)
    key_id: str
    not_before: int
    not_after: int
    upstream: Upstream | None = None

    @property
    def chain(self) -> tuple[bytes, ...]:
        """What is served after a leaf that it signed: DER, without the root."""
        return (self.certificate, *(self.upstream.chain if self.upstream is not None else ()))


@dataclass(frozen=True, slots=True)
class CutOff:
    """Why and since when (Unix seconds) an authority is in quarantine, and who said so. `withheld`: it isn't
    in the bundle any more."""

    at: int
    by: str
    reason: str
    withheld: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Slot:
    """One X.509 authority: a root, named by its key identifier in hex, and the current issuing CA below it.

    `root_key_id` is empty where the root's key is Vault's. `published_sequence` is the bundle's sequence that
    first held the root. `retired_at` is when it stopped being the active one. Times are in Unix seconds.
    """

    authority_id: str
    root: bytes = field(repr=False)
    root_key_id: str
    not_before: int
    not_after: int
    issuing: IssuingCa
    status: Status = Status.PREPARED
    tainted: bool = False
    revoked: bool = False
    prepared_at: int = 0
    activated_at: int = 0
    published_sequence: int = 0
    retired_at: int = 0
    cut_off: CutOff | None = None

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys that this authority needs."""
        return tuple(key_id for key_id in (self.root_key_id, self.issuing.key_id) if key_id)

    @property
    def last_valid(self) -> int:
        """Nothing that it signed is valid after this moment: leaves end before their issuer."""
        return min(self.not_after, self.issuing.not_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSlot:
    """One JWT authority: a public key (SPKI, DER), named by its `kid`."""

    authority_id: str
    public_key: bytes = field(repr=False)
    key_id: str
    not_before: int
    not_after: int
    status: Status = Status.PREPARED
    tainted: bool = False
    revoked: bool = False
    prepared_at: int = 0
    activated_at: int = 0
    published_sequence: int = 0
    retired_at: int = 0
    cut_off: CutOff | None = None

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The key that this authority needs."""
        return (self.key_id,)

    @property
    def last_valid(self) -> int:
        """Nothing that it signed is valid after this moment."""
        return self.not_after


Slot: TypeAlias = X509Slot | JwtSlot


@dataclass(frozen=True, slots=True)
class AuthorityState:
    """All authorities of one trust domain, oldest first, and the sequence of the bundle that they make."""

    trust_domain: TrustDomain
    x509: tuple[X509Slot, ...] = ()
    jwt: tuple[JwtSlot, ...] = ()
    bundle_sequence: int = 0

    def slots(self, kind: Kind) -> tuple[Slot, ...]:
        """The authorities of one kind."""
        return self.x509 if kind is Kind.X509 else self.jwt

    def find(self, kind: Kind, authority_id: str) -> Slot:
        """The authority of this name. Raises NotFound."""
        for slot in self.slots(kind):
            if slot.authority_id == authority_id:
                return slot
        raise NotFound(
            f"{kind} authority {shown(authority_id)}: there is none of this ID",
            hint=f"`gatehouse authority {kind} show` lists them",
        )

    def with_status(self, kind: Kind, status: Status) -> Slot | None:
        """The active or the prepared authority, if there is one that is neither revoked nor cut off."""
        return next(
            (s for s in self.slots(kind) if s.status is status and not s.revoked and s.cut_off is None), None
        )

    @property
    def active_x509(self) -> X509Slot | None:
        """What signs X.509-SVIDs."""
        return next((slot for slot in self.x509 if slot.status is Status.ACTIVE), None)

    @property
    def active_jwt(self) -> JwtSlot | None:
        """What signs JWT-SVIDs."""
        return next((slot for slot in self.jwt if slot.status is Status.ACTIVE), None)

    @property
    def key_ids(self) -> frozenset[str]:
        """All keys that the state refers to."""
        slots: list[Slot] = [*self.x509, *self.jwt]
        return frozenset(key_id for slot in slots for key_id in slot.key_ids)


def bundle_of(state: AuthorityState) -> Bundle:
    """The trust bundle: every authority that is neither revoked nor withheld, prepared ones included."""
    return Bundle(
        trust_domain=state.trust_domain,
        x509_authorities=tuple(X509Authority(s.root, is_bad(s)) for s in state.x509 if is_published(s)),
        jwt_authorities=tuple(
            JwtAuthority(s.authority_id, s.public_key, s.not_after, is_bad(s))
            for s in state.jwt
            if is_published(s)
        ),
        sequence=state.bundle_sequence,
        refresh_hint_seconds=REFRESH_HINT_SECONDS,
    )


def is_published(slot: Slot) -> bool:
    """Whether the bundle holds an authority."""
    return not (slot.revoked or (slot.cut_off is not None and slot.cut_off.withheld))


def is_bad(slot: Slot) -> bool:
    """Whether what an authority signed is to be replaced, though it may still be in the bundle."""
    return slot.tainted or slot.cut_off is not None
