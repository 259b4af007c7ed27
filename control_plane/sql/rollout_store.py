"""The life of policies over SQLite: hands each call to the SQL thread as one transaction.

What people and pipelines look at again and again is remembered until the next change of a policy, in pages of
the usual size; nobody but the management process writes it.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy import Connection

from control_plane.rollout.assignment import Assignment, InForce, SignedBundle
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.denials import AgentCounts
from control_plane.rollout.push import Pushed
from control_plane.rollout.steps import Life, Step
from control_plane.rollout.version import PolicySource, SignedVersion
from control_plane.sql import policy_queries, report_queries
from control_plane.sql.remembered import RememberedReads
from control_plane.sql.thread import SqlThread

Row = TypeVar("Row")

MAX_REMEMBERED: Final = 100
"""Rows of a page. A larger one is asked for to be read through, not to be looked at again."""


class SqlRolloutStore:
    """Implements `rollout.ports.RolloutStore`; what issuers have to know is in the change log too."""

    def __init__(self, thread: SqlThread) -> None:
        self._thread = thread
        self._remembered = RememberedReads(thread, policy_queries.MARK)

    async def add_version(self, version: SignedVersion, source: PolicySource) -> None:
        await self._thread.write(
            "storing a policy version",
            lambda connection: policy_queries.add_version(connection, version, source),
        )

    async def version(self, number: int) -> tuple[SignedVersion, Life]:
        return await self._remembered.read(
            ("version", number),
            "reading a policy version",
            lambda connection: policy_queries.version(connection, number),
        )

    async def versions(self, before: int, limit: int) -> list[tuple[SignedVersion, Life]]:
        return await self._page("reading policy versions", policy_queries.versions, before, limit)

    async def source(self, number: int) -> PolicySource:
        return await self._thread.read(
            "reading a policy", lambda connection: policy_queries.source(connection, number)
        )

    async def add_step(self, life: Life, step: Step) -> Life:
        return await self._thread.write(
            "storing a step of a policy", lambda connection: policy_queries.add_step(connection, life, step)
        )

    async def in_force(self) -> InForce:
        return await self._remembered.read("in force", "reading what is in force", policy_queries.in_force)

    async def assign(self, life: Life, step: Step, assignment: Assignment, bundle: SignedBundle) -> Life:
        return await self._thread.write(
            f"assigning policy version {assignment.version}",
            lambda connection: policy_queries.assign(connection, life, step, assignment, bundle),
        )

    async def assignments(self, before: int, limit: int) -> list[Assignment]:
        return await self._page("reading assignments", policy_queries.assignments, before, limit)

    async def add_key(self, key: PolicyKey) -> None:
        await self._thread.write(
            "publishing a policy key", lambda connection: policy_queries.add_key(connection, key)
        )

    async def retire_key(self, key_id: str) -> None:
        await self._thread.write(
            "retiring a policy key", lambda connection: policy_queries.retire_key(connection, key_id)
        )

    async def keys(self) -> list[PolicyKey]:
        keys = await self._remembered.read(
            "keys", "reading policy keys", lambda connection: tuple(policy_queries.keys(connection))
        )
        return list(keys)

    async def pushed(self) -> Pushed:
        """See `rollout.push.PushStore`."""
        return await self._thread.read("reading what is pushed", policy_queries.pushed)

    async def put_reports(self, canary: int, reports: Sequence[AgentCounts]) -> None:
        """See `rollout.reports.ReportStore`."""
        await self._thread.write(
            "storing reports of agents", lambda connection: report_queries.put(connection, canary, reports)
        )

    async def reports(self, canary: int) -> list[AgentCounts]:
        """See `rollout.reports.ReportStore`."""
        return await self._thread.read(
            "reading reports of agents", lambda connection: report_queries.reports(connection, canary)
        )

    async def _page(
        self, doing: str, query: Callable[[Connection, int, int], list[Row]], before: int, limit: int
    ) -> list[Row]:
        if limit > MAX_REMEMBERED:
            return await self._thread.read(doing, lambda connection: query(connection, before, limit))
        page = await self._remembered.read(
            (query, before, limit), doing, lambda connection: tuple(query(connection, before, limit))
        )
        return list(page)
