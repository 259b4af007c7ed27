"""Batches: the last value counts, and a failed write loses nothing that is still wanted."""

from __future__ import annotations

import asyncio

import pytest

from control_plane.core.errors import Unavailable
from control_plane.runtime import batches as module
from control_plane.runtime.batches import Batches


class Disk:
    """Takes batches, while it isn't full; `free` lets a write end."""

    def __init__(self) -> None:
        self.written: list[dict[str, int]] = []
        self.arrived = asyncio.Event()
        self.full = False
        self.free = asyncio.Event()
        self.free.set()

    async def write(self, batch: dict[str, int]) -> None:
        await self.free.wait()
        if self.full:
            raise Unavailable("storing: the disk is full")
        self.written.append(batch)
        self.arrived.set()


def test_what_a_failed_write_held_is_written_again_but_for_what_is_newer_or_dropped() -> None:
    async def scenario() -> None:
        disk = Disk()
        batches = Batches("things", disk.write)
        for key, value in (("a", 1), ("a", 2), ("b", 1), ("c", 1)):
            batches.put(key, value)
        disk.full = True
        disk.free.clear()
        writing = asyncio.create_task(batches.flush())
        await asyncio.sleep(0)
        batches.put("b", 2)  # while the write is on its way
        batches.drop("c")
        disk.free.set()
        with pytest.raises(Unavailable):
            await writing
        disk.full = False
        await batches.flush()
        await batches.flush()
        assert disk.written == [{"a": 2, "b": 2}]

    asyncio.run(scenario())


def test_it_writes_until_it_is_stopped_and_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.01)

    async def scenario() -> None:
        disk, stop = Disk(), asyncio.Event()
        disk.full = True
        batches = Batches("things", disk.write)
        batches.put("a", 1)
        service = asyncio.create_task(batches.run(stop))
        await asyncio.sleep(0.05)  # failures end nothing
        disk.full = False
        await asyncio.wait_for(disk.arrived.wait(), 20)
        monkeypatch.setattr(module, "EVERY_SECONDS", 1000)
        await asyncio.sleep(0.05)
        batches.put("b", 1)
        stop.set()
        await service
        assert disk.written == [{"a": 1}, {"b": 1}]

    asyncio.run(scenario())
