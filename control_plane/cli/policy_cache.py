"""What `gatehouse policy` keeps between runs: rows in one SQLite file below the user's cache folder.

Whoever writes rows could let a manifest pass as proved. So the folder has to be the user's own, and nobody
else may look into it or change it: it is made with mode 0700, and one of another owner or mode is not used,
nor is a file of somebody else's in it. From there on users are trusted with their own files, as they are with
the policy. Accidents (a damaged file, a full disk, rows of another version) cost time and change no answer.

Several commands may use the file at once; what one made is written at its end, and before whenever that is
much: each row holds for itself. The rows that were used longest ago go first when there are too many.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from control_plane.cli import printing
from control_plane.core.errors import FailedPrecondition
from policies.kept.shelf import MAX_ROW_BYTES, MemoryStore, Shelf, digest

FILE: Final = "kept.sqlite"
MAX_BYTES: Final = 512 << 20
_MAX_UNWRITTEN_BYTES: Final = 32 << 20
_BUSY_SECONDS: Final = 5.0
_WORTH_A_MARK: Final = 8
"""A row's last use is written again only when so many other runs have written since."""
_APPLICATION: Final = 0x67617465
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS kept (key BLOB PRIMARY KEY, used INTEGER NOT NULL, content BLOB NOT NULL)"
)


@contextlib.contextmanager
def kept_between_runs(given: Path | None) -> Iterator[Shelf]:
    """The shelf below `given`, else below the XDG cache folder; an empty one where that can't be used.

    Why it can't is said on standard error: it costs time, and no answer depends on it.
    """
    rows: _Rows | None = None
    try:
        rows = _Rows.open(_folder(given) / FILE)
    except FailedPrecondition as error:
        printing.note(f"nothing is kept: {error}")
    except (sqlite3.Error, OSError) as error:
        printing.note(f"nothing is kept: opening {_folder(given) / FILE}: {error}")
    if rows is None:
        yield Shelf("", MemoryStore())
        return
    with contextlib.closing(rows):
        yield Shelf(compiler_digest(), rows)
        try:
            rows.write()
        except (sqlite3.Error, OSError) as error:
            printing.note(f"nothing new is kept: writing {rows.file}: {error}")


def _folder(given: Path | None) -> Path:
    if given is not None:
        return given
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "gatehouse" / "policy"
    except RuntimeError as error:
        raise FailedPrecondition("there is no home folder", hint="name a folder with --cache") from error


@dataclass(slots=True)
class _Rows:
    """The rows of one file; new ones stay in memory until `write`, or until there are too many."""

    file: Path
    _database: sqlite3.Connection
    _run: int
    """Runs that wrote are counted; a row tells the last that used it."""
    _new: dict[bytes, bytes] = field(default_factory=dict)
    _used: list[bytes] = field(default_factory=list)
    _damaged: bool = False
    _unwritten_bytes: int = 0
    _full: bool = False

    @staticmethod
    def open(file: Path) -> _Rows:
        """Opens or makes a file; a damaged one is replaced.

        Raises FailedPrecondition for a place that others may change, sqlite3.Error or OSError for trouble.
        """
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(file.parent, stat.S_ISDIR)
        for attempt in (file, *(file.with_name(file.name + end) for end in ("-journal", "-wal", "-shm"))):
            with contextlib.suppress(FileNotFoundError):
                _check_ours(attempt, stat.S_ISREG)
        try:
            return _Rows._opened(file)
        except sqlite3.OperationalError:
            raise  # busy, or no room: the file is well
        except sqlite3.DatabaseError:
            file.unlink()
            return _Rows._opened(file)

    @staticmethod
    def _opened(file: Path) -> _Rows:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES + 4096)
            # A crash of the machine may cost the file, which is replaced then.
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA trusted_schema = OFF")
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and application != _APPLICATION:
                raise sqlite3.DatabaseError("it is another program's")
            if not tables:
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(_TABLE)
                database.execute("CREATE INDEX IF NOT EXISTS kept_used ON kept (used)")
            (newest,) = database.execute("SELECT max(used) FROM kept").fetchone()
            return _Rows(file, database, 1 + (newest if isinstance(newest, int) else 0))
        except BaseException:
            database.close()
            raise

    def find(self, key: bytes) -> bytes | None:
        """As `Store` has it."""
        found = self._new.get(key)
        if found is not None:
            return found
        try:
            row = self._database.execute("SELECT used, content FROM kept WHERE key = ?", (key,)).fetchone()
        except sqlite3.OperationalError:
            return None  # busy for too long
        except sqlite3.DatabaseError:
            self._damaged = True
            return None
        if row is None or not isinstance(row[0], int) or not isinstance(row[1], bytes):
            return None
        if row[0] + _WORTH_A_MARK < self._run:
            self._used.append(key)
        return row[1]

    def put(self, key: bytes, content: bytes) -> None:
        """As `Store` has it."""
        if self._unwritten_bytes + len(content) > _MAX_UNWRITTEN_BYTES and not self._full:
            try:
                self.write()
            except (sqlite3.Error, OSError):
                self._full = True  # what there is no room for isn't kept; the last write says why
        if not self._full:
            self._new[key] = content
            self._unwritten_bytes += len(content)

    def write(self) -> None:
        """Writes what is new, all or nothing; into a new file where this one is damaged.

        Raises sqlite3.Error or OSError.
        """
        if not self._damaged:
            try:
                self._write()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._damaged = True
        if self._damaged:
            self._database.close()
            self.file.unlink(missing_ok=True)
            self._database = _Rows._opened(self.file)._database
            self._write()

    def _write(self) -> None:
        if not self._new and not self._used:
            return
        database = self._database
        with _transaction(database):
            database.executemany(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)",
                ((key, self._run, content) for key, content in self._new.items()),
            )
            database.executemany(
                "UPDATE kept SET used = ? WHERE key = ?", ((self._run, key) for key in self._used)
            )
        self._new.clear()
        self._used.clear()
        self._unwritten_bytes = 0
        self._forget()

    def _forget(self) -> None:
        """Leaves half of what there may be, where there is more."""
        database = self._database
        (pages,), (size,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
        if pages * size <= MAX_BYTES:
            return
        left = MAX_BYTES // 2
        for used, length in database.execute(
            "SELECT used, sum(length(content)) FROM kept GROUP BY used ORDER BY used DESC"
        ).fetchall():
            left -= length
            if left < 0:
                database.execute("DELETE FROM kept WHERE used <= ?", (used,))
                break
        database.execute("VACUUM")

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _check_ours(path: Path, kind: object) -> None:
    """Raises FailedPrecondition where somebody else may read or write a path, or it is of another kind."""
    status = path.lstat()
    assert callable(kind)
    if status.st_uid != os.geteuid():
        raise FailedPrecondition(f"{path} belongs to user {status.st_uid}, not to us")
    if not kind(status.st_mode):
        raise FailedPrecondition(f"{path} is of another kind, a link for one")
    if status.st_mode & _OTHERS:
        raise FailedPrecondition(
            f"others may look into {path} or change it", hint="take their rights away: chmod go= PATH"
        )


def compiler_digest() -> str:
    """A digest of everything that evaluates, emits, proves and reads: another compiler keeps its own rows."""
    parts = [sys.version]
    for package in ("policies", "control_plane.core"):
        for name, source in _sources(resources.files(package), package):
            parts += [name, source.read_text(encoding="utf-8")]
    return digest(*parts)


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _sources(entry, f"{name}/{entry.name}")
        elif entry.name.endswith((".py", ".json")):
            yield f"{name}/{entry.name}", entry
