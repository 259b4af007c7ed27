"""Long answers are made in pieces: what else happens in the process has its turn in between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from control_plane.api.rest import quarantine
from control_plane.api.rest.census import Census, Counting
from control_plane.api.rest.policy_views import written_life
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.agent_record import AgentRecord
from control_plane.rollout.assignment import Assignment, Cause, InForce
from control_plane.rollout.steps import Evaluated, Life, Planned, Shift
from control_plane.rollout.version import PolicyVersion, SignedVersion

AGENTS = 10_000
TURN_SECONDS = 0.05
"""Of the thread's own processor time, so that load hardly counts; ten milliseconds on a quiet machine."""


def longest_turn(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """The most processor time between two turns of somebody else, the best of three; and what came out."""

    async def main() -> tuple[float, Any]:
        longest, done = 0.0, asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            before = time.thread_time()
            while not done.is_set():
                await asyncio.sleep(0)
                now = time.thread_time()
                longest, before = max(longest, now - before), now

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        found = await work()
        done.set()
        await watching
        return longest, found

    return min((asyncio.run(main()) for _ in range(3)), key=lambda one: one[0])


def assignment(percent: int) -> Assignment:
    return Assignment(
        sequence=1, version=1, digest="sha256:00", percent=percent, cause=Cause.APPLY, by="ada", reason="r",
        at=0,
    )  # fmt: skip


def agents(count: int, expires_at: int = 1000) -> dict[SpiffeId, AgentRecord]:
    names = (SpiffeId.parse(f"spiffe://example.org/spire/agent/x/{number}") for number in range(count))
    return {one: AgentRecord(id=one, attestation_type="x", expires_at=expires_at) for one in names}


def test_ten_thousand_agents_are_counted_in_turns() -> None:
    known = agents(AGENTS)
    now = InForce(assignment(100), assignment(30))
    turn, census = longest_turn(lambda: Counting(lambda: known, lambda: 5).of(now))
    assert census == Census(AGENTS, sum(now.of_agent(one) is now.canary for one in known))
    assert 0.25 * AGENTS < census.canary < 0.35 * AGENTS
    assert turn < TURN_SECONDS, f"{turn * 1000:.1f} ms"


def test_a_count_holds_for_a_second_and_for_what_is_in_force() -> None:
    known, clock = agents(3), [5]

    async def main() -> None:
        counting = Counting(lambda: known, lambda: clock[0])
        assert await counting.of(InForce()) == Census(3, 0)
        assert await counting.of(InForce(None, assignment(100))) == Census(3, 3)
        known.update(agents(4))
        assert await counting.of(InForce()) == Census(4, 0), "who comes is counted at once"
        clock[0] = 1000
        both = await asyncio.gather(*(counting.of(InForce()) for _ in range(5)))
        assert both == [Census(0, 0)] * 5, "all certificates have ended"

    asyncio.run(main())


def test_a_life_with_large_plans_is_written_in_turns() -> None:
    shift = Shift(
        direction="gains",
        caller="spiffe://example.org/ns/shop/sa/web",
        workload="spiffe://example.org/ns/shop/sa/pay",
        question="http",
        request="GET https://pay/refunds",
        before=("authz.rego:10",),
        after=("authz.rego:12", "authz.rego:14"),
    )
    plan = Planned(
        at=2, by="login:ada", against=1, against_version=1, gains=500, loses=0, undecided=0,
        shifts=(shift,) * 500,
    )  # fmt: skip
    life = Life(3, (Evaluated(at=1, files=1, tests=2, warnings=()), *[plan] * 20))
    version = PolicyVersion(
        number=3, digest="sha256:aa", content_digest="sha256:bb", author="ada", reason="é", created_at=1
    )
    turn, content = longest_turn(lambda: written_life(SignedVersion(version, b"", "key"), life))
    shown = json.loads(content)
    assert (shown["version"], shown["reason"], shown["state"]) == (3, "é", "planned")
    assert [one["step"] for one in shown["steps"]] == ["evaluated"] + ["planned"] * 20
    assert shown["steps"][1]["digest"] == plan.digest
    assert shown["steps"][1]["shifts"][499]["after"] == ["authz.rego:12", "authz.rego:14"]
    assert turn < TURN_SECONDS, f"{turn * 1000:.1f} ms"


def test_a_page_has_no_more_rows_than_a_turn_allows(rest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "PAGE", 2)

    async def scenario(api: Any) -> None:
        names = [f"spiffe://example.org/n{number}" for number in range(5)]
        for name in reversed(names):
            assert (
                await api.call("POST", "/v1/quarantine", {"spiffe_id": name, "reason": "r"})
            ).status == 200
        found: list[str] = []
        cursor: Any = ""
        for rows in (2, 2, 1):
            page = (await api.call("GET", f"/v1/quarantine?limit=5000&cursor={cursor}")).body
            assert len(page["quarantined"]) == rows
            found += [one["spiffe_id"] for one in page["quarantined"]]
            cursor = page["next_cursor"]
        assert found == names and cursor is None
        await api.call("POST", "/v1/quarantine/release", {"spiffe_id": names[0], "reason": "r"})
        page = (await api.call("GET", "/v1/quarantine?limit=1")).body
        assert page["quarantined"][0]["spiffe_id"] == names[1], "the order is that of the present members"

    rest(scenario)
