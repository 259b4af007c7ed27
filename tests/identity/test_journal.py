"""The ledger journal: what is durable stays, what is torn goes, what is damaged is named."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import Bug, Corrupt, FailedPrecondition, ResourceExhausted, Unavailable
from control_plane.identity import journal as journal_module
from control_plane.identity.journal import Journal
from control_plane.identity.journal_file import Damage, read_segment, segments
from control_plane.identity.journal_reader import find_record, read_journals, read_newest
from control_plane.identity.journal_writer import ROOM_BYTES
from control_plane.identity.ledger import AuthorityMark
from control_plane.runtime.clock import FakeClock


def mark(number: int, size: int = 10) -> AuthorityMark:
    return AuthorityMark(number, "authority", "mark", "x" * size)


@asynccontextmanager
async def opened(directory: Path, index: int = 0, **options: Any) -> AsyncIterator[Journal]:
    journal = Journal(directory, index, FakeClock(), **options)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(main())


def written(directory: Path, groups: int = 5, size: int = 3, **options: Any) -> list[int]:
    """Writes groups of records, one flush each; gives the file's length after each group."""

    async def main() -> list[int]:
        lengths = []
        async with opened(directory, **options) as journal:
            for group in range(groups):
                await journal.append([mark(group * size + i) for i in range(size)])
                lengths.append(read_segment(segments(directory)[-1]).valid_bytes)
        return lengths

    lengths: list[int] = run(main)
    return lengths


def numbers(directory: Path, **options: Any) -> list[int]:
    return [entry.sequence for entry in read_journals(directory, **options)]


def only_file(directory: Path) -> Path:
    (segment,) = segments(directory)
    return segment.path


def reopened(directory: Path, index: int = 0) -> tuple[int, list[Damage], int]:
    """Opens, appends one record, closes: its sequence, the damage found, the bytes dropped."""

    async def main() -> tuple[int, list[Damage], int]:
        async with opened(directory, index) as journal:
            (sequence,) = await journal.append([mark(999)])
            return sequence, journal.damage, journal.dropped_bytes

    outcome: tuple[int, list[Damage], int] = run(main)
    return outcome


def test_records_come_back_in_order_with_gapless_numbers(tmp_path: Path) -> None:
    written(tmp_path)
    entries = list(read_journals(tmp_path))
    assert [entry.sequence for entry in entries] == list(range(1, 16))
    assert [entry.record for entry in entries] == [mark(i) for i in range(15)]
    assert reopened(tmp_path) == (16, [], 0)


def test_an_empty_journal_and_an_absent_directory(tmp_path: Path) -> None:
    assert numbers(tmp_path / "nothing") == []

    async def main() -> None:
        async with opened(tmp_path / "a" / "b") as journal:
            assert await journal.append([]) == []

    run(main)
    assert numbers(tmp_path / "a" / "b") == []


def test_concurrent_appends_share_flushes_and_keep_their_order(tmp_path: Path, monkeypatch: Any) -> None:
    flushes = 0
    real = os.fdatasync

    def counting(descriptor: int) -> None:
        nonlocal flushes
        flushes += 1
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", counting)

    async def main() -> list[list[int]]:
        async with opened(tmp_path) as journal:
            return await asyncio.gather(*(journal.append([mark(i), mark(i)]) for i in range(200)))

    outcomes = run(main)
    assert sorted(n for numbers in outcomes for n in numbers) == list(range(1, 401))
    assert all(second == first + 1 for first, second in outcomes)
    assert flushes < 200
    assert numbers(tmp_path) == list(range(1, 401))


def test_segments_follow_one_another(tmp_path: Path) -> None:
    written(tmp_path, groups=20, segment_bytes=500)
    files = segments(tmp_path)
    assert len(files) > 3
    assert numbers(tmp_path) == list(range(1, 61))
    assert reopened(tmp_path)[0] == 61
    assert [e.sequence for e in read_newest(tmp_path, 0)] == list(range(61, 0, -1))
    assert [e.sequence for e in read_newest(tmp_path, 0, before=30)] == list(range(29, 0, -1))


