"""The ledger journal of one issuer: records are durable when `append` returns, or `append` raises.

One thread writes. While it flushes one group to the disk, the next one gathers, so that the cost of a flush
is shared by whoever waits (group commit). A group that can't be written whole (disk full) is cut off again
and refused; no sequence number is lost, and issuing works again when there is space. When even that fails,
the journal refuses everything until it is opened anew, which sorts the file out (`journal_file`).

One process a journal: a lock file sees to it. Reading is done in `journal_reader`, beside a writer.
"""

import asyncio
import errno
import fcntl
import os
import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.core.errors import (
    Bug,
    FailedPrecondition,
    GatehouseError,
    ResourceExhausted,
    Unavailable,
)
from control_plane.identity.journal_file import (
    Damage,
    frame,
    marker,
    read_segment,
    segment_path,
    segments,
)
from control_plane.identity.ledger import Record
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

SEGMENT_BYTES: Final = 64 << 20
MAX_GROUP_RECORDS: Final = 4096
MAX_WAITING_RECORDS: Final = 65_536  # about 30 MiB; more means a disk that doesn't keep up

_log = get_logger("ledger")


@dataclass(slots=True, eq=False)
class _Append:
    payloads: list[bytes]
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[list[int]]"


class Journal:
    """Appends records for one issuer. `start` before use, `close` after."""

    def __init__(
        self, directory: Path, issuer_index: int, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._directory = directory
        self._issuer = issuer_index
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._waiting = 0
        self._waiting_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._lock_descriptor = -1
        self._descriptor = -1
        self._offset = 0  # everything before it is durable
        self._next_sequence = 1
        self._broken: GatehouseError | None = None
        self.damage: list[Damage] = []
        self.dropped_bytes = 0  # of the torn tail that the last start found

    async def start(self) -> None:
        """Locks, sorts out what a crash left, opens for writing.

        Raises FailedPrecondition if another process has this journal, Unavailable or ResourceExhausted if
        the disk doesn't let us. Damage in the last segment doesn't stop the start: it is in `damage`, the
        file is left as it is, and a new segment begins.
        """
        if self._thread is not None:
            raise Bug("journal: started twice")
        await asyncio.get_running_loop().run_in_executor(None, self._open)
        for damage in self.damage:
            _log.error("ledger_damaged", issuer=self._issuer, damage=str(damage))
        if self.dropped_bytes and not self.damage:
            # What was never acknowledged; expected after a crash.
            _log.warning("ledger_tail_dropped", issuer=self._issuer, bytes=self.dropped_bytes)
        self._thread = threading.Thread(target=self._write_groups, name="ledger-journal", daemon=True)
        self._thread.start()

    async def append(self, records: Sequence[Record]) -> list[int]:
        """Makes records durable, in order; gives their sequence numbers.

        Raises ResourceExhausted (disk full, or a disk that doesn't keep up) or Unavailable; then none of
        the records is in the journal. If the caller is cancelled, they may be.
        """
        if self._thread is None:
            raise Bug("journal: append before start, or after close")
        if not records:
            return []
        with self._waiting_lock:
            if self._waiting + len(records) > MAX_WAITING_RECORDS:
                raise ResourceExhausted(
                    f"ledger journal {self._directory}: {self._waiting} records wait for the disk",
                    hint="the disk is too slow for the rate of issuing",
                )
            self._waiting += len(records)
        loop = asyncio.get_running_loop()
        request = _Append([record.encode() for record in records], loop, loop.create_future())
        self._queue.put(request)
        return await request.done

    async def close(self) -> None:
        """Writes what waits, then releases the file. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        for descriptor in (self._descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock_descriptor = -1

    def _open(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_path = self._directory / f"issuer-{self._issuer}.lock"
            self._lock_descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._lock_descriptor)
                self._lock_descriptor = -1
                raise FailedPrecondition(
                    f"ledger journal {lock_path}: another process writes it",
                    hint="two servers can't share a data directory",
                ) from error
            self._recover()
        except OSError as error:
            raise _storage_error(f"ledger journal {self._directory}: can't be opened", error) from error

    def _recover(self) -> None:
        existing = segments(self._directory, self._issuer)
        if not existing:
            self._open_segment(1)
            return
        last = existing[-1]
        contents = read_segment(last)
        self._next_sequence = contents.next_sequence
        self.damage = contents.damage
        self.dropped_bytes = contents.total_bytes - contents.valid_bytes
        if contents.damage and contents.next_sequence != last.first_sequence:
            self._open_segment(contents.next_sequence)
            return
        self._descriptor = os.open(last.path, os.O_WRONLY | os.O_CLOEXEC)
        self._cut(contents.valid_bytes)
        self._offset = contents.valid_bytes

    def _open_segment(self, first_sequence: int) -> None:
        path = segment_path(self._directory, self._issuer, first_sequence)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name has to survive a power cut as well as the content
        finally:
            os.close(directory)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._offset = descriptor, 0

    def _write_groups(self) -> None:
        """The thread: takes everything that waits, makes it durable with one flush, tells who waited."""
        closing = False
        while not closing:
            group: list[_Append] = []
            records = 0
            request = self._queue.get()
            while True:
                if request is None:
                    closing = True
                    break
                group.append(request)
                records += len(request.payloads)
                if records >= MAX_GROUP_RECORDS:
                    break
                try:
                    request = self._queue.get_nowait()
                except queue.Empty:
                    break
            if group:
                try:
                    outcome = self._write_group(group)
                except Exception as error:  # whoever waits must be told, whatever happened to this thread
                    outcome = self._broken = Bug(f"ledger journal {self._directory}: {error!r}")
                with self._waiting_lock:
                    self._waiting -= records
                _tell(group, outcome)

    def _write_group(self, group: Iterable[_Append]) -> list[list[int]] | GatehouseError:
        if self._broken is not None:
            return self._broken
        try:
            if self._offset >= self._segment_bytes:
                self._open_segment(self._next_sequence)
            sequence = self._next_sequence
            frames = [marker(self._offset, sequence, self._clock.unix())]
            numbers = []
            for request in group:
                numbers.append(list(range(sequence, sequence + len(request.payloads))))
                frames += [frame(sequence + i, payload) for i, payload in enumerate(request.payloads)]
                sequence += len(request.payloads)
            data = b"".join(frames)
            _write_at(self._descriptor, data, self._offset)
            os.fdatasync(self._descriptor)
        except OSError as error:
            return self._failed(error)
        # A crash before this line leaves whole records that nobody was told about; that is allowed.
        self._offset += len(data)
        self._next_sequence = sequence
        return numbers

    def _failed(self, error: OSError) -> GatehouseError:
        """Takes back what part of a group may have been written, or refuses to go on if that fails too."""
        try:
            self._cut(self._offset)
        except OSError as second:
            self._broken = Unavailable(
                f"ledger journal {self._directory}: a write failed ({error.strerror}) and couldn't be taken "
                f"back ({second.strerror})",
                hint="nothing is issued until this process is started again; look at the disk",
            )
            return self._broken
        return _storage_error(f"ledger journal {self._directory}: can't be written", error)

    def _cut(self, length: int) -> None:
        os.ftruncate(self._descriptor, length)
        os.fsync(self._descriptor)


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _tell(group: list[_Append], outcome: list[list[int]] | GatehouseError) -> None:
    """Hands the outcome to the event loops; one that is closed has nobody left who waits.

    A loop is woken once a group: each wake is a system call there and here.
    """
    settled: dict[asyncio.AbstractEventLoop, list[tuple[_Append, list[int] | GatehouseError]]] = {}
    for index, request in enumerate(group):
        result = outcome if isinstance(outcome, GatehouseError) else outcome[index]
        settled.setdefault(request.loop, []).append((request, result))
    for loop, results in settled.items():
        try:
            loop.call_soon_threadsafe(_settle, results)
        except RuntimeError:
            continue


def _settle(results: list[tuple[_Append, list[int] | GatehouseError]]) -> None:
    for request, result in results:
        if request.done.done():
            continue  # the caller was cancelled
        if isinstance(result, GatehouseError):
            request.done.set_exception(result)
        else:
            request.done.set_result(result)


def _storage_error(message: str, error: OSError) -> GatehouseError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(
            f"{message}: {error.strerror}",
            hint="free space; nothing is issued that can't be recorded, and issuing goes on by itself",
        )
    return Unavailable(f"{message}: {error.strerror}")
