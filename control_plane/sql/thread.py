"""One thread a process that owns the one database connection; coroutines send it work and wait.

Writes that are waiting together share a transaction (each under its own savepoint), so a thousand agents
that attest at once cost a handful of disk flushes. A write has returned only when its transaction is on
disk. Between jobs the thread looks every few milliseconds whether another process has committed: at the
write-ahead log, which every commit writes to, and while that has just changed it asks SQLite.

Crash at any line: SQLite rolls back what wasn't committed, and no caller was told otherwise.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, exc

from control_plane.core.errors import Bug, GatehouseError, InternalError, Unavailable
from control_plane.sql.database import translation

T = TypeVar("T")
Work = Callable[[Connection], T]

POLL_SECONDS: Final = 0.025
# A commit becomes visible a moment after it was written, and the clock of a file system has coarse ticks.
POLLS_AFTER_A_CHANGE: Final = 20
POLLS_BETWEEN_QUESTIONS: Final = 40  # however quiet the log is: a flush may take longer than the above
MAX_SHARED_WRITES: Final = 64
MAX_WAITING: Final = 10_000


@dataclass(slots=True, eq=False)
class _Job:
    doing: str
    work: Callable[[Connection], Any]
    writes: bool
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.done():  # the caller gave up waiting
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class SqlThread:
    """Start it inside a running event loop; close it before the loop ends."""

    def __init__(self, engine: Engine, on_commit: Callable[[], None]) -> None:
        self._engine = engine
        self._on_commit = on_commit
        self.commits = 0
        """How often somebody committed, as far as is known; counted before a writer hears of its write."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._log = _LogWatch(Path(f"{engine.url.database}-wal"))
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="sql", daemon=True)
        self._closed = False

    def start(self) -> None:
        """Starts the thread. Errors of opening show in the first call."""
        self._thread.start()

    async def close(self) -> None:
        """Finishes what is queued and ends the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    async def read(self, doing: str, work: Work[T]) -> T:
        """Runs `work` in a read transaction: one consistent state, whatever others write."""
        return await self._send(_Job(doing, work, False, self._loop.create_future()))  # type: ignore[no-any-return]

    async def write(self, doing: str, work: Work[T]) -> T:
        """Runs `work` in a write transaction, durable on return. `work` may run in a shared transaction;
        if it raises, its own changes are undone and nobody else's."""
        return await self._send(_Job(doing, work, True, self._loop.create_future()))  # type: ignore[no-any-return]

    async def _send(self, job: _Job) -> Any:
        if self._closed:
            raise Unavailable(f"{job.doing}: the database is closed, the process is ending")
        if self._jobs.qsize() >= MAX_WAITING:
            raise Unavailable(
                f"{job.doing}: {MAX_WAITING} requests are waiting for the database already", hint="try again"
            )
        self._jobs.put(job)
        return await job.future

    def _run(self) -> None:
        connection: Connection | None = None
        seen_version = None
        ended = False
        while not ended:
            jobs, ended = self._next_jobs()
            if not (jobs or ended or connection is None or self._log.may_tell()):
                continue
            try:
                if connection is None:
                    connection = self._engine.connect()
                if jobs:
                    _execute(connection, jobs)
                version = _data_version(connection)
                # The version tells of other connections' commits only, never of our own.
                if version != seen_version or any(job.writes for job in jobs):
                    self._tell(self._committed)
                seen_version = version
            except (exc.SQLAlchemyError, sqlite3.Error) as error:
                # The connection may be broken: begin anew with the next job.
                _closed(connection)
                connection = None
                _fail(jobs, error)
            except BaseException as error:
                # A thread has nobody to raise to: waiting callers must hear of it, whatever it is.
                _closed(connection)
                connection = None
                _fail(jobs, error)
            if jobs:
                self._tell(lambda jobs=jobs: [job.deliver() for job in jobs])  # type: ignore[misc]
        _closed(connection)

    def _committed(self) -> None:
        self.commits += 1
        self._on_commit()

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        try:
            first = self._jobs.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return [], False
        jobs: list[_Job] = []
        job: _Job | None = first
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_SHARED_WRITES:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return  # the loop has ended; nobody waits any more


class _LogWatch:
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


def _data_version(connection: Connection) -> int:
    """SQLite's count of others' commits. Asked often while others write, hence past SQLAlchemy."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    [(version,)] = driver.execute("PRAGMA data_version").fetchall()
    return int(version)


def _execute(connection: Connection, jobs: list[_Job]) -> None:
    """Runs jobs in order: neighbouring writes share a transaction, reads get one each."""
    position = 0
    while position < len(jobs):
        end = position + 1
        if jobs[position].writes:
            while end < len(jobs) and jobs[end].writes:
                end += 1
            _write_together(connection, jobs[position:end])
        else:
            _read(connection, jobs[position])
        position = end


def _read(connection: Connection, job: _Job) -> None:
    try:
        connection.exec_driver_sql("BEGIN")
        job.result = job.work(connection)
    except Exception as error:  # handed to the caller, who knows what to do with it
        job.error = _ours(error, job.doing)
    finally:
        connection.rollback()


def _write_together(connection: Connection, jobs: list[_Job]) -> None:
    doing = jobs[0].doing
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for job in jobs:
            doing = job.doing
            savepoint = connection.begin_nested()
            try:
                job.result = job.work(connection)
                savepoint.commit()
            except (GatehouseError, ValueError, TypeError, KeyError) as error:
                savepoint.rollback()
                job.error = _ours(error, job.doing)
        doing = "committing " + doing
        connection.commit()
    except (exc.SQLAlchemyError, sqlite3.Error) as error:
        # The whole transaction is gone, so nobody's write took place.
        connection.rollback()
        for job in jobs:
            job.error = _ours(error, job.doing)
            job.result = None


def _ours(error: BaseException, doing: str) -> BaseException:
    if isinstance(error, GatehouseError):
        return error
    if isinstance(error, exc.DBAPIError | sqlite3.Error):
        ours: GatehouseError = translation(error, doing)
    elif isinstance(error, exc.SQLAlchemyError):
        ours = InternalError(f"{doing}: the database refused it ({type(error).__name__})")
    else:
        ours = Bug(f"{doing}: {type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


def _fail(jobs: list[_Job], error: BaseException) -> None:
    for job in jobs:
        if job.error is None and job.result is None:
            job.error = _ours(error, job.doing)


def _closed(connection: Connection | None) -> None:
    """Closes a connection that may be broken and stands for having none."""
    if connection is not None:
        with contextlib.suppress(exc.SQLAlchemyError, sqlite3.Error):
            connection.close()