def test_one_record_by_its_place(tmp_path: Path) -> None:
    written(tmp_path, groups=20, segment_bytes=500)
    for sequence in (1, 30, 60):
        found = find_record(tmp_path, 0, sequence)
        assert found is not None and found.sequence == sequence
    assert find_record(tmp_path, 0, 61) is None
    assert find_record(tmp_path, 0, 0) is None
    assert find_record(tmp_path, 1, 1) is None


def test_issuers_have_journals_of_their_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, 0) as one, opened(tmp_path, 1) as two:
            assert await one.append([mark(1)]) == [1]
            assert await two.append([mark(2), mark(3)]) == [1, 2]

    run(main)
    assert [entry.id for entry in read_journals(tmp_path)] == ["0-1", "1-1", "1-2"]
    assert [entry.id for entry in read_journals(tmp_path, issuer=1)] == ["1-1", "1-2"]


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path):
            other = Journal(tmp_path, 0, FakeClock())
            with pytest.raises(FailedPrecondition, match="another process"):
                await other.start()

    run(main)
    assert reopened(tmp_path)[0] == 1


def test_a_journal_that_is_not_open_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path, 0, FakeClock())
        with pytest.raises(Bug):
            await journal.append([mark(1)])
        await journal.close()
        async with opened(tmp_path) as journal:
            pass
        with pytest.raises(Bug):
            await journal.append([mark(1)])

    run(main)


def test_a_tail_torn_at_any_byte_is_cut_and_nothing_before_it(tmp_path: Path) -> None:
    lengths = written(tmp_path / "whole", groups=3)
    whole = only_file(tmp_path / "whole").read_bytes()
    for length in range(lengths[1], len(whole)):
        directory = tmp_path / f"torn-{length}"
        directory.mkdir()
        (directory / only_file(tmp_path / "whole").name).write_bytes(whole[:length])
        kept = numbers(directory)
        assert kept == list(range(1, len(kept) + 1)) and 6 <= len(kept) <= 9
        sequence, damage, _ = reopened(directory)
        assert (sequence, damage) == (len(kept) + 1, [])
        assert numbers(directory) == list(range(1, len(kept) + 2))


@pytest.mark.parametrize("tail", [b"\x00" * 5000, b"\xff" * 100, b"\x00" * 3, os.urandom(3000)])
def test_rubbish_after_the_end_is_a_torn_tail(tmp_path: Path, tail: bytes) -> None:
    written(tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() + tail)
    assert reopened(tmp_path) == (16, [], len(tail.rstrip(b"\x00"))), "zeros are room, nothing was lost"
    assert numbers(tmp_path) == list(range(1, 17))


def test_a_last_group_of_which_only_later_pages_were_written_is_a_torn_tail(tmp_path: Path) -> None:
    lengths = written(tmp_path, groups=3)
    path = only_file(tmp_path)
    data = path.read_bytes()
    hole = lengths[1] + 60
    path.write_bytes(data[: lengths[1]] + b"\x00" * 60 + data[hole:])
    sequence, damage, dropped = reopened(tmp_path)
    assert (sequence, damage, dropped) == (7, [], len(data) - lengths[1])


def test_damage_anywhere_before_the_last_group_is_found_and_named(tmp_path: Path) -> None:
    lengths = written(tmp_path / "whole", groups=3)
    whole = only_file(tmp_path / "whole").read_bytes()
    for position in range(0, lengths[1], 7):
        directory = tmp_path / f"damaged-{position}"
        directory.mkdir()
        path = directory / only_file(tmp_path / "whole").name
        path.write_bytes(whole[:position] + bytes((whole[position] ^ 0x40,)) + whole[position + 1 :])
        with pytest.raises(Corrupt) as caught:
            numbers(directory)
        assert str(path) in caught.value.message and "bytes" in caught.value.message
        found: list[Damage] = []
        kept = numbers(directory, on_damage=found.append)
        assert kept[-3:] == [7, 8, 9] and len(kept) >= 6
        assert found and found[0].offset <= position < found[0].end


