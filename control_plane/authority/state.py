"""The state of the authorities, and the steps that change it: pure values and pure functions.

For X.509 and for JWT alike: at most one authority is ACTIVE (signs), at most one PREPARED (published, signs
next), any number OLD (published until nothing that it signed can be valid). Each step gives a new state or
raises FailedPrecondition. What holds after every step:

- whatever is active is in the bundle, and was put there by an earlier or the same step;
- the bundle's sequence grows with each change of the bundle's content, and only then;
- an authority goes forward only: PREPARED, ACTIVE, OLD, gone; tainted and revoked are never taken back. An
  untainted old root whose key is Vault's may be prepared anew, if Vault has gone back to it.

When steps are due is `schedule`'s question; keys and certificates are made by `lifecycle`.
"""

import enum
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.errors import FailedPrecondition, NotFound, shown
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
        x509_authorities=tuple(X509Authority(s.root, _is_bad(s)) for s in state.x509 if _is_published(s)),
        jwt_authorities=tuple(
            JwtAuthority(s.authority_id, s.public_key, s.not_after, _is_bad(s))
            for s in state.jwt
            if _is_published(s)
        ),
        sequence=state.bundle_sequence,
        refresh_hint_seconds=REFRESH_HINT_SECONDS,
    )


def prepare(state: AuthorityState, slot: Slot, now: int) -> AuthorityState:
    """Publishes a new authority. One at a time: a prepared one has to be activated or revoked first."""
    kind = _kind(slot)
    waiting = state.with_status(kind, Status.PREPARED)
    if waiting is not None:
        raise FailedPrecondition(
            f"{kind} authority {waiting.authority_id} is already prepared, so no other can be",
            hint="activate it, or revoke it",
        )
    same = next((other for other in state.slots(kind) if other.authority_id == slot.authority_id), None)
    if same is not None and not _may_return(same):
        raise FailedPrecondition(
            f"{kind} authority {slot.authority_id} exists already, {_described(same)}",
            hint="let Vault sign by another root" if isinstance(slot, X509Slot) else "",
        )
    # The order of the slots is that of the bundle: with a returning root, only the order changes there.
    sequence = state.bundle_sequence + 1
    prepared = replace(slot, status=Status.PREPARED, prepared_at=now, published_sequence=sequence)
    others = tuple(other for other in state.slots(kind) if other is not same)
    return _with_slots(state, kind, (*others, prepared), sequence)


def activate(state: AuthorityState, kind: Kind, authority_id: str, now: int) -> AuthorityState:
    """Lets a prepared authority sign; the active one becomes old. The bundle stays as it is."""
    slot = state.find(kind, authority_id)
    if slot.status is not Status.PREPARED or slot.revoked or slot.cut_off is not None:
        raise FailedPrecondition(
            f"{kind} authority {authority_id} is {_described(slot)}, only a prepared one can be activated",
            hint=f"`gatehouse authority {kind} prepare` makes one",
        )
    if not slot.not_before <= now < slot.last_valid:
        raise FailedPrecondition(
            f"{kind} authority {authority_id} is valid from {slot.not_before} to {slot.last_valid}, "
            f"the time is {now}"
        )
    return _with_slots(
        state, kind, tuple(_activated(other, authority_id, now) for other in state.slots(kind)), None
    )


def taint(state: AuthorityState, kind: Kind, authority_id: str) -> AuthorityState:
    """Marks an old authority as no longer to be relied on: agents replace what it signed."""
    slot = state.find(kind, authority_id)
    if slot.status is not Status.OLD or slot.revoked or slot.tainted:
        raise FailedPrecondition(
            f"{kind} authority {authority_id} is {_described(slot)}, only an old one can be tainted",
            hint="prepare and activate another authority first" if slot.status is Status.ACTIVE else "",
        )
    return changed(state, kind, replace(slot, tainted=True))


