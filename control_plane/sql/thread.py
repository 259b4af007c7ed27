"""One thread a process that owns the one database connection; coroutines send it work and wait.

Writes that are waiting together share a transaction (each under its own savepoint), so a thousand agents
that attest at once cost a handful of disk flushes. A write has returned only when its transaction is on
disk. Between jobs the thread looks every few milliseconds whether another process has committed (`commits`).

Crash at any line: SQLite rolls back what wasn't committed, and no caller was told otherwise.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, exc

from control_plane.core.errors import Bug, GatehouseError, InternalError, Unavailable
from control_plane.sql.commits import CommitWatch, LogWatch, Mark
from control_plane.sql.database import translation

T = TypeVar("T")
Work = Callable[[Connection], T]

POLL_SECONDS: Final = 0.025
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
        self._marks: list[Mark] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._log = LogWatch(Path(f"{engine.url.database}-wal"))
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

    def mark(self, query: str) -> Mark:
        """Counts from now on the changes of what `query` stands for; each is counted before the writer hears
        of the write, where it is this process's own."""
        mark = Mark(query)
        self._marks.append(mark)
        return mark

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
        watch: CommitWatch | None = None
        ended = False
        while not ended:
            jobs, ended = self._next_jobs()
            if not (jobs or ended or connection is None or self._log.may_tell()):
                continue
            try:
                if connection is None or watch is None:
                    connection = self._engine.connect()
                    watch = CommitWatch(_driver(connection))
                if jobs:
                    _execute(connection, jobs)
                if watch.committed():
                    self._tell(partial(self._committed, watch.moved(tuple(self._marks))))
            except BaseException as error:
                # A thread has nobody to raise to: waiting callers must hear of it, whatever it is. The
                # connection may be broken, and something committed: begin anew with the next job.
                _closed(connection)
                connection = watch = None
                _fail(jobs, error)
                if any(job.writes for job in jobs):
                    self._tell(partial(self._committed, tuple(self._marks)))
            if jobs:
                self._tell(lambda jobs=jobs: [job.deliver() for job in jobs])  # type: ignore[misc]
        _closed(connection)

    def _committed(self, moved: Iterable[Mark]) -> None:
        for mark in moved:
            mark.changes += 1
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


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


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
