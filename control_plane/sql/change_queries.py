"""The change log: numbering inside write transactions, reading what followed a number.

The number comes from one row that the write transaction increments: no two transactions hold it at once, a
rolled-back one leaves no gap, and the order of numbers is the order of commits.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import Corrupt
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.ports import ChangeSet
from control_plane.identity.quarantine import Quarantine
from control_plane.sql.rows import read_agent, read_bundle, read_entry, read_quarantined
from control_plane.sql.tables import (
    agents,
    bundles,
    change_head,
    changes,
    entries,
    quarantine,
    quarantine_head,
)

_KEYS_A_QUERY = 500  # SQLite allows 32,766 parameters; shorter statements are compiled faster


def record(connection: Connection, kind: str, keys: Sequence[str]) -> None:
    """Numbers one change for each key, in the caller's write transaction."""
    if not keys:
        return
    head = connection.execute(
        update(change_head)
        .where(change_head.c.id == 1)
        .values(sequence=change_head.c.sequence + len(keys))
        .returning(change_head.c.sequence)
    ).scalar_one()
    first = head - len(keys) + 1
    connection.execute(
        insert(changes),
        [{"sequence": first + offset, "kind": kind, "key": key} for offset, key in enumerate(keys)],
    )


def name_log(connection: Connection, name: str) -> None:
    """Gives the change log another name; the numbers go on."""
    connection.execute(update(change_head).values(log=name))


def last_change(connection: Connection) -> tuple[str, int]:
    """The name of the log, and the number of the last change."""
    row = connection.execute(select(change_head.c.log, change_head.c.sequence)).one()
    return row.log, row.sequence


def last_sequence(connection: Connection) -> int:
    """The number of the last change."""
    return last_change(connection)[1]


def changes_after(connection: Connection, sequence: int, own: TrustDomain) -> ChangeSet:
    """What changed after `sequence`, or everything if that is no longer known."""
    log, head = last_change(connection)
    if sequence > head:
        raise Corrupt(
            f"reading the change log: change {sequence} was seen before, now the last is {head}",
            hint="an older database was put in place: restart the server",
        )
    if sequence and sequence == head:
        return ChangeSet(head, log=log)
    rows = connection.execute(
        select(changes.c.sequence, changes.c.kind, changes.c.key)
        .where(changes.c.sequence > sequence)
        .order_by(changes.c.sequence)
    ).all()
    if not sequence or len(rows) != head - sequence:
        return _everything(connection, log, head, own)
    keys: dict[str, dict[str, None]] = {}
    for row in rows:
        keys.setdefault(row.kind, {})[row.key] = None
    return ChangeSet(
        sequence=head,
        entries=_entries(connection, list(keys.get("entry", ()))),
        agents=_agents(connection, list(keys.get("agent", ()))),
        bundles=_bundles(connection, list(keys.get("bundle", ()))),
        authorities="authority" in keys,
        policies="policy" in keys,
        quarantine=quarantine_now(connection) if "quarantine" in keys else None,
        log=log,
    )


def quarantine_now(connection: Connection) -> Quarantine:
    """Everybody who is cut off, with the revision."""
    head = connection.execute(select(quarantine_head)).mappings().one()
    found = (read_quarantined(row) for row in connection.execute(select(quarantine)).mappings())
    return Quarantine(head["revision"], {one.spiffe_id: one for one in found}, head["trace"])


def prune(connection: Connection, keep: int) -> int:
    """Deletes all but the last `keep` changes."""
    head = last_sequence(connection)
    return connection.execute(delete(changes).where(changes.c.sequence <= head - keep)).rowcount


def _everything(connection: Connection, log: str, head: int, own: TrustDomain) -> ChangeSet:
    every_entry = (read_entry(row) for row in connection.execute(select(entries)).mappings())
    every_agent = (read_agent(row) for row in connection.execute(select(agents)).mappings())
    every_bundle = (read_bundle(row) for row in connection.execute(select(bundles)).mappings())
    return ChangeSet(
        sequence=head,
        full=True,
        entries={entry.id: entry for entry in every_entry},
        agents={agent.id: agent for agent in every_agent},
        bundles={bundle.trust_domain: bundle for bundle in every_bundle if bundle.trust_domain != own},
        authorities=True,
        policies=True,
        quarantine=quarantine_now(connection),
        log=log,
    )


def _entries(connection: Connection, keys: list[str]) -> dict[str, Entry | None]:
    found: dict[str, Entry | None] = dict.fromkeys(keys)
    for row in _rows(connection, entries, "id", keys):
        found[row["id"]] = read_entry(row)
    return found


def _agents(connection: Connection, keys: list[str]) -> dict[SpiffeId, AgentRecord | None]:
    found: dict[SpiffeId, AgentRecord | None] = {SpiffeId.parse(key): None for key in keys}
    for row in _rows(connection, agents, "id", keys):
        agent = read_agent(row)
        found[agent.id] = agent
    return found


def _bundles(connection: Connection, keys: list[str]) -> dict[TrustDomain, Bundle | None]:
    found: dict[TrustDomain, Bundle | None] = {TrustDomain(key): None for key in keys}
    for row in _rows(connection, bundles, "trust_domain", keys):
        bundle = read_bundle(row)
        found[bundle.trust_domain] = bundle
    return found


def _rows(connection: Connection, table: Table, column: str, keys: list[str]) -> Iterable[Any]:
    for start in range(0, len(keys), _KEYS_A_QUERY):
        wanted = table.c[column].in_(keys[start : start + _KEYS_A_QUERY])
        yield from connection.execute(select(table).where(wanted)).mappings()