def test_a_damaged_last_segment_does_not_stop_the_start(tmp_path: Path) -> None:
    lengths = written(tmp_path, groups=3)
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[lengths[0] + 80] ^= 1
    path.write_bytes(data)
    sequence, damage, _ = reopened(tmp_path)
    assert sequence == 10 and len(damage) == 1
    assert path.read_bytes() == bytes(data), "the evidence is left alone"
    assert len(segments(tmp_path)) == 2
    found: list[Damage] = []
    assert numbers(tmp_path, on_damage=found.append)[-1] == 10
    assert len(found) == 1


def test_a_missing_segment_is_noticed(tmp_path: Path) -> None:
    written(tmp_path, groups=20, segment_bytes=500)
    segments(tmp_path)[1].path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        numbers(tmp_path)


def test_a_removed_group_is_noticed(tmp_path: Path) -> None:
    lengths = written(tmp_path, groups=4)
    path = only_file(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: lengths[0]] + data[lengths[1] :])
    with pytest.raises(Corrupt, match="aren't where they were written"):
        numbers(tmp_path)
    sequence, damage, _ = reopened(tmp_path)
    assert len(damage) == 1 and sequence == 13, "no number is given twice"
    assert path.stat().st_size == len(data) - lengths[1] + lengths[0], "nothing was cut off"


def test_content_that_looks_like_a_marker_changes_nothing(tmp_path: Path) -> None:
    from control_plane.identity.journal_file import marker

    async def main() -> None:
        async with opened(tmp_path) as journal:
            for offset in range(0, 400, 50):
                text = marker(offset, 77, 1).decode("latin-1")
                await journal.append([AuthorityMark(1, "a", text, "")])

    run(main)
    assert numbers(tmp_path) == list(range(1, 9))
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    assert reopened(tmp_path)[0] == 8


