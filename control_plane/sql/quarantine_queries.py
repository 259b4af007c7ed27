"""Who is cut off, in SQL: functions of a connection."""

from sqlalchemy import Connection, delete, insert, update

from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.quarantine import Quarantined
from control_plane.identity.storage_rules import check_quarantine
from control_plane.sql import change_queries
from control_plane.sql.tables import quarantine, quarantine_head


def add(connection: Connection, member: Quarantined, trace: str) -> bool:
    """See ports.QuarantineStore.quarantine."""
    known = change_queries.quarantine_now(connection).members
    if member.spiffe_id in known:
        return False
    check_quarantine([*known, member.spiffe_id])
    values = {"reason": member.reason, "by": member.by, "at": member.at}
    connection.execute(insert(quarantine), {"spiffe_id": str(member.spiffe_id), **values})
    _changed(connection, trace)
    return True


def remove(connection: Connection, spiffe_id: SpiffeId, trace: str) -> bool:
    """See ports.QuarantineStore.release."""
    gone = connection.execute(delete(quarantine).where(quarantine.c.spiffe_id == str(spiffe_id))).rowcount
    if gone:
        _changed(connection, trace)
    return bool(gone)


def _changed(connection: Connection, trace: str) -> None:
    connection.execute(update(quarantine_head).values(revision=quarantine_head.c.revision + 1, trace=trace))
    change_queries.record(connection, "quarantine", [""])
