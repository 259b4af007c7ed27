"""Policy versions, their lives and assignments in SQL: functions of a connection."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from control_plane.core.errors import Corrupt, FailedPrecondition, NotFound
from control_plane.rollout.assignment import Assignment, Cause, InForce, SignedBundle
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.push import Pushed
from control_plane.rollout.steps import Life, Step, read_step, write_step
from control_plane.rollout.version import PolicySource, PolicyVersion, SignedVersion
from control_plane.sql import change_queries
from control_plane.sql.tables import policy_assignments, policy_keys, policy_steps, policy_versions

MARK: Final = (
    "SELECT (SELECT max(number) FROM policy_versions), (SELECT max(rowid) FROM policy_steps), "
    "(SELECT max(sequence) FROM policy_assignments), (SELECT count(*) + total(retired) FROM policy_keys)"
)
"""One row that grows with every change here: rows are added and never deleted, a key is retired once, and
what else changes in a row (an old assignment loses its payload) changes as another one is added."""

_RECORD: Final = [column for column in policy_versions.c if column.name != "content"]
_ASSIGNMENT: Final = [
    column for column in policy_assignments.c if column.name not in ("payload", "signature", "key_id")
]


def add_version(connection: Connection, signed: SignedVersion, source: PolicySource) -> None:
    """See ports.RolloutStore.add_version."""
    version = signed.version
    last = connection.execute(select(func.max(policy_versions.c.number))).scalar() or 0
    if version.number != last + 1:
        raise FailedPrecondition(
            f"storing policy version {version.number}: the last one is {last}", hint="push again"
        )
    connection.execute(
        insert(policy_versions),
        {
            "number": version.number,
            "digest": version.digest,
            "content_digest": version.content_digest,
            "author": version.author,
            "reason": version.reason,
            "created_at": version.created_at,
            "content": source.pack(),
            "signature": signed.signature,
            "key_id": signed.key_id,
        },
    )


def version(connection: Connection, number: int) -> tuple[SignedVersion, Life]:
    """See ports.RolloutStore.version."""
    found = versions(connection, number + 1, 1)
    if not found or found[0][0].version.number != number:
        raise NotFound(f"policy version {number} doesn't exist", hint="gatehouse policy history lists them")
    return found[0]


def versions(connection: Connection, before: int, limit: int) -> list[tuple[SignedVersion, Life]]:
    """See ports.RolloutStore.versions."""
    wanted = select(*_RECORD).order_by(policy_versions.c.number.desc()).limit(limit)
    if before:
        wanted = wanted.where(policy_versions.c.number < before)
    found = [_signed(row) for row in connection.execute(wanted).mappings()]
    lives = _lives(connection, [one.version.number for one in found])
    return [(one, Life(one.version.number, tuple(lives[one.version.number]))) for one in found]


def source(connection: Connection, number: int) -> PolicySource:
    """See ports.RolloutStore.source."""
    wanted = select(policy_versions.c.content, policy_versions.c.content_digest, policy_versions.c.digest)
    row = connection.execute(wanted.where(policy_versions.c.number == number)).one_or_none()
    if row is None:
        raise NotFound(f"policy version {number} doesn't exist")
    found = PolicySource.unpack(row.content)
    if (found.content_digest, found.digest) != (row.content_digest, row.digest):
        raise Corrupt(
            f"policy version {number}: its files aren't those that were pushed",
            hint="restore the database from a backup; what is in force isn't touched",
        )
    return found


def add_step(connection: Connection, life: Life, step: Step) -> Life:
    """See ports.RolloutStore.add_step."""
    grown = life.after(step)
    stored = _lives(connection, [life.number])[life.number]
    if tuple(stored) != life.steps:
        raise FailedPrecondition(
            f"policy version {life.number}: somebody else took a step meanwhile", hint="look again and repeat"
        )
    row = {"version": life.number, "position": len(life.steps), "document": write_step(step)}
    connection.execute(insert(policy_steps), row)
    return grown


def assign(
    connection: Connection, life: Life, step: Step, assignment: Assignment, bundle: SignedBundle
) -> Life:
    """See ports.RolloutStore.assign."""
    last = connection.execute(select(func.max(policy_assignments.c.sequence))).scalar() or 0
    if assignment.sequence != last + 1:
        raise FailedPrecondition(
            f"assigning policy version {assignment.version}: another assignment came first",
            hint="look at gatehouse policy status and repeat",
        )
    grown = add_step(connection, life, step)
    connection.execute(
        insert(policy_assignments),
        {
            "sequence": assignment.sequence,
            "version": assignment.version,
            "digest": assignment.digest,
            "percent": assignment.percent,
            "cause": str(assignment.cause),
            "by": assignment.by,
            "reason": assignment.reason,
            "at": assignment.at,
            "trace": assignment.trace,
            "payload": bundle.payload,
            "signature": bundle.signature,
            "key_id": bundle.key_id,
        },
    )
    kept = [one.sequence for one in _current(connection)]
    superseded = update(policy_assignments).where(policy_assignments.c.sequence.not_in(kept))
    connection.execute(superseded.values(payload=b"", signature=b""))
    change_queries.record(connection, "policy", [""])
    return grown


def in_force(connection: Connection) -> InForce:
    """See ports.RolloutStore.in_force."""
    newest = select(*_ASSIGNMENT).order_by(policy_assignments.c.sequence.desc())
    return InForce.of(_assignment(row) for row in connection.execute(newest).mappings())


def assignments(connection: Connection, before: int, limit: int) -> list[Assignment]:
    """See ports.RolloutStore.assignments."""
    wanted = select(*_ASSIGNMENT).order_by(policy_assignments.c.sequence.desc()).limit(limit)
    if before:
        wanted = wanted.where(policy_assignments.c.sequence < before)
    return [_assignment(row) for row in connection.execute(wanted).mappings()]


def pushed(connection: Connection) -> Pushed:
    """See push.PushStore.pushed."""
    now = in_force(connection)
    sequences = [one.sequence for one in (now.full, now.canary) if one is not None]
    rows = connection.execute(
        select(policy_assignments).where(policy_assignments.c.sequence.in_(sequences))
    ).mappings()
    bundles = {row["sequence"]: SignedBundle(row["payload"], row["signature"], row["key_id"]) for row in rows}
    return Pushed(tuple(keys(connection)), now, bundles)


def add_key(connection: Connection, key: PolicyKey) -> None:
    """See ports.RolloutStore.add_key."""
    known = connection.execute(select(policy_keys.c.key_id).where(policy_keys.c.key_id == key.key_id))
    if known.first() is not None:
        return
    values = {"name": key.name, "public_key": key.public_key, "created_at": key.created_at}
    connection.execute(insert(policy_keys), {"key_id": key.key_id, "retired": False, **values})
    change_queries.record(connection, "policy", [""])


def retire_key(connection: Connection, key_id: str) -> None:
    """See ports.RolloutStore.retire_key."""
    published = (policy_keys.c.key_id == key_id) & ~policy_keys.c.retired
    if connection.execute(update(policy_keys).where(published).values(retired=True)).rowcount:
        change_queries.record(connection, "policy", [""])


def keys(connection: Connection) -> list[PolicyKey]:
    """See ports.RolloutStore.keys."""
    wanted = select(policy_keys).where(~policy_keys.c.retired)
    rows = connection.execute(wanted.order_by(policy_keys.c.created_at, policy_keys.c.key_id)).mappings()
    return [PolicyKey(row["name"], row["public_key"], row["created_at"]) for row in rows]


def _current(connection: Connection) -> Sequence[Assignment]:
    now = in_force(connection)
    return [one for one in (now.full, now.canary) if one is not None]


def _lives(connection: Connection, numbers: Sequence[int]) -> dict[int, list[Step]]:
    found: dict[int, list[Step]] = defaultdict(list)
    wanted = select(policy_steps).where(policy_steps.c.version.in_(numbers))
    for row in connection.execute(wanted.order_by(policy_steps.c.version, policy_steps.c.position)):
        found[row.version].append(read_step(row.document))
    return found


def _signed(row: RowMapping) -> SignedVersion:
    return SignedVersion(
        PolicyVersion(
            number=row["number"],
            digest=row["digest"],
            content_digest=row["content_digest"],
            author=row["author"],
            reason=row["reason"],
            created_at=row["created_at"],
        ),
        row["signature"],
        row["key_id"],
    )


def _assignment(row: RowMapping) -> Assignment:
    return Assignment(**{**row, "cause": Cause(row["cause"])})
