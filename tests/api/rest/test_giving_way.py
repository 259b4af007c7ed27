"""Reads give way to changes: few begin in one turn of the event loop, in order, and none is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from control_plane.api.rest.turns import Turns

A_TURN = 4
READS = 100


def run(scenario: Callable[[Turns], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(Turns(A_TURN)), 30)

    asyncio.run(main())


def test_a_change_of_some_turns_waits_for_few_reads_however_many_came() -> None:
    async def scenario(turns: Turns) -> None:
        begun: list[int] = []

        async def read(number: int) -> None:
            await turns.wait()
            begun.append(number)

        reads = [asyncio.create_task(read(number)) for number in range(READS)]
        for _ in range(10):  # as a change does: ledger, database, index
            await asyncio.sleep(0)
        assert A_TURN <= len(begun) <= 11 * A_TURN
        await asyncio.gather(*reads)
        assert begun == list(range(READS)), "in the order in which they came"

    run(scenario)


def test_a_read_in_a_turn_with_room_does_not_wait() -> None:
    async def scenario(turns: Turns) -> None:
        for _ in range(3):
            for _ in range(A_TURN):
                with pytest.raises(StopIteration):  # it ends without having waited
                    turns.wait().send(None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    run(scenario)


def test_a_read_that_is_given_up_keeps_nobody_from_a_turn() -> None:
    async def scenario(turns: Turns) -> None:
        waiting = [asyncio.create_task(turns.wait()) for _ in range(READS)]
        await asyncio.sleep(0)
        given_up = waiting[A_TURN:-1]
        for one in given_up:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(one.cancelled() for one in given_up)
        assert not waiting[-1].cancelled()
        for _ in range(READS):
            await turns.wait()

    run(scenario)
