"""Rules that every storage of the registry keeps, as pure functions, so that two versions can't differ."""

from collections.abc import Callable, Collection, Container
from dataclasses import replace
from typing import Final
from uuid import UUID

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import AlreadyExists, Bug, FailedPrecondition, InvalidInput, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.ports import EntryUpdate
from control_plane.identity.quarantine import MAX_QUARANTINE_BYTES, MAX_QUARANTINED

_COUNTER_BITS: Final = 42  # of the 74 that the time leaves; the other 32 are random


def new_entry_id(created_at: int, changes: int, random_bytes: Callable[[int], bytes]) -> str:
    """An entry ID in the form of a version 7 UUID (RFC 9562 section 5.7), so that IDs grow with age.

    The time is `created_at`, Unix seconds; the counter (section 6.2, method 1, 42 bits) is the number of
    changes that the registry has seen before this entry. `created_at` alone leaves entries of one second
    without an order, and the oldest entry is a workload's default identity. Names an entry; no secret.
    """
    distinct = (changes & (1 << _COUNTER_BITS) - 1) << 32 | int.from_bytes(random_bytes(4))
    high, low = divmod(distinct, 1 << 62)
    return str(UUID(int=created_at * 1000 << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))


def checked_update(stored: Entry, update: EntryUpdate) -> Entry:
    """Runs an update's function and raises the revision. Raises what the function raises."""
    changed = update.change(stored)
    if (changed.id, changed.revision, changed.created_at) != (stored.id, stored.revision, stored.created_at):
        raise Bug(f"registration entry {stored.id}: an update changed its ID, revision or creation time")
    return replace(changed, revision=stored.revision + 1)


def check_federation(entry: Entry, known: Container[TrustDomain]) -> None:
    """Raises InvalidInput if the entry federates with a trust domain whose bundle isn't known."""
    for trust_domain in entry.federates_with:
        if trust_domain not in known:
            raise InvalidInput(
                f"registration entry for {entry.spiffe_id}: unable to find federated bundle {trust_domain}",
                hint="set the bundle of that trust domain first (gatehouse bundle set)",
            )


def id_taken_error(entry_id: str) -> AlreadyExists:
    """The refusal of an ID that an entry with another SPIFFE ID, parent or selectors has."""
    return AlreadyExists(
        f"registration entry: the ID {entry_id} belongs to another entry",
        hint="leave the ID out, and the server gives one",
    )


def federated_entries_error(trust_domain: TrustDomain, count: int) -> FailedPrecondition:
    """The refusal of DeleteMode.RESTRICT."""
    return FailedPrecondition(
        f"bundle of {trust_domain}: cannot delete, federated with {count} registration entries",
        hint="delete with mode dissociate (keeps the entries) or delete (deletes them)",
    )


def appended(own: Bundle, additions: Bundle) -> Bundle:
    """Our additions with more of them; the same value if nothing is new, else the next sequence."""
    certificates = {authority.certificate: authority for authority in own.x509_authorities}
    keys = {authority.key_id: authority for authority in own.jwt_authorities}
    for authority in additions.x509_authorities:
        certificates.setdefault(authority.certificate, authority)
    for key in additions.jwt_authorities:
        keys.setdefault(key.key_id, key)
    grown = replace(own, x509_authorities=tuple(certificates.values()), jwt_authorities=tuple(keys.values()))
    return own if grown == own else replace(grown, sequence=own.sequence + 1)


def check_quarantine(spiffe_ids: Collection[SpiffeId]) -> None:
    """Raises ResourceExhausted if more identities would be cut off than one push can say."""
    size = sum(len(str(spiffe_id)) for spiffe_id in spiffe_ids)
    if len(spiffe_ids) > MAX_QUARANTINED or size > MAX_QUARANTINE_BYTES:
        raise ResourceExhausted(
            f"quarantine of {len(spiffe_ids)} identities ({size} bytes): at most {MAX_QUARANTINED} "
            f"({MAX_QUARANTINE_BYTES} bytes) can be cut off",
            hint="release some, or refuse them by a rule of the policy",
        )
