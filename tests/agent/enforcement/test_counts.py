"""What Envoys decided, by workload and policy."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.enforcement.counts import MAX_WORKLOADS, Decided, DecisionCounts
from agent.enforcement.ports import Enforcement
from control_plane.core.spiffe_id import SpiffeId

PAY, WEB = (SpiffeId.parse(f"spiffe://agents.test/{name}") for name in ("pay", "web"))


class Source:
    def __init__(self) -> None:
        self.current = Enforcement()

    def put(self, sequence: int, version: int) -> None:
        self.current = Enforcement(sequence=sequence, version=version, settled=True)

    async def changed(self, seen: Any) -> Any:
        await asyncio.Future()


def counting(sequence: int = 1, version: int = 1) -> tuple[Source, DecisionCounts]:
    source = Source()
    source.put(sequence, version)
    return source, DecisionCounts(source)


def test_an_interval_in_which_the_policy_changed_counts_for_neither() -> None:
    source, counts = counting()
    counts.add(1, PAY, Decided(100, 100))  # whoever it was that decided
    counts.add(1, PAY, Decided(10, 1))
    counts.add(2, PAY, Decided(100, 100))
    counts.add(2, PAY, Decided(5, 0))
    assert counts.snapshot().workloads == {PAY: Decided(15, 1)}
    source.put(2, 2)
    assert counts.snapshot().workloads == {}
    counts.add(1, PAY, Decided(100, 100))
    counts.add(1, PAY, Decided(3, 3))
    now = counts.snapshot()
    assert (now.sequence, now.workloads, now.before) == (2, {PAY: Decided(3, 3)}, Decided(15, 1))
    assert counts.total == Decided(318, 304)


def test_what_was_usual_is_that_of_another_version_however_often_this_one_is_assigned() -> None:
    source, counts = counting()
    counts.add(1, PAY, Decided())
    counts.add(1, PAY, Decided(10, 1))
    for sequence, version, before in ((2, 2, (10, 1)), (3, 2, (10, 1)), (4, 1, (12, 12)), (5, 3, (11, 1))):
        source.put(sequence, version)
        counts.add(1, PAY, Decided())
        counts.add(1, PAY, Decided(6, 6) if version == 2 else Decided(1, 0))
        assert counts.snapshot().before == Decided(*before), sequence


def test_a_canary_that_begins_elsewhere_counts_from_zero() -> None:
    _, counts = counting()
    for _ in range(2):
        counts.add(1, PAY, Decided(10, 1))
    counts.restart()
    assert counts.snapshot().workloads == {}
    counts.add(1, PAY, Decided(10, 1))
    counts.add(1, PAY, Decided(2, 1))
    assert counts.snapshot().workloads == {PAY: Decided(2, 1)}


def test_what_can_not_be_is_dropped_and_what_is_kept_is_bounded() -> None:
    _, counts = counting()
    for lie in (Decided(-1, 0), Decided(1, 2), Decided(1, -1), Decided(10**12, 0)):
        counts.add(1, WEB, lie)
        counts.add(1, WEB, lie)
    assert counts.total == Decided()
    for number in range(MAX_WORKLOADS + 10):
        workload = SpiffeId.parse(f"spiffe://agents.test/w{number}")
        for _ in range(2):
            counts.add(1, workload, Decided(1, 0))
    assert len(counts.snapshot().workloads) == MAX_WORKLOADS
