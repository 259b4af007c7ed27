"""Token buckets: waiting inside the call, refusing what can't be, forgetting what is idle."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.api import limits
from control_plane.api.limits import Limiter
from control_plane.core.errors import ResourceExhausted
from control_plane.runtime.clock import FakeClock
from control_plane.runtime.transport import Call, Peer


def call(peer: Peer, deadline: float | None = None) -> Call:
    return Call(peer, "/x/Y", {}, deadline, lambda: 0.0)


def test_a_burst_then_a_steady_rate() -> None:
    clock = FakeClock()
    limiter = Limiter("things", 10, 5, clock.monotonic)
    assert [limiter.reserve("a", 1, None) for _ in range(5)] == [0] * 5
    assert limiter.reserve("a", 1, None) == pytest.approx(0.1)
    assert limiter.reserve("a", 4, None) == pytest.approx(0.5)
    assert limiter.reserve("b", 5, None) == 0
    clock.advance(1)
    assert limiter.reserve("a", 1, None) == 0


def test_what_cannot_be_is_refused_and_costs_nothing() -> None:
    limiter = Limiter("things", 10, 5, FakeClock().monotonic)
    with pytest.raises(ResourceExhausted, match="at most 5"):
        limiter.reserve("a", 6, None)
    limiter.reserve("a", 5, None)
    with pytest.raises(ResourceExhausted):
        limiter.reserve("a", 5, 0.4)
    assert limiter.reserve("a", 5, 0.6) == pytest.approx(0.5)


def test_local_callers_and_rate_zero_are_free() -> None:
    async def scenario() -> None:
        limiter = Limiter("things", 0.001, 1, FakeClock().monotonic)
        for _ in range(10):
            await limiter.take(call(Peer("unix", "unix:1")))
        off = Limiter("things", 0, 1, FakeClock().monotonic)
        await off.take(call(Peer("tls", "10.0.0.1:1")), 1000)
        remote = Peer("tls", "10.0.0.1:5000"), Peer("tls", "10.0.0.1:6000")
        await limiter.take(call(remote[0]))
        with pytest.raises(ResourceExhausted):
            await limiter.take(call(remote[1]))  # another port is the same address

    asyncio.run(scenario())


def test_many_addresses_cost_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BUCKETS", 100)
    limiter = Limiter("things", 0.001, 2, FakeClock().monotonic)
    for number in range(1000):
        limiter.reserve(str(number), 1, None)
    assert len(limiter._buckets) <= 100


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), max_size=40))
def test_never_more_than_burst_and_rate_allow(history: list[tuple[float, int]]) -> None:
    clock = FakeClock()
    limiter = Limiter("things", 2, 5, clock.monotonic)
    granted: list[tuple[float, int]] = []
    for pause, cost in history:
        clock.advance(pause)
        granted.append((clock.monotonic() + limiter.reserve("a", cost, None), cost))
    for start, _ in granted:
        for end in (at for at, _ in granted if at >= start):
            spent = sum(cost for at, cost in granted if start <= at <= end)
            assert spent <= 5 + 5 + 2 * (end - start) + 1e-6
