"""What was read is given again until somebody commits, and no read that a commit overtook is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from control_plane.core.errors import InvalidInput
from control_plane.sql import remembered
from control_plane.sql.database import open_engine
from control_plane.sql.remembered import RememberedReads
from control_plane.sql.thread import SqlThread

Scenario = Callable[[SqlThread, RememberedReads], Awaitable[None]]


def run(path: Path, scenario: Scenario) -> None:
    """On a table of one number."""

    async def main() -> None:
        engine = open_engine(path / "x.db")
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE one (number INTEGER)"))
            connection.execute(text("INSERT INTO one VALUES (0)"))
            connection.commit()
        thread = SqlThread(engine, lambda: None)
        thread.start()
        try:
            await scenario(thread, RememberedReads(thread, "SELECT number FROM one"))
        finally:
            await thread.close()

    asyncio.run(main())


class Asked:
    """Reads the number and counts how often it was read."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, connection: Connection) -> int:
        self.times += 1
        return int(connection.execute(text("SELECT number FROM one")).scalar_one())


def put(number: int) -> Callable[[Connection], Any]:
    return lambda connection: connection.execute(text(f"UPDATE one SET number = {number}"))


def test_one_reads_what_one_wrote_and_reads_it_once(tmp_path: Path) -> None:
    async def scenario(thread: SqlThread, reads: RememberedReads) -> None:
        asked = Asked()
        for number in range(1, 6):
            await thread.write("", put(number))
            assert [await reads.read("n", "", asked) for _ in range(10)] == [number] * 10
        assert asked.times <= 10, "twice for each commit at most: the first may be overtaken"

    run(tmp_path, scenario)


def test_a_read_that_a_commit_overtakes_is_not_kept(tmp_path: Path) -> None:
    async def scenario(thread: SqlThread, reads: RememberedReads) -> None:
        asked, begun, go = Asked(), threading.Event(), threading.Event()

        def slow(connection: Connection) -> int:
            found = asked(connection)
            begun.set()
            assert go.wait(30)
            return found

        reading = asyncio.create_task(reads.read("n", "", slow))
        await asyncio.to_thread(begun.wait, 30)
        writing = asyncio.create_task(thread.write("", put(7)))  # it waits for the thread, behind the read
        await asyncio.sleep(0)
        go.set()
        assert await reading == 0
        await writing
        assert await reads.read("n", "", asked) == 7

    run(tmp_path, scenario)


def test_who_asks_at_once_is_answered_by_one_read_and_nobody_by_one_before_a_commit(tmp_path: Path) -> None:
    async def scenario(thread: SqlThread, reads: RememberedReads) -> None:
        asked = Asked()
        await thread.write("", put(1))
        begun, go = threading.Event(), threading.Event()

        def slow(connection: Connection) -> int:
            found = asked(connection)
            begun.set()
            assert go.wait(30)
            return found

        waiting = [asyncio.create_task(reads.read("n", "", slow)) for _ in range(50)]
        await asyncio.to_thread(begun.wait, 30)
        waiting[7].cancel()
        writing = asyncio.create_task(thread.write("", put(2)))
        go.set()
        await writing
        assert await reads.read("n", "", asked) == 2
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [one for one in told if one != 1] == [told[7]], "one gave up, and no other for it"
        assert isinstance(told[7], asyncio.CancelledError)
        assert asked.times == 2

    run(tmp_path, scenario)


def test_all_who_ask_hear_of_a_failure_and_the_next_asks_anew(tmp_path: Path) -> None:
    async def scenario(thread: SqlThread, reads: RememberedReads) -> None:
        def broken(connection: Connection) -> int:
            raise InvalidInput("a test")

        told = await asyncio.gather(*(reads.read("n", "", broken) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in told] == [InvalidInput] * 3
        assert await reads.read("n", "", Asked()) == 0

    run(tmp_path, scenario)


def test_a_commit_of_another_process_is_heard_of(tmp_path: Path) -> None:
    async def scenario(thread: SqlThread, reads: RememberedReads) -> None:
        asked = Asked()
        assert await reads.read("n", "", asked) == 0
        other = open_engine(tmp_path / "x.db")
        with other.connect() as connection:
            put(9)(connection)
            connection.commit()
        async with asyncio.timeout(30):
            while await reads.read("n", "", asked) != 9:  # noqa: ASYNC110 -- what it waits for has no event
                await asyncio.sleep(0.01)

    run(tmp_path, scenario)


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_KEPT", 4)

    async def scenario(thread: SqlThread, reads: RememberedReads) -> None:
        asked = Asked()
        for key in range(100):
            await reads.read(key, "", asked)
        assert len(reads._kept) == 4
        before = asked.times
        for key in range(96, 100):
            await reads.read(key, "", asked)
        assert asked.times == before, "the latest are kept"

    run(tmp_path, scenario)
