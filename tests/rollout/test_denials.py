"""When a canary has to go, and what one agent alone can't bring about."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import InvalidInput, Unavailable
from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.assignment import Assignment, Cause, InForce, SignedBundle
from control_plane.rollout.denials import AgentCounts, Counts, DenialRule, judge
from control_plane.rollout.push import Pushed, PushedPolicies
from control_plane.rollout.reports import DecisionReports, Report, Wanted, wanted

PAY, WEB = (SpiffeId.parse(f"spiffe://example.org/{name}") for name in ("pay", "web"))


def agent(name: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org/spire/agent/x/{name}")


def canary(name: str, requests: int, denied: int, before: tuple[int, int] = (0, 0)) -> AgentCounts:
    return AgentCounts(agent(name), True, Counts(requests, denied), Counts(*before), PAY)


def other(name: str, requests: int, denied: int) -> AgentCounts:
    return AgentCounts(agent(name), False, Counts(requests, denied))


@pytest.mark.parametrize(
    ("reports", "agents", "goes", "says"),
    [
        ([canary("a", 99, 99), other("x", 1000, 0)], 1, False, "99 requests so far, 100 are needed"),
        ([canary("a", 100, 5), other("x", 1000, 0)], 1, True, "5.0 % of 100 requests denied, 0.0 %"),
        ([canary("a", 100, 4), other("x", 1000, 0)], 1, False, "4.0 % of 100"),
        ([canary("a", 100, 30), other("x", 1000, 280)], 1, False, "28.0 % elsewhere"),  # all are attacked
        ([canary("a", 100, 5)], 1, True, "0.0 % elsewhere or before"),
        ([canary("a", 100, 12, (500, 50))], 1, False, "10.0 % elsewhere or before"),  # no worse than before
        ([canary("a", 100, 16, (500, 50))], 1, True, "most for spiffe://example.org/pay"),
        ([], 3, False, "0 requests so far"),
        # One of several agents: it may have the only workload that is hit, or lie.
        ([canary("a", 1000, 900), canary("b", 1000, 0)], 2, False, "on 1 of 2 agents, 2 are needed"),
        ([canary("a", 1000, 900)], 5, False, "on 1 of 5 agents, 2 are needed"),
        ([canary("a", 1000, 900), canary("b", 20, 10)], 5, True, "on 2 of 5 agents"),
        ([canary("a", 1000, 900), canary("b", 9, 9)], 5, False, "on 1 of 5 agents"),  # nine say nothing
        # A liar among the others doesn't hide a rise.
        ([canary("a", 100, 20), other("x", 50, 0), other("y", 50, 1), other("z", 9**9, 9**9)], 1, True, "2."),
    ],
)
def test_when_denials_end_a_canary(reports: list[AgentCounts], agents: int, goes: bool, says: str) -> None:
    verdict = judge(reports, agents, DenialRule())
    assert (verdict.rolls_back, says in verdict.reason) == (goes, True), verdict.reason


@given(st.lists(st.tuples(st.integers(0, 9**9), st.integers(0, 9**9)), min_size=1, max_size=6), st.data())
def test_no_single_agent_ends_the_canary_of_several(honest: list[tuple[int, int]], data: Any) -> None:
    quiet = [canary(f"q{number}", requests, 0) for number, (requests, _) in enumerate(honest)]
    lie = Counts.bounded(data.draw(st.integers(-9, 9**12)), data.draw(st.integers(-9, 9**12)))
    liar = AgentCounts(agent("liar"), True, lie, Counts(), PAY)
    verdict = judge([*quiet, liar, other("x", 100, 0)], len(quiet) + 1, DenialRule())
    assert not verdict.rolls_back


def test_the_rule_may_say_that_one_agent_is_enough() -> None:
    reports = [canary("a", 1000, 900), canary("b", 1000, 0)]
    assert judge(reports, 2, DenialRule(least_agents=1)).rolls_back


@pytest.mark.parametrize("rule", [(0.0, 100, 1), (101.0, 100, 1), (5.0, 0, 1), (5.0, 100, 0)])
def test_a_denial_rule_that_could_never_or_always_hold_is_refused(rule: tuple[float, int, int]) -> None:
    with pytest.raises(InvalidInput):
        DenialRule(*rule)


def assigned(sequence: int, percent: int) -> Assignment:
    return Assignment(
        sequence=sequence, version=sequence, digest=f"sha256:{sequence}", percent=percent, cause=Cause.APPLY,
        by="olga", reason="r", at=1,
    )  # fmt: skip


def pushed(*, share: int) -> PushedPolicies:
    policies = PushedPolicies()
    bundle = SignedBundle(b"", b"", "")
    now = InForce(assigned(1, 100), assigned(2, share) if share else None)
    policies.swap(Pushed((), now, {1: bundle, 2: bundle}))
    return policies


class Store:
    def __init__(self) -> None:
        self.written: list[tuple[int, list[AgentCounts]]] = []
        self.full = False

    async def put_reports(self, canary: int, reports: Any) -> None:
        if self.full:
            raise Unavailable("storing: the disk is full")
        self.written.append((canary, list(reports)))

    async def reports(self, canary: int) -> list[AgentCounts]:
        return []


def drawn(share: int, *, inside: bool) -> SpiffeId:
    """An agent inside or outside of the share."""
    names = (agent(str(number)) for number in range(1000))
    return next(name for name in names if assigned(2, share).covers(name) is inside)


def test_reports_count_for_the_attested_agent_its_own_workloads_and_its_assignment() -> None:
    async def work() -> None:
        store = Store()
        reports = DecisionReports(store, pushed(share=50))
        member, outsider = drawn(50, inside=True), drawn(50, inside=False)
        said = {PAY: Counts(10, 4), WEB: Counts(1000, 1000)}
        assert reports.take(member, Report(2, 2, said, Counts(7, 1)), {PAY})
        assert not reports.take(member, Report(2, 1, said, Counts()), {PAY}), "it has the canary"
        assert not reports.take(outsider, Report(2, 2, said, Counts()), {PAY}), "it doesn't"
        assert not reports.take(member, Report(9, 2, said, Counts()), {PAY}), "no such canary"
        assert reports.take(outsider, Report(2, 1, {PAY: Counts(3, 0)}, Counts()), {PAY, WEB})
        await reports.flush()
        await reports.flush()
        [(canary, written)] = store.written
        assert canary == 2
        assert written == [
            AgentCounts(member, True, Counts(10, 4), Counts(7, 1), PAY),
            AgentCounts(outsider, False, Counts(3, 0), Counts(), None),
        ]

    asyncio.run(work())


def test_a_failed_write_loses_no_report_and_the_next_canary_gets_none_of_it() -> None:
    async def work() -> None:
        store = Store()
        policies = pushed(share=100)
        reports = DecisionReports(store, policies)
        assert reports.take(agent("a"), Report(2, 2, {PAY: Counts(5, 1)}, Counts()), {PAY})
        store.full = True
        with pytest.raises(Unavailable):
            await reports.flush()
        store.full = False
        await reports.flush()
        assert [(canary, [one.agent_id for one in written]) for canary, written in store.written] == [
            (2, [agent("a")])
        ]
        store.full = True
        assert reports.take(agent("a"), Report(2, 2, {PAY: Counts(6, 1)}, Counts()), {PAY})
        with pytest.raises(Unavailable):
            await reports.flush()
        bundle = SignedBundle(b"", b"", "")
        now = InForce(assigned(1, 100), assigned(3, 100))
        policies.swap(Pushed((), now, {1: bundle, 3: bundle}))
        assert reports.take(agent("b"), Report(3, 3, {PAY: Counts(7, 1)}, Counts()), {PAY})
        store.full = False
        await reports.flush()
        canary, written = store.written[-1]
        assert (canary, [one.agent_id for one in written]) == (3, [agent("b")])

    asyncio.run(work())


def test_without_a_canary_nobody_is_asked_and_nothing_taken() -> None:
    policies = pushed(share=0)
    assert wanted(policies.current.in_force, 10) == Wanted()
    reports = DecisionReports(Store(), policies)
    assert not reports.take(agent("a"), Report(2, 2, {}, Counts()), ())
    assert not reports.take(agent("a"), Report(0, 1, {}, Counts()), ())


@pytest.mark.parametrize(("agents", "seconds"), [(1, 2), (1000, 2), (10_000, 20)])
def test_many_agents_report_less_often(agents: int, seconds: int) -> None:
    assert wanted(pushed(share=5).current.in_force, agents) == Wanted(2, seconds)