def revoke(state: AuthorityState, kind: Kind, authority_id: str) -> AuthorityState:
    """Takes an authority out of the bundle: a tainted old one, or a prepared one that never signed."""
    slot = state.find(kind, authority_id)
    discardable = slot.status is Status.PREPARED or (slot.status is Status.OLD and slot.tainted)
    if slot.revoked or not discardable:
        raise FailedPrecondition(
            f"{kind} authority {authority_id} is {_described(slot)}, "
            "only a tainted old one, or a prepared one, can be revoked",
            hint="taint it first, so that agents replace what it signed" if slot.status is Status.OLD else "",
        )
    return changed(state, kind, replace(slot, status=Status.OLD, revoked=True))


def replace_issuing(state: AuthorityState, authority_id: str, issuing: IssuingCa) -> AuthorityState:
    """Puts a fresh issuing CA below a root that is active or prepared. The bundle stays as it is."""
    slot = state.find(Kind.X509, authority_id)
    if not isinstance(slot, X509Slot) or slot.status is Status.OLD:
        raise FailedPrecondition(
            f"x509 authority {authority_id} is {_described(slot)}: it signs nothing more"
        )
    if issuing.not_after > slot.not_after:
        raise FailedPrecondition(
            f"x509 authority {authority_id}: the issuing CA would end at {issuing.not_after}, "
            f"after its root at {slot.not_after}"
        )
    slots = tuple(
        replace(other, issuing=issuing) if other.authority_id == authority_id else other
        for other in state.x509
    )
    return replace(state, x509=slots)


def prune(state: AuthorityState, kind: Kind, authority_ids: frozenset[str]) -> AuthorityState:
    """Forgets authorities that no longer matter. Never the active one."""
    kept: list[Slot] = []
    published = False
    for slot in state.slots(kind):
        if slot.authority_id not in authority_ids:
            kept.append(slot)
            continue
        if slot.status is Status.ACTIVE:
            raise FailedPrecondition(f"{kind} authority {slot.authority_id} is active and can't be forgotten")
        published = published or _is_published(slot)
    return _with_slots(state, kind, tuple(kept), state.bundle_sequence + 1 if published else None)


def _is_published(slot: Slot) -> bool:
    return not (slot.revoked or (slot.cut_off is not None and slot.cut_off.withheld))


def _is_bad(slot: Slot) -> bool:
    return slot.tainted or slot.cut_off is not None


def _kind(slot: Slot) -> Kind:
    return Kind.X509 if isinstance(slot, X509Slot) else Kind.JWT


def _may_return(slot: Slot) -> bool:
    return (
        isinstance(slot, X509Slot)
        and slot.issuing.upstream is not None
        and slot.status is Status.OLD
        and not (_is_bad(slot) or slot.revoked)
    )


def _activated(slot: Slot, authority_id: str, now: int) -> Slot:
    if slot.authority_id == authority_id:
        return replace(slot, status=Status.ACTIVE, activated_at=now)
    return replace(slot, status=Status.OLD, retired_at=now) if slot.status is Status.ACTIVE else slot


def changed(state: AuthorityState, kind: Kind, slot: Slot) -> AuthorityState:
    """The state with one authority changed; the bundle's sequence grows if the bundle shows it."""
    before = state.find(kind, slot.authority_id)
    slots = tuple(slot if other.authority_id == slot.authority_id else other for other in state.slots(kind))
    shown = (_is_published(before), _is_bad(before)) != (_is_published(slot), _is_bad(slot))
    hidden = not (_is_published(before) or _is_published(slot))
    return _with_slots(state, kind, slots, state.bundle_sequence + 1 if shown and not hidden else None)


def _with_slots(
    state: AuthorityState, kind: Kind, slots: tuple[Slot, ...], sequence: int | None
) -> AuthorityState:
    number = state.bundle_sequence if sequence is None else sequence
    if kind is Kind.X509:
        x509 = tuple(slot for slot in slots if isinstance(slot, X509Slot))
        return replace(state, x509=x509, bundle_sequence=number)
    jwt = tuple(slot for slot in slots if isinstance(slot, JwtSlot))
    return replace(state, jwt=jwt, bundle_sequence=number)


def _described(slot: Slot) -> str:
    marks = [str(slot.status)] + ["tainted"] * slot.tainted + ["revoked"] * slot.revoked
    marks += ["cut off"] * (slot.cut_off is not None)
    return " and ".join(marks)
