"""Agents and join tokens in SQL: functions of a connection, run inside somebody's transaction."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from control_plane.core.entry import Entry
from control_plane.core.errors import (
    AlreadyExists,
    DenialReason,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
)
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.ports import JoinToken
from control_plane.sql import change_queries, entry_queries
from control_plane.sql.rows import agent_row, read_agent
from control_plane.sql.tables import agents, join_tokens


def record_attestation(connection: Connection, agent: AgentRecord) -> None:
    """See ports.Agents.record_attestation."""
    row = connection.execute(select(agents.c.banned).where(agents.c.id == str(agent.id))).one_or_none()
    if row is not None and row.banned:
        raise PermissionDenied(f"agent {agent.id} is banned", reason=DenialReason.AGENT_BANNED)
    if row is None:
        connection.execute(insert(agents), agent_row(agent) | {"bundle_sequence": 0})
    else:
        values = agent_row(agent) | {"bundle_sequence": 0}
        connection.execute(update(agents).where(agents.c.id == str(agent.id)).values(values))
    change_queries.record(connection, "agent", [str(agent.id)])


def change(
    connection: Connection, agent_id: SpiffeId, how: Callable[[AgentRecord], AgentRecord]
) -> AgentRecord:
    """Replaces an agent by `how(agent)`; the same value writes nothing. Raises NotFound."""
    row = connection.execute(select(agents).where(agents.c.id == str(agent_id))).mappings().one_or_none()
    if row is None:
        raise NotFound(f"agent {agent_id} doesn't exist")
    stored = read_agent(row)
    changed = how(stored)
    if changed != stored:
        connection.execute(update(agents).where(agents.c.id == str(agent_id)).values(agent_row(changed)))
        change_queries.record(connection, "agent", [str(agent_id)])
    return changed


def promote(connection: Connection, agent_id: SpiffeId, serial: int) -> AgentRecord:
    """See ports.Agents.promote."""

    def promoted(stored: AgentRecord) -> AgentRecord:
        if stored.serial == serial:
            return stored
        if stored.new_serial != serial or not serial:
            raise FailedPrecondition(f"agent {agent_id}: the certificate to promote isn't its new one")
        return stored.promoted()

    return change(connection, agent_id, promoted)


def ban(connection: Connection, agent_id: SpiffeId) -> None:
    """See ports.Agents.ban."""
    change(
        connection,
        agent_id,
        lambda stored: replace(stored, banned=True, serial=0, new_serial=0, selectors=frozenset()),
    )


def evict(connection: Connection, agent_id: SpiffeId) -> None:
    """See ports.Agents.evict."""
    if not connection.execute(delete(agents).where(agents.c.id == str(agent_id))).rowcount:
        raise NotFound(f"agent {agent_id} doesn't exist")
    change_queries.record(connection, "agent", [str(agent_id)])


def purge(connection: Connection, expired_before: int, limit: int) -> list[SpiffeId]:
    """See ports.Agents.purge."""
    expired = func.max(agents.c.expires_at, agents.c.new_expires_at) < expired_before
    wanted = select(agents.c.id).where(expired, agents.c.can_reattest, ~agents.c.banned)
    ids = connection.execute(wanted.order_by(agents.c.id).limit(limit)).scalars().all()
    if ids:
        connection.execute(delete(agents).where(agents.c.id.in_(ids)))
        change_queries.record(connection, "agent", ids)
    return [SpiffeId.parse(id) for id in ids]


def confirm_bundles(connection: Connection, sequences: Mapping[SpiffeId, int]) -> None:
    """See ports.Agents.confirm_bundles."""
    for agent_id, sequence in sequences.items():
        behind = (agents.c.id == str(agent_id)) & (agents.c.bundle_sequence < sequence)
        connection.execute(update(agents).where(behind).values(bundle_sequence=sequence))


def count_unconfirmed(connection: Connection, sequence: int, now: int) -> int:
    """See ports.Agents.count_unconfirmed."""
    live = or_(agents.c.expires_at > now, agents.c.new_expires_at > now)
    wanted = (agents.c.bundle_sequence < sequence) & ~agents.c.banned & live
    return connection.execute(select(func.count()).select_from(agents).where(wanted)).scalar_one()


def add_token(
    connection: Connection,
    token: JoinToken,
    alias: Entry | None,
    now: int,
    random_bytes: Callable[[int], bytes],
) -> None:
    """See ports.JoinTokens.add_token."""
    known = select(join_tokens.c.expires_at).where(join_tokens.c.digest == token.digest)
    if connection.execute(known).one_or_none() is not None:
        raise AlreadyExists("join token: this token exists already")
    connection.execute(insert(join_tokens), {"digest": token.digest, "expires_at": token.expires_at})
    if alias is not None:
        entry_queries.create(connection, [alias], now, random_bytes)


def take_token(connection: Connection, digest: bytes) -> JoinToken | None:
    """See ports.JoinTokens.take_token."""
    taken = delete(join_tokens).where(join_tokens.c.digest == digest).returning(join_tokens.c.expires_at)
    expires_at = connection.execute(taken).scalar_one_or_none()
    return None if expires_at is None else JoinToken(digest, expires_at)


def prune_tokens(connection: Connection, expired_before: int) -> int:
    """See ports.JoinTokens.prune_tokens."""
    return connection.execute(delete(join_tokens).where(join_tokens.c.expires_at < expired_before)).rowcount
