"""Opens the SQLite file, keeps its schema current, and turns the library's errors into ours.

WAL with synchronous=FULL: a commit that returned survives a power cut, readers never wait for writers, and
several processes may write (each waits up to `BUSY_SECONDS` for its turn). The schema belongs to Alembic
migrations, run here at start-up; a file written by a newer version is refused, never downgraded.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.pool import NullPool

from control_plane.core.errors import (
    Corrupt,
    FailedPrecondition,
    GatehouseError,
    InternalError,
    Unavailable,
)
from control_plane.sql.change_queries import name_log

BUSY_SECONDS: Final = 15
WAL_LIMIT_BYTES: Final = 64 << 20

_HINTS: Final[dict[str, tuple[type[GatehouseError], str, str]]] = {
    "SQLITE_FULL": (Unavailable, "the disk is full", "free some space; nothing of this request was stored"),
    "SQLITE_READONLY": (Unavailable, "the file can't be written", "check owner, mode and mount options"),
    "SQLITE_CANTOPEN": (Unavailable, "the file can't be opened", "check owner, mode and free inodes"),
    "SQLITE_PERM": (Unavailable, "access is denied", "check owner and mode"),
    "SQLITE_BUSY": (Unavailable, f"another process held it for more than {BUSY_SECONDS} s", "try again"),
    "SQLITE_LOCKED": (Unavailable, "it is locked", "try again"),
    "SQLITE_IOERR": (Unavailable, "reading or writing failed", "check the disk and the kernel's log"),
    "SQLITE_CORRUPT": (Corrupt, "the file is damaged", "stop the server and restore it from a backup"),
    "SQLITE_NOTADB": (Corrupt, "the file isn't a database", "stop the server and restore it from a backup"),
}


def open_engine(path: Path) -> Engine:
    """An engine for the database at `path`. Opens nothing yet; connections aren't pooled."""
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": True},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "cell_size_check=ON",
            f"journal_size_limit={WAL_LIMIT_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def prepare(path: Path) -> None:
    """Checks the file, brings the schema up to date and names the change log anew (`core.log_position`).
    Blocking; one process at a time, and before any other opens it.

    Raises Corrupt for a damaged file, FailedPrecondition for one from a newer version, Unavailable if it
    can't be read or written.
    """
    engine = open_engine(path)
    with translated(f"opening the database {path.name}"), engine.connect() as connection:
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
        if found != "ok":
            raise Corrupt(
                f"opening the database {path.name}: the file is damaged ({found})",
                hint="stop the server and restore it from a backup",
            )
        connection.rollback()
        _migrate(connection, path)
    path.chmod(0o600)


def _migrate(connection: Connection, path: Path) -> None:
    # Only the process that prepares the file needs Alembic; every other one starts sooner without it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    current = _schema_version(connection)
    scripts = ScriptDirectory.from_config(config)
    try:
        if current is not None:
            scripts.get_revision(current)
        command.upgrade(config, "head")
    except CommandError as error:
        connection.rollback()
        raise FailedPrecondition(
            f"opening the database {path.name}: its schema {current!r} is unknown to this version, "
            f"which knows {scripts.get_current_head()!r}",
            hint="it was written by a newer Gatehouse: run that version, or restore an older backup",
        ) from error
    name_log(connection, os.urandom(8).hex())
    connection.commit()


def _schema_version(connection: Connection) -> str | None:
    tables = connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"))
    if tables.scalar() is None:
        return None
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if version is None else str(version)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raises the database's errors as ours, with what was being done and what to do next."""
    try:
        yield
    except (exc.DBAPIError, sqlite3.Error) as error:
        raise translation(error, doing) from error


def translation(error: exc.DBAPIError | sqlite3.Error, doing: str) -> GatehouseError:
    """Our error for one of the database's."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    name = getattr(original, "sqlite_errorname", "")
    for prefix, (kind, fault, hint) in _HINTS.items():
        if name.startswith(prefix):
            return kind(f"{doing}: {fault} ({name})", hint=hint)
    return InternalError(f"{doing}: the database refused it ({name or type(original).__name__})")