def disk(monkeypatch: Any, name: str, failing: Callable[[], bool], number: int) -> None:
    real = getattr(os, name)

    def call(*arguments: Any) -> Any:
        if failing():
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
def test_a_full_disk_refuses_and_recovers(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    full = False
    disk(monkeypatch, name, lambda: full, errno.ENOSPC)

    async def main() -> None:
        nonlocal full
        async with opened(tmp_path) as journal:
            assert await journal.append([mark(1)]) == [1]
            full = True
            for _ in range(3):
                with pytest.raises(ResourceExhausted, match="No space"):
                    await journal.append([mark(2), mark(3)])
            full = False
            assert await journal.append([mark(4)]) == [2]

    run(main)
    assert [entry.record for entry in read_journals(tmp_path)] == [mark(1), mark(4)]


def test_a_write_that_ends_half_way_is_taken_back(tmp_path: Path, monkeypatch: Any) -> None:
    real, room = os.pwrite, [10_000]

    def limited(descriptor: int, data: Any, offset: int) -> int:
        if not any(data):
            return real(descriptor, data, offset)
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(descriptor, data[: min(len(data), room[0], 17)], offset)
        room[0] -= count
        return count

    monkeypatch.setattr(os, "pwrite", limited)

    async def main() -> None:
        async with opened(tmp_path) as journal:
            await journal.append([mark(1)])
            room[0] = 100
            with pytest.raises(ResourceExhausted):
                await journal.append([mark(2, 500)])
            room[0] = 10_000
            assert await journal.append([mark(3)]) == [2]

    run(main)
    assert [entry.record for entry in read_journals(tmp_path)] == [mark(1), mark(3)]


def test_a_disk_that_fails_for_good_stops_the_journal_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    broken = False
    disk(monkeypatch, "fdatasync", lambda: broken, errno.EIO)
    disk(monkeypatch, "ftruncate", lambda: broken, errno.EIO)

    async def main() -> None:
        nonlocal broken
        async with opened(tmp_path) as journal:
            await journal.append([mark(1)])
            broken = True
            with pytest.raises(Unavailable):
                await journal.append([mark(2)])
            broken = False
            with pytest.raises(Unavailable, match="started again"):
                await journal.append([mark(3)])

    run(main)
    assert reopened(tmp_path)[0] in (2, 3)
    assert numbers(tmp_path)[0] == 1


def test_a_disk_that_does_not_keep_up_is_felt(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(journal_module, "MAX_WAITING_RECORDS", 10)

    async def main() -> None:
        async with opened(tmp_path) as journal:
            outcomes = await asyncio.gather(
                *(journal.append([mark(i)] * 4) for i in range(4)), return_exceptions=True
            )
            assert sum(isinstance(outcome, ResourceExhausted) for outcome in outcomes) == 2
            assert await journal.append([mark(9)]) == [9]

    run(main)


def test_a_caller_that_goes_away_does_not_disturb_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as journal:
            leaving = asyncio.ensure_future(journal.append([mark(1)]))
            await asyncio.sleep(0)
            leaving.cancel()
            assert await journal.append([mark(2)]) == [2]

    run(main)


WRITER = """
import asyncio, sys
from pathlib import Path
from control_plane.identity.journal import Journal
from control_plane.identity.journal_reader import find_record, read_journals, read_newest
from control_plane.identity.ledger import AuthorityMark
from control_plane.runtime.clock import SystemClock

async def main():
    journal = Journal(Path(sys.argv[1]), 0, SystemClock(), segment_bytes=20_000)
    await journal.start()
    async def worker(name):
        number = 0
        while True:
            number += 1
            sequences = await journal.append([AuthorityMark(number, name, "", "x" * 200)] * 3)
            sys.stdout.write("".join(f"{sequence} " for sequence in sequences) + chr(10))
            sys.stdout.flush()
    await asyncio.gather(*(worker(str(i)) for i in range(4)))

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    chance = random.Random(7)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            seen = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
        finally:
            process.send_signal(signal.SIGKILL)
            rest, _ = process.communicate(timeout=30)
        lines = seen + [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        acknowledged |= {int(number) for line in lines for number in line.split()}
        found = numbers(tmp_path)
        assert found == list(range(1, len(found) + 1))
        assert acknowledged <= set(found)
    assert acknowledged
    assert reopened(tmp_path)[1] == []


def test_reading_beside_a_writer(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as journal:
            for expected in range(1, 20):
                await journal.append([mark(expected)])
                assert numbers(tmp_path) == list(range(1, expected + 1))

    run(main)


def test_the_files_are_private(tmp_path: Path) -> None:
    written(tmp_path / "ledger")
    assert (tmp_path / "ledger").stat().st_mode & 0o077 == 0
    for path in (tmp_path / "ledger").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert read_segment(segments(tmp_path / "ledger")[0]).next_sequence == 16


def test_room_is_made_ahead_and_taken_away_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as journal:
            await journal.append([mark(1)])
            path = only_file(tmp_path)
            before, room = path.stat(), read_segment(segments(tmp_path)[0])
            assert room.total_bytes == room.valid_bytes < ROOM_BYTES <= before.st_size
            await journal.append([mark(2)])
            assert path.stat().st_size == before.st_size, "a flush has nothing to say about the file"
            await journal.append([mark(3, 60_000)] * 20)
            assert path.stat().st_size > before.st_size

    run(main)
    contents = read_segment(segments(tmp_path)[0])
    assert only_file(tmp_path).stat().st_size == contents.valid_bytes
    assert numbers(tmp_path) == list(range(1, 23))


def test_records_go_on_without_room_where_the_disk_has_none_for_it(tmp_path: Path, monkeypatch: Any) -> None:
    real = os.pwrite

    attempts = 0

    def tight(descriptor: int, data: Any, offset: int) -> int:
        nonlocal attempts
        attempts += len(data) > 10_000
        if len(data) > 10_000 and attempts < 3:  # from the third on there is space for room again
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", tight)

    async def main() -> None:
        async with opened(tmp_path) as journal:
            for number in range(1, 6):
                assert await journal.append([mark(number)]) == [number]

    run(main)
    assert numbers(tmp_path) == [1, 2, 3, 4, 5]
