"""Answers that were given under a key, over SQLite."""

from sqlalchemy import Connection, delete, insert, select

from control_plane.runtime.answers import Answer
from control_plane.sql.tables import idempotency
from control_plane.sql.thread import SqlThread


class SqlAnswers:
    """Implements `runtime.answers.Answers`."""

    def __init__(self, thread: SqlThread) -> None:
        self._thread = thread

    async def find(self, subject: str, key: str) -> Answer | None:
        """See the port."""
        return await self._thread.read(
            "looking for an answer", lambda connection: _find(connection, subject, key)
        )

    async def keep(self, subject: str, key: str, answer: Answer, now: int) -> None:
        """See the port."""

        def insert_once(connection: Connection) -> None:
            if _find(connection, subject, key) is None:
                row = {
                    "request_digest": answer.request_digest,
                    "status": answer.status,
                    "answer": answer.body,
                    "at": now,
                }
                connection.execute(insert(idempotency), {"subject": subject, "key": key, **row})

        await self._thread.write("keeping an answer", insert_once)

    async def forget(self, before: int) -> int:
        """See the port."""
        return await self._thread.write(
            "forgetting answers",
            lambda connection: (
                connection.execute(delete(idempotency).where(idempotency.c.at < before)).rowcount
            ),
        )


def _find(connection: Connection, subject: str, key: str) -> Answer | None:
    wanted = select(idempotency).where((idempotency.c.subject == subject) & (idempotency.c.key == key))
    row = connection.execute(wanted).one_or_none()
    return None if row is None else Answer(row.request_digest, row.status, row.answer)
