"""When authorities are prepared, activated, renewed and forgotten: a pure function of state and time.

The arithmetic for X.509. A root of life R keeps signing issuing CAs of life I until the next root takes
over, and no issuing CA may outlive its root; so the next root is prepared when I + R/6 are left and takes
over when I + R/12 are left. An issuing CA is replaced at half of its life; I is at least six leaf lives, so
a leaf is never cut short, even when nothing is replaced for I/2 - leaf more. A JWT key of life K is followed
by one that is prepared when K/2 is left and takes over when K/6 is left.

Where Vault holds the root's key, the root's life is Vault's affair: another root is prepared when Vault
would sign by another one, and takes over as soon as the agents have confirmed it. If Vault signs the leaves
too, the issuing CA below is a standby: it has to carry an outage of 48 hours at any time and leaves of a
whole life after that, so it lives 72 hours longer than a leaf and is replaced after 20 hours, with four for
retries.

Between preparing and taking over, every live agent must have confirmed the new bundle, and several refresh
hints must have passed; the operator's limit ends the wait for agents that are gone, and the last moment at
which a leaf could be cut short ends every wait: refused handshakes by a few stale agents are better than
none being served at all.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from control_plane.authority import quarantine
from control_plane.authority.ports import Above
from control_plane.authority.state import (
    REFRESH_HINT_SECONDS,
    AuthorityState,
    Kind,
    Slot,
    Status,
    X509Slot,
)
from control_plane.core.errors import InvalidInput
from control_plane.core.lifetime import (
    DEFAULT_JWT_TTL_SECONDS,
    DEFAULT_LEAF_TTL_SECONDS,
    STANDBY_BEYOND_LEAF_SECONDS,
    STANDBY_REPLACED_AFTER_SECONDS,
    check_ca_ttl,
    standby_ttl_seconds,
)

CA_BACKDATE_SECONDS: Final = 3600  # survives a clock that is set back by ten minutes after the first start
PUBLISHED_SECONDS: Final = 3 * REFRESH_HINT_SECONDS  # SPIFFE_Federation.md: three to five refresh hints
PRUNE_GRACE_SECONDS: Final = 3600
MIN_ROOT_FACTOR: Final = 4
JWT_KEY_FACTOR: Final = 12
MAX_LEAF_OF_VAULT_SECONDS: Final = 7 * 24 * 3600  # generous: what the role allows isn't known here


class Origin(enum.StrEnum):
    """Who signs what: we everything, Vault our issuing CA, or Vault the leaves and a standby's CA."""

    EMBEDDED = "embedded"
    VAULT_INTERMEDIATE = "vault-intermediate"
    VAULT_LEAF = "vault-leaf"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long authorities live, in seconds. The constructor refuses what can't work, with the arithmetic."""

    root_ttl_seconds: int = 365 * 24 * 3600
    issuing_ttl_seconds: int = 7 * 24 * 3600
    leaf_ttl_seconds: int = DEFAULT_LEAF_TTL_SECONDS
    jwt_key_ttl_seconds: int = 7 * 24 * 3600
    jwt_ttl_seconds: int = DEFAULT_JWT_TTL_SECONDS
    confirmation_limit_seconds: int = 24 * 3600
    origin: Origin = Origin.EMBEDDED

    @property
    def renew_issuing_with_seconds_left(self) -> int:
        """An issuing CA is replaced once it has no more than this left."""
        if self.origin is Origin.VAULT_LEAF:
            return self.issuing_ttl_seconds - STANDBY_REPLACED_AFTER_SECONDS
        return self.issuing_ttl_seconds // 2

    def __post_init__(self) -> None:
        standby = standby_ttl_seconds(self.leaf_ttl_seconds)
        if self.origin is not Origin.VAULT_LEAF:
            check_ca_ttl(self.issuing_ttl_seconds, self.leaf_ttl_seconds)
        elif self.issuing_ttl_seconds < standby:
            raise InvalidInput(
                f"standby CA TTL of {self.issuing_ttl_seconds} s is too short for leaves of "
                f"{self.leaf_ttl_seconds} s: {STANDBY_BEYOND_LEAF_SECONDS} + {self.leaf_ttl_seconds} = "
                f"{standby} s are needed"
            )
        if (
            self.origin is Origin.EMBEDDED
            and self.root_ttl_seconds < MIN_ROOT_FACTOR * self.issuing_ttl_seconds
        ):
            raise InvalidInput(
                f"root TTL of {self.root_ttl_seconds} s is too short for issuing CAs of "
                f"{self.issuing_ttl_seconds} s: {MIN_ROOT_FACTOR} × {self.issuing_ttl_seconds} = "
                f"{MIN_ROOT_FACTOR * self.issuing_ttl_seconds} s are needed"
            )
        if self.jwt_key_ttl_seconds < JWT_KEY_FACTOR * self.jwt_ttl_seconds:
            raise InvalidInput(
                f"JWT key TTL of {self.jwt_key_ttl_seconds} s is too short for tokens of "
                f"{self.jwt_ttl_seconds} s: {JWT_KEY_FACTOR} × {self.jwt_ttl_seconds} = "
                f"{JWT_KEY_FACTOR * self.jwt_ttl_seconds} s are needed"
            )


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make and publish the next authority."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Let the prepared authority sign."""

    kind: Kind
    authority_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RenewIssuing:
    """Put a fresh issuing CA below a root."""

    authority_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget authorities that no valid SVID depends on."""

    kind: Kind
    authority_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Withhold:
    """Take an authority that is cut off out of the bundle."""

    kind: Kind
    authority_id: str


Decision: TypeAlias = Prepare | Activate | RenewIssuing | Prune | Withhold


def due(
    state: AuthorityState, now: int, lifetimes: Lifetimes, confirmed: Callable[[int], bool]
) -> Decision | None:
    """The next step, or None. Ask again after each step: the next one follows from the new state.

    `now` in Unix seconds; `confirmed(sequence)` says whether every live agent holds that bundle or a later
    one, and is asked only where the answer matters.
    """
    for kind in Kind:
        decision = due_of(state, kind, now, lifetimes, confirmed, None)
        if decision is not None:
            return decision
    return None


def due_of(
    state: AuthorityState,
    kind: Kind,
    now: int,
    lifetimes: Lifetimes,
    confirmed: Callable[[int], bool],
    above: Above | None,
) -> Decision | None:
    """The same for one kind. `above` is who would sign for us in Vault; None where that isn't known."""
    active = state.with_status(kind, Status.ACTIVE)
    prepared = state.with_status(kind, Status.PREPARED)
    spent = frozenset(
        slot.authority_id
        for slot in state.slots(kind)
        if slot.status is not Status.ACTIVE
        and (now > _of_no_use(slot) + PRUNE_GRACE_SECONDS or _waited_too_long(slot, now, lifetimes))
    )
    if spent:
        return Prune(kind, spent)
    if (authority_id := quarantine.due(state, kind, now)) is not None:
        return Withhold(kind, authority_id)
    reason = "" if prepared is not None else _why_prepare(state, active, now, lifetimes, above)
    if reason:
        return Prepare(kind, reason)
    for slot in (active, prepared):
        reason = _why_renew(slot, now, lifetimes, above) if isinstance(slot, X509Slot) else ""
        if slot is not None and reason:
            return RenewIssuing(slot.authority_id, reason)
    if prepared is not None:
        reason = _may_take_over(active, prepared, now, lifetimes, confirmed)
        if reason:
            return Activate(kind, prepared.authority_id, reason)
    return None


