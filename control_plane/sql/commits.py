"""How a process learns that somebody committed, itself or another process, and what that may have changed.

Another process's commit is seen at the write-ahead log, which every commit writes to, and while that has just
changed SQLite is asked. What a commit changed nobody says: whoever remembers what they read has a `Mark`, a
query that is answered from a few rows and differently after each change of what they remember.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# A commit becomes visible a moment after it was written, and the clock of a file system has coarse ticks.
POLLS_AFTER_A_CHANGE: Final = 20
POLLS_BETWEEN_QUESTIONS: Final = 40  # however quiet the log is: a flush may take longer than the above


@dataclass(slots=True, eq=False)
class Mark:
    """`query` gives one row, and never the same one again once what it stands for has changed. `changes`
    counts how often that was, as far as is known; it belongs to the event loop."""

    query: str
    changes: int = 0


class CommitWatch:
    """What one connection has seen of commits. A new connection needs a new one, which has seen nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version: int | None = None
        self._rows = connection.total_changes
        self._answers: dict[Mark, Any] = {}

    def committed(self) -> bool:
        """Whether somebody committed since the last call; of our own commits those that changed a row. The
        first call says so in any case."""
        # It tells of other connections' commits only. Asked often while others write, hence past SQLAlchemy.
        [(version,)] = self._connection.execute("PRAGMA data_version").fetchall()
        before, rows = self._version, self._rows
        self._version, self._rows = version, self._connection.total_changes
        return version != before or self._rows != rows

    def moved(self, marks: Sequence[Mark]) -> list[Mark]:
        """Those whose query gives another answer than at the last call; at the first call, all."""
        found = []
        for mark in marks:
            answer = self._connection.execute(mark.query).fetchall()
            if self._answers.get(mark) != answer:
                self._answers[mark] = answer
                found.append(mark)
        return found


class LogWatch:
    """Looks at the write-ahead log from outside: a question to SQLite costs fifty times as much, and an
    issuer would spend a hundredth of a processor on them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._to_ask = 0
        self._quiet = 0

    def may_tell(self) -> bool:
        """Whether SQLite should be asked now for commits of others."""
        try:
            about = self._path.stat()
        except OSError:
            return True  # it comes and goes with the connections of the database
        found = about.st_ino, about.st_size, about.st_mtime_ns
        if found != self._seen:
            self._seen, self._to_ask = found, POLLS_AFTER_A_CHANGE
        self._to_ask -= 1
        self._quiet = 0 if self._to_ask >= 0 else self._quiet + 1
        return self._quiet % POLLS_BETWEEN_QUESTIONS == 0
