"""The ledger journal of one issuer: records are durable when `append` returns, or `append` raises.

One thread writes, one group at a time. While it flushes a group to the disk, the next one gathers, so that
the cost of a flush is shared by whoever waits (group commit); who comes in the same turns of the event loop
goes together. A group that can't be written whole (disk full) is cut off again and refused; no sequence
number is lost, and issuing works again when there is space. When even that fails, the journal refuses
everything until it is opened anew, which sorts the file out (`journal_file`).

Groups are written over zeros that were flushed before: a flush then has the data to write and nothing about
the file, which costs the file system half as much and the disk one write instead of several.

One process a journal: a lock file sees to it. Reading is done in `journal_reader`, beside a writer.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
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
ROOM_BYTES: Final = 1 << 18  # of zeros at a time: some 300 certificates
_ZEROS: Final = bytes(1 << 16)
MAX_GROUP_RECORDS: Final = 4096
MAX_WAITING_RECORDS: Final = 65_536  # about 30 MiB; more means a disk that doesn't keep up
# A flush costs as much CPU as a certificate, and a hand-over between threads that both want the interpreter
# costs more than a few turns of the event loop.
MAX_GATHERING_TURNS: Final = 8

_log = get_logger("ledger")


@dataclass(slots=True, eq=False)
class _Append:
    payloads: list[bytes]
    done: "asyncio.Future[list[int]]"


@dataclass(slots=True, eq=False)
class _Group:
    """Appends that become durable together, the numbers of their records, and the frames of all of them."""

    appends: list[_Append]
    numbers: list[list[int]]
    next_sequence: int
    frames: bytes


class Journal:
    """Appends records for one issuer. `start` before use, `close` after, all on one event loop."""

    def __init__(
        self, directory: Path, issuer_index: int, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._directory = directory
        self._issuer = issuer_index
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._gathered: deque[_Append] = deque()
        self._waiting_records = 0  # gathered, or with the thread
        self._busy = False  # a group is with the thread, or is about to be
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._lock_descriptor = -1
        self._descriptor = -1
        self._offset = 0  # everything before it is durable
        self._room_end = 0  # from the offset to here the file holds zeros
        self._next_sequence = 1
        self._broken: GatehouseError | None = None
        self.damage: list[Damage] = []
        self.dropped_bytes = 0  # of the torn tail that the last start found
        self.observe: Callable[[Sequence[Record], float], None] | None = None  # durable records, seconds

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
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._write_groups, args=(loop,), name="ledger-journal", daemon=True
        )
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
        if self._waiting_records + len(records) > MAX_WAITING_RECORDS:
            raise ResourceExhausted(
                f"ledger journal {self._directory}: {self._waiting_records} records wait for the disk",
                hint="the disk is too slow for the rate of issuing",
            )
        request = _Append([record.encode() for record in records], asyncio.get_running_loop().create_future())
        self._waiting_records += len(records)
        self._gathered.append(request)
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._gather(0, MAX_GATHERING_TURNS)
        if self.observe is None:
            return await request.done
        begun = self._clock.monotonic()
        numbers = await request.done
        self.observe(records, self._clock.monotonic() - begun)
        return numbers

    async def close(self) -> None:
        """Writes what waits, then releases the file. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        await self._idle.wait()
        self._groups.put(None)
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
        self._offset = self._room_end = contents.valid_bytes

    def _open_segment(self, first_sequence: int) -> None:
        path = segment_path(self._directory, self._issuer, first_sequence)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name has to survive a power cut as well as the content
        finally:
            os.close(directory)
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._cut(self._offset)
            os.close(self._descriptor)
        self._descriptor, self._offset, self._room_end = descriptor, 0, 0

    def _gather(self, seen: int, turns: int) -> None:
        """Hands a group to the thread once a turn of the event loop has brought nobody new."""
        if len(self._gathered) > seen and turns:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._gather, len(self._gathered), turns - 1)
            return
        # Framed here: the thread would only take the interpreter away from this one, and wait to get it.
        appends: list[_Append] = []
        numbers: list[list[int]] = []
        frames: list[bytes] = []
        first = sequence = self._next_sequence  # which changes only with a group, and none is on its way
        while self._gathered and sequence - first < MAX_GROUP_RECORDS:
            request = self._gathered.popleft()
            appends.append(request)
            numbers.append(list(range(sequence, sequence + len(request.payloads))))
            frames += map(frame, numbers[-1], request.payloads)
            sequence += len(request.payloads)
        self._groups.put(_Group(appends, numbers, sequence, b"".join(frames)))

    def _settle(self, group: _Group, error: GatehouseError | None) -> None:
        """Tells those who waited for a group, on the event loop; the next group gathers after their turn."""
        for request, numbers in zip(group.appends, group.numbers, strict=True):
            self._waiting_records -= len(request.payloads)
            if request.done.done():
                continue  # the caller was cancelled
            if error is not None:
                request.done.set_exception(error)
            else:
                request.done.set_result(numbers)
        if self._gathered:
            self._gather(0, MAX_GATHERING_TURNS)
        else:
            self._busy = False
            self._idle.set()

    def _write_groups(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread: makes each group durable with one flush and hands the outcome back to the loop."""
        while (group := self._groups.get()) is not None:
            try:
                failed = self._write_group(group)
            except Exception as error:  # whoever waits must be told, whatever happened to this thread
                failed = self._broken = Bug(f"ledger journal {self._directory}: {error!r}")
            try:
                loop.call_soon_threadsafe(self._settle, group, failed)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
        if self._broken is None:
            with contextlib.suppress(OSError):  # the next start takes the zeros away as well
                self._cut(self._offset)

    def _write_group(self, group: _Group) -> GatehouseError | None:
        if self._broken is not None:
            return self._broken
        try:
            if self._offset >= self._segment_bytes:
                self._open_segment(self._next_sequence)
            data = marker(self._offset, self._next_sequence, self._clock.unix()) + group.frames
            if self._offset + len(data) > self._room_end:
                self._make_room(self._offset + len(data) + ROOM_BYTES)
            _write_at(self._descriptor, data, self._offset)
            os.fdatasync(self._descriptor)
        except OSError as error:
            return self._failed(error)
        # A crash before this line leaves whole records that nobody was told about; that is allowed.
        self._offset += len(data)
        self._room_end = max(self._room_end, self._offset)  # it lies behind where there was no space for room
        self._next_sequence = group.next_sequence
        return None

    def _make_room(self, end: int) -> None:
        """Fills the file with zeros to `end`. A crash leaves zeros at its end, which readers know for what
        they are. Where the disk hasn't the space, records are written without."""
        try:
            for start in range(self._room_end, end, len(_ZEROS)):
                _write_at(self._descriptor, _ZEROS[: end - start], start)
            os.fdatasync(self._descriptor)
        except OSError:
            self._cut(self._offset)
        else:
            self._room_end = end

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
        self._room_end = length


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _storage_error(message: str, error: OSError) -> GatehouseError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(
            f"{message}: {error.strerror}",
            hint="free space; nothing is issued that can't be recorded, and issuing goes on by itself",
        )
    return Unavailable(f"{message}: {error.strerror}")
