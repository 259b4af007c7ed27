"""The ledger journal of one issuer: records are durable when `append` returns, or `append` raises.

One thread writes (`journal_writer`), one group at a time. While it flushes a group to the disk, the next one
gathers, so that the cost of a flush is shared by whoever waits (group commit); who comes in the same turns of
the event loop goes together. A group that can't be written whole is refused whole.

Reading is done in `journal_reader`, beside a writer.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.core.errors import Bug, GatehouseError, ResourceExhausted
from control_plane.identity.journal_file import Damage, frame
from control_plane.identity.journal_writer import SEGMENT_BYTES, JournalWriter
from control_plane.identity.ledger import Record
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

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
        self._writer = JournalWriter(directory, issuer_index, clock.unix, segment_bytes=segment_bytes)
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._gathered: deque[_Append] = deque()
        self._waiting_records = 0  # gathered, or with the thread
        self._busy = False  # a group is with the thread, or is about to be
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self.observe: Callable[[Sequence[Record], float], None] | None = None  # durable records, seconds

    @property
    def damage(self) -> list[Damage]:
        """What the start found that was durable once and can't be read any more."""
        return self._writer.damage

    @property
    def dropped_bytes(self) -> int:
        """Of the torn tail that the start found and cut off."""
        return self._writer.dropped_bytes

    async def start(self) -> None:
        """Opens for writing, as `JournalWriter.open`, whose errors it raises. Damage doesn't stop it."""
        if self._thread is not None:
            raise Bug("journal: started twice")
        await asyncio.get_running_loop().run_in_executor(None, self._writer.open)
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
        self._writer.close()

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
        first = sequence = (
            self._writer.next_sequence
        )  # which changes only with a group, and none is on its way
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
                failed = self._writer.write(group.frames, group.next_sequence)
            except Exception as error:  # whoever waits must be told, whatever happened to this thread
                failed = self._writer.give_up(Bug(f"ledger journal {self._directory}: {error!r}"))
            try:
                loop.call_soon_threadsafe(self._settle, group, failed)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
        self._writer.trim()
