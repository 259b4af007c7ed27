"""The steps that change the state of the authorities: pure functions from one state to the next.

Each gives a new state or raises FailedPrecondition. What holds after every step:

- whatever is active is in the bundle, and was put there by an earlier or the same step;
- the bundle's sequence grows with each change of the bundle's content, and only then;
- an authority goes forward only: PREPARED, ACTIVE, OLD, gone; tainted and revoked are never taken back. An
  untainted old root whose key is Vault's may be prepared anew, if Vault has gone back to it.

When steps are due is `schedule`'s question; keys and certificates are made by `lifecycle`.
"""

from dataclasses import replace

from control_plane.authority.state import (
    AuthorityState,
    IssuingCa,
    JwtSlot,
    Kind,
    Slot,
    Status,
    X509Slot,
    is_bad,
    is_published,
)
from control_plane.core.errors import FailedPrecondition


def prepare(state: AuthorityState, slot: Slot, now: int) -> AuthorityState:
    """Publishes a new authority. One at a time: a prepared one has to be activated or revoked first."""
    kind = _kind(slot)
    check_free(state, kind)
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


def check_free(state: AuthorityState, kind: Kind) -> None:
    """Returns if none is prepared, so that one can be."""
    waiting = state.with_status(kind, Status.PREPARED)
    if waiting is not None:
        raise FailedPrecondition(
            f"{kind} authority {waiting.authority_id} is already prepared, so no other can be",
            hint="activate it, or revoke it",
        )


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
        published = published or is_published(slot)
    return _with_slots(state, kind, tuple(kept), state.bundle_sequence + 1 if published else None)


def changed(state: AuthorityState, kind: Kind, slot: Slot) -> AuthorityState:
    """The state with one authority changed; the bundle's sequence grows if the bundle shows it."""
    before = state.find(kind, slot.authority_id)
    slots = tuple(slot if other.authority_id == slot.authority_id else other for other in state.slots(kind))
    shown = (is_published(before), is_bad(before)) != (is_published(slot), is_bad(slot))
    hidden = not (is_published(before) or is_published(slot))
    return _with_slots(state, kind, slots, state.bundle_sequence + 1 if shown and not hidden else None)


def _kind(slot: Slot) -> Kind:
    return Kind.X509 if isinstance(slot, X509Slot) else Kind.JWT


def _may_return(slot: Slot) -> bool:
    return (
        isinstance(slot, X509Slot)
        and slot.issuing.upstream is not None
        and slot.status is Status.OLD
        and not (is_bad(slot) or slot.revoked)
    )


def _activated(slot: Slot, authority_id: str, now: int) -> Slot:
    if slot.authority_id == authority_id:
        return replace(slot, status=Status.ACTIVE, activated_at=now)
    return replace(slot, status=Status.OLD, retired_at=now) if slot.status is Status.ACTIVE else slot


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
