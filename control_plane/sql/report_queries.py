"""What agents report while a canary runs, in SQL: functions of a connection."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.denials import AgentCounts, Counts
from control_plane.sql.tables import decision_reports as table


def put(connection: Connection, canary: int, reports: Sequence[AgentCounts]) -> None:
    """See rollout.reports.ReportStore.put_reports."""
    connection.execute(delete(table).where(table.c.canary < canary))
    rows = [
        {
            "canary": canary,
            "agent_id": str(one.agent_id),
            "in_canary": one.in_canary,
            "requests": one.now.requests,
            "denied": one.now.denied,
            "requests_before": one.before.requests,
            "denied_before": one.before.denied,
            "worst": "" if one.worst is None else str(one.worst),
        }
        for one in reports
    ]
    if rows:
        connection.execute(insert(table).prefix_with("OR REPLACE"), rows)


def reports(connection: Connection, canary: int) -> list[AgentCounts]:
    """See rollout.reports.ReportStore.reports."""
    return [
        AgentCounts(
            SpiffeId.parse(row.agent_id),
            row.in_canary,
            Counts(row.requests, row.denied),
            Counts(row.requests_before, row.denied_before),
            SpiffeId.parse(row.worst) if row.worst else None,
        )
        for row in connection.execute(select(table).where(table.c.canary == canary))
    ]
