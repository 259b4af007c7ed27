"""Rules that every storage of the registry keeps, as pure functions, so that two versions can't differ."""

from collections.abc import Callable, Container
from dataclasses import replace

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import Bug, FailedPrecondition, InvalidInput
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.ports import EntryUpdate


def new_entry_id(random_bytes: Callable[[int], bytes]) -> str:
    """A random entry ID in the form of a version 4 UUID (RFC 9562 section 5.4), as SPIRE's tools expect."""
    raw = bytearray(random_bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


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