def _may_take_over(
    active: Slot | None, prepared: Slot, now: int, lifetimes: Lifetimes, confirmed: Callable[[int], bool]
) -> str:
    """Why the prepared authority should sign now; empty if it shouldn't."""
    if not prepared.not_before <= now < prepared.last_valid:
        return ""
    if active is None:
        return "nothing is active"
    left = _left(active, now)
    planned = not _is_above(prepared) and not _misplaced(active, lifetimes)
    if planned and left > _takeover_margin(active, lifetimes):
        return ""
    if left <= _last_moment(active, lifetimes):
        return f"only {left} s are left"
    waited = now - prepared.prepared_at
    if waited < PUBLISHED_SECONDS:
        return ""
    if waited >= lifetimes.confirmation_limit_seconds:
        return f"published for {waited} s, the limit is {lifetimes.confirmation_limit_seconds} s"
    return "every live agent has confirmed it" if confirmed(prepared.published_sequence) else ""


def _of_no_use(slot: Slot) -> int:
    """After this moment nothing depends on an authority that isn't active. A prepared one whose issuing CA
    has run out still matters: its root is published, and the issuing CA is replaced. What Vault signed under
    an old one didn't end with our issuing CA."""
    if slot.status is Status.PREPARED:
        return slot.not_after
    if not _is_above(slot):
        return slot.last_valid
    return min(slot.not_after, max(slot.last_valid, slot.retired_at + MAX_LEAF_OF_VAULT_SECONDS))


