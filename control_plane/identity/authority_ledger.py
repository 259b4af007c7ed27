"""What a step of the authorities puts into the ledger: a pure function of the state before and after it.

Every root, issuing CA and token key is in the ledger before it is stored, so that a certificate that turns up
can be told from one that isn't ours. Writing is the journal's business.
"""

from collections.abc import Iterator

from control_plane.authority.state import AuthorityState, JwtSlot, Kind, Slot, Status, X509Slot
from control_plane.identity.ledger import AuthorityRecord


def authority_records(before: AuthorityState, after: AuthorityState, now: int) -> list[AuthorityRecord]:
    """One record for each thing that happened to an authority between two states, at `now` (Unix seconds)."""
    return [
        AuthorityRecord(now, str(kind), slot.authority_id, event, "", certificate)
        for kind in Kind
        for slot, event, certificate in _events(before.slots(kind), after.slots(kind))
    ]


def _events(before: tuple[Slot, ...], after: tuple[Slot, ...]) -> Iterator[tuple[Slot, str, bytes]]:
    known = {slot.authority_id: slot for slot in before}
    for slot in after:
        old = known.pop(slot.authority_id, None)
        if old is None:
            yield slot, "prepared", _public(slot)
        if isinstance(slot, X509Slot):
            issuing = old.issuing if isinstance(old, X509Slot) else None
            if issuing != slot.issuing:
                yield slot, "issuing-ca", slot.issuing.certificate
        was = Status.PREPARED if old is None else old.status
        if slot.status is Status.ACTIVE and was is not Status.ACTIVE:
            yield slot, "activated", _public(slot)
        if slot.tainted and not (old is not None and old.tainted):
            yield slot, "tainted", _public(slot)
        yield from _of_quarantine(slot, old)
        if slot.revoked and not (old is not None and old.revoked):
            yield slot, "revoked", _public(slot)
    for slot in known.values():
        yield slot, "forgotten", _public(slot)


def _of_quarantine(slot: Slot, old: Slot | None) -> Iterator[tuple[Slot, str, bytes]]:
    before, after = None if old is None else old.cut_off, slot.cut_off
    if after is not None and before is None:
        yield slot, "quarantined", _public(slot)
    if after is not None and after.withheld and not (before is not None and before.withheld):
        yield slot, "withheld", _public(slot)
    if after is None and before is not None:
        yield slot, "released", _public(slot)


def _public(slot: Slot) -> bytes:
    return slot.public_key if isinstance(slot, JwtSlot) else slot.root
