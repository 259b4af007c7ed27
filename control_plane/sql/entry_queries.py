"""Registration entries in SQL: functions of a connection, run inside somebody's transaction."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from sqlalchemy import Connection, delete, func, insert, select, update

from control_plane.core.entry import Entry
from control_plane.core.errors import AlreadyExists, GatehouseError, NotFound
from control_plane.core.spiffe_id import TrustDomain
from control_plane.identity.ports import EntryOutcome, EntryUpdate
from control_plane.identity.storage_rules import (
    check_federation,
    checked_update,
    id_taken_error,
    new_entry_id,
)
from control_plane.sql import change_queries
from control_plane.sql.rows import entry_row, key_digest, read_entry
from control_plane.sql.tables import bundles, changes, entries


def create(
    connection: Connection, batch: Sequence[Entry], now: int, random_bytes: Callable[[int], bytes]
) -> list[EntryOutcome]:
    """See ports.Registry.create_entries."""
    known = _federated(connection, batch)
    first = change_queries.last_sequence(connection)
    outcomes = []
    for number, entry in enumerate(batch, first):
        try:
            check_federation(entry, known)
            entry_id = entry.id or new_entry_id(now, number, random_bytes)
            outcomes.append(EntryOutcome(_insert(connection, entry, entry_id, now)))
        except _Similar as similar:
            outcomes.append(EntryOutcome(similar.entry, AlreadyExists(str(similar))))
        except GatehouseError as error:
            outcomes.append(EntryOutcome(None, error))
    _record(connection, outcomes)
    return outcomes


def change(connection: Connection, updates: Sequence[EntryUpdate]) -> list[EntryOutcome]:
    """See ports.Registry.update_entries."""
    outcomes = []
    for one in updates:
        try:
            outcomes.append(EntryOutcome(_change(connection, one)))
        except _Similar as similar:
            outcomes.append(EntryOutcome(similar.entry, AlreadyExists(str(similar))))
        except GatehouseError as error:
            outcomes.append(EntryOutcome(None, error))
    _record(connection, outcomes)
    return outcomes


def remove(connection: Connection, ids: Sequence[str]) -> list[EntryOutcome]:
    """See ports.Registry.delete_entries."""
    outcomes = []
    for entry_id in ids:
        row = connection.execute(delete(entries).where(entries.c.id == entry_id).returning(entries))
        found = row.mappings().one_or_none()
        if found is None:
            outcomes.append(EntryOutcome(None, NotFound(f"registration entry {entry_id} doesn't exist")))
        else:
            outcomes.append(EntryOutcome(read_entry(found)))
    _record(connection, outcomes)
    return outcomes


def prune(connection: Connection, expired_before: int, limit: int) -> list[Entry]:
    """See ports.Registry.prune_entries."""
    expired = (entries.c.expires_at > 0) & (entries.c.expires_at < expired_before)
    ids = connection.execute(select(entries.c.id).where(expired).limit(limit)).scalars().all()
    return [outcome.entry for outcome in remove(connection, ids) if outcome.entry is not None]


def federating_with(connection: Connection, trust_domain: TrustDomain) -> list[Entry]:
    """All entries that name this trust domain."""
    # The list is JSON text: a quoted name is found exactly, names hold no character that LIKE would read.
    wanted = entries.c.federates_with.contains(f'"{trust_domain.name}"', autoescape=True)
    return [read_entry(row) for row in connection.execute(select(entries).where(wanted)).mappings()]


class _Similar(Exception):
    """The key belongs to another entry."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(f"registration entry {entry.id} exists already")
        self.entry = entry


def _insert(connection: Connection, entry: Entry, entry_id: str, now: int) -> Entry:
    same = entries.c.key_digest == key_digest(entry)
    similar = connection.execute(select(entries).where(same)).mappings().one_or_none()
    if similar is not None:
        raise _Similar(read_entry(similar))
    revision = 0
    if entry.id:
        taken = select(entries.c.id).where(entries.c.id == entry.id)
        if connection.execute(taken).one_or_none() is not None:
            raise id_taken_error(entry.id)
        # An ID that is used again within the same second must still look changed to an agent.
        past = (changes.c.kind == "entry") & (changes.c.key == entry.id)
        revision = connection.execute(select(func.count()).select_from(changes).where(past)).scalar_one()
    created = replace(entry, id=entry_id, revision=revision, created_at=now)
    connection.execute(insert(entries), entry_row(created))
    return created


def _change(connection: Connection, one: EntryUpdate) -> Entry:
    row = connection.execute(select(entries).where(entries.c.id == one.id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"registration entry {one.id} doesn't exist")
    changed = checked_update(read_entry(row), one)
    check_federation(changed, _federated(connection, [changed]))
    same = (entries.c.key_digest == key_digest(changed)) & (entries.c.id != one.id)
    other = connection.execute(select(entries).where(same)).mappings().one_or_none()
    if other is not None:
        raise _Similar(read_entry(other))
    connection.execute(update(entries).where(entries.c.id == one.id).values(entry_row(changed)))
    return changed


def _federated(connection: Connection, batch: Sequence[Entry]) -> Collection[TrustDomain]:
    names = {name.name for entry in batch for name in entry.federates_with}
    if not names:
        return ()
    found = connection.execute(select(bundles.c.trust_domain).where(bundles.c.trust_domain.in_(names)))
    return {TrustDomain(name) for name in found.scalars()}


def _record(connection: Connection, outcomes: Sequence[EntryOutcome]) -> None:
    done = [outcome.entry.id for outcome in outcomes if outcome.error is None and outcome.entry is not None]
    change_queries.record(connection, "entry", done)