def _waited_too_long(slot: Slot, now: int, lifetimes: Lifetimes) -> bool:
    """Whether a prepared authority has signed nothing and never will: its issuing CA can't sign a whole leaf
    any more, and its root hasn't the life for another one. It would only keep the next from coming."""
    return (
        isinstance(slot, X509Slot)
        and slot.status is Status.PREPARED
        and not _is_above(slot)
        and slot.not_after < now + lifetimes.issuing_ttl_seconds
        and slot.last_valid < now + lifetimes.leaf_ttl_seconds
    )


def _why_prepare(
    state: AuthorityState, active: Slot | None, now: int, lifetimes: Lifetimes, above: Above | None
) -> str:
    """Why another authority should be made and published; empty if it shouldn't."""
    if active is None:
        return "there is none"
    if _misplaced(active, lifetimes):
        return f"the settings say {lifetimes.origin}"
    if not _is_above(active):
        left = _left(active, now)
        return f"{left} s are left" if left <= _prepare_margin(active, lifetimes) else ""
    known = {
        slot.authority_id
        for slot in state.x509
        if slot.status is not Status.OLD or slot.tainted or slot.cut_off is not None
    }
    if above is None or above.authority_id in known:
        return ""
    return f"Vault would sign by another root, {above.authority_id}"


def _why_renew(slot: X509Slot, now: int, lifetimes: Lifetimes, above: Above | None) -> str:
    """Why a root should get another issuing CA; empty if it shouldn't."""
    if _misplaced(slot, lifetimes):
        return ""
    ttl, left, upstream = lifetimes.issuing_ttl_seconds, slot.issuing.not_after - now, slot.issuing.upstream
    if upstream is None and slot.not_after < now + ttl:
        return ""
    if left <= lifetimes.renew_issuing_with_seconds_left:
        return f"the issuing CA has {left} s left"
    if upstream is None or above is None or above.authority_id != slot.authority_id:
        return ""
    moved = upstream.issuer_id != above.issuer_id
    return f"Vault would sign by another issuer, {above.issuer_id}" if moved else ""


def _is_above(slot: Slot) -> bool:
    """Whether the root's key is Vault's."""
    return isinstance(slot, X509Slot) and slot.issuing.upstream is not None


def _misplaced(slot: Slot, lifetimes: Lifetimes) -> bool:
    """Whether a root was made under other settings than now."""
    return isinstance(slot, X509Slot) and _is_above(slot) == (lifetimes.origin is Origin.EMBEDDED)


def _left(slot: Slot, now: int) -> int:
    return slot.not_after - now


def _prepare_margin(slot: Slot, lifetimes: Lifetimes) -> int:
    if isinstance(slot, X509Slot):
        return lifetimes.issuing_ttl_seconds + lifetimes.root_ttl_seconds // 6
    return lifetimes.jwt_key_ttl_seconds // 2


def _takeover_margin(slot: Slot, lifetimes: Lifetimes) -> int:
    if isinstance(slot, X509Slot):
        return lifetimes.issuing_ttl_seconds + lifetimes.root_ttl_seconds // 12
    return lifetimes.jwt_key_ttl_seconds // 6


def _last_moment(slot: Slot, lifetimes: Lifetimes) -> int:
    """With less than this left, the active authority could soon not sign a whole SVID any more."""
    if isinstance(slot, X509Slot):
        return lifetimes.issuing_ttl_seconds
    return 2 * lifetimes.jwt_ttl_seconds
