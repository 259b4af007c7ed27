"""Pure rules: shares of agents, what is in force, lives, the denial rule, names and sizes of sources."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import Corrupt, FailedPrecondition, InvalidInput, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.rollout.assignment import Assignment, Cause, InForce
from control_plane.rollout.bundle import MAX_PAYLOAD_BYTES, payload_of
from control_plane.rollout.steps import (
    Approved,
    Compiled,
    Evaluated,
    Life,
    Planned,
    Proved,
    Refused,
    Shift,
    read_step,
    write_step,
)
from control_plane.rollout.version import PolicySource, checked_reason

TD = TrustDomain("example.org")


def assignment(sequence: int, version: int = 1, percent: int = 100) -> Assignment:
    return Assignment(
        sequence=sequence, version=version, digest=f"sha256:{version}", percent=percent, cause=Cause.APPLY,
        by="olga", reason="go", at=1,
    )  # fmt: skip


def agents(count: int) -> list[SpiffeId]:
    return [SpiffeId(TD, f"/spire/agent/join_token/{number}") for number in range(count)]


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_larger_share_holds_the_smaller_one(one: int, other: int) -> None:
    small, large = sorted((one, other))
    for agent in agents(40):
        assert assignment(1, percent=large).covers(agent) or not assignment(1, percent=small).covers(agent)


def test_shares_are_as_large_as_they_say_and_differ_between_versions() -> None:
    everybody = agents(4000)
    for percent in (1, 10, 50, 99, 100):
        covered = sum(assignment(1, percent=percent).covers(agent) for agent in everybody)
        assert abs(covered - 40 * percent) < 130, percent
    shares = [
        {agent for agent in everybody if assignment(1, version, 10).covers(agent)} for version in (1, 2)
    ]
    assert len(shares[0] & shares[1]) < 100, "the same machines must not always be first"


def test_in_force_is_the_last_full_assignment_and_the_canary_after_it() -> None:
    first, canary, grown, full = (
        assignment(1), assignment(2, 2, 10), assignment(3, 2, 50), assignment(4, 2),
    )  # fmt: skip
    assert InForce.of([]) == InForce() and InForce().sequence == 0
    assert InForce.of([grown, canary, first]) == InForce(first, grown)
    assert InForce.of([full, grown, canary, first]) == InForce(full)
    assert InForce.of([canary]) == InForce(None, canary)
    outside = next(agent for agent in agents(100) if not canary.covers(agent))
    assert InForce(None, canary).of_agent(outside) is None


@pytest.mark.parametrize(
    ("now", "version", "percent", "outcome"),
    [
        (InForce(), 1, 100, Cause.APPLY),
        (InForce(assignment(1)), 2, 5, Cause.APPLY),
        (InForce(assignment(1), assignment(2, 2, 5)), 2, 6, Cause.PROMOTE),
        (InForce(assignment(1), assignment(2, 2, 5)), 2, 100, Cause.PROMOTE),
        (InForce(assignment(1), assignment(2, 2, 5)), 2, 5, "already"),
        (InForce(assignment(1), assignment(2, 2, 5)), 3, 100, "a canary of version 2 runs"),
        (InForce(assignment(1)), 1, 50, "in force for all"),
        (InForce(), 1, 0, "expected 1 to 100"),
        (InForce(), 1, 101, "expected 1 to 100"),
    ],
)
def test_what_may_be_applied(now: InForce, version: int, percent: int, outcome: Any) -> None:
    if isinstance(outcome, Cause):
        assert now.cause_of_apply(version, percent) is outcome
        return
    with pytest.raises((FailedPrecondition, InvalidInput), match=outcome):
        now.cause_of_apply(version, percent)


PLAN = Planned(
    at=5, by="ada", against=3, against_version=2, gains=1, loses=0, undecided=0,
    shifts=(Shift(direction="gains", caller="spiffe://example.org/a", workload="shop/web", question="authz",
                  request="request.path = '/'", after=("authz.rego:3",)),),
)  # fmt: skip


def test_steps_read_back_as_they_were_written() -> None:
    for step in (
        PLAN,
        Evaluated(at=1, files=2, tests=3, warnings=("a", "é\n")),
        Refused(at=2, stage="prove", reasons=("x",)),
        Approved(at=3, by="grace", reason="fine", plan_digest=PLAN.digest),
    ):
        assert read_step(write_step(step)) == step
    for text in ("", "{}", '{"kind": "evaluated"}', '{"kind": "owned"}', "[1]", '{"kind": ["x"]}'):
        with pytest.raises(Corrupt):
            read_step(text)


def test_an_approval_is_of_one_plan() -> None:
    life = Life(1)
    for step in (
        Evaluated(at=1, files=1, tests=0),
        Compiled(at=1, target="t", workloads=1, objects=1),
        Proved(at=1, exact=1),
        PLAN,
    ):
        life = life.after(step)
    with pytest.raises(FailedPrecondition, match="another plan"):
        life.after(Approved(at=1, by="grace", reason="fine", plan_digest="0" * 64))
    assert life.after(Approved(at=1, by="grace", reason="f", plan_digest=PLAN.digest)).state == "approved"
    with pytest.raises(FailedPrecondition, match="can't become proved"):
        life.after(Proved(at=1, exact=1))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.rego",
        "a/../b.rego",
        "a\\b.rego",
        "a\x00.rego",
        "",
        "a.txt",
        "data.yaml/",
        "a//b.rego",
    ],
)
def test_names_that_are_not_files_of_a_policy_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        PolicySource.of({name: ""}, "")


def test_sources_survive_packing_and_are_bounded() -> None:
    source = PolicySource.of({"b/data.json": "{}", "a.rego": "package ä"}, "mesh: {}")
    assert PolicySource.unpack(source.pack()) == source
    with pytest.raises(Corrupt):
        PolicySource.unpack(source.pack()[:-1])
    with pytest.raises(ResourceExhausted):
        PolicySource.of({"a.rego": "#" * (17 << 20)}, "")
    # What doesn't compress and would not fit into one message.
    noise = "# " + random.Random(1).randbytes(4 << 20).hex()
    with pytest.raises(ResourceExhausted, match=str(MAX_PAYLOAD_BYTES)):
        payload_of(PolicySource.of({"a.rego": noise}, ""), assignment(1), TD)


def test_a_reason_is_a_line_of_bounded_length() -> None:
    assert checked_reason("  two\n lines ") == "two lines"
    for bad in ("", " \n", "x" * 1001):
        with pytest.raises(InvalidInput):
            checked_reason(bad)
