"""The life of a policy: who may take which step, what a crash after each write leaves, and coming back."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from typing import Any

import pytest

from control_plane.core.errors import Corrupt, FailedPrecondition, PermissionDenied
from control_plane.core.signature import POLICY_BUNDLE, is_signed_by
from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.denials import AgentCounts, Counts, DenialRule
from control_plane.rollout.steps import Applied
from control_plane.rollout.version import PolicySource

ONE = PolicySource.of({"a.rego": "package one", "a_test.rego": "package one_test"}, "mesh: {}")
TWO = PolicySource.of({"a.rego": "package two"}, "mesh: {}")
BAD = PolicySource.of({"a.rego": "package refuse"}, "mesh: {}")


async def settled(rollouts: Any, number: int) -> Any:
    _, life = await rollouts.settled(number, 10)
    return life


async def approved(rollouts: Any, source: PolicySource) -> int:
    version, _ = await rollouts.push(source, author="ada", reason="because")
    number: int = version.version.number
    assert (await settled(rollouts, number)).state in ("proved", "recorded")
    await rollouts.plan(number, by="ada")
    await rollouts.approve(number, by="grace", reason="fine")
    return number


async def in_force(rollouts: Any, source: PolicySource, percent: int = 100) -> int:
    number = await approved(rollouts, source)
    await rollouts.apply(number, percent=percent, by="olga", reason="go")
    return number


def test_a_whole_life_and_what_agents_get(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        number = await in_force(rollouts, ONE)
        _, life = await store.version(number)
        assert [step.kind for step in life.steps] == [
            "evaluated", "compiled", "proved", "planned", "approved", "applied", "recorded"
        ]  # fmt: skip
        pushed = await store.pushed()
        [key] = pushed.keys
        bundle = pushed.bundles[1]
        assert is_signed_by(key.public_key, bundle.signature, POLICY_BUNDLE + bundle.payload)
        [record] = world.ledger.records
        assert record["action"] == "policy.in-force" and record["by"] == "olga"
        assert hashlib.sha256(bundle.payload).hexdigest() in record["detail"]

    asyncio.run(world.life(work))


def test_the_author_never_approves_and_the_refused_never_can_be(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        version, _ = await rollouts.push(ONE, author="ada", reason="because")
        number = version.version.number
        await settled(rollouts, number)
        with pytest.raises(FailedPrecondition, match="is proved, so it can't become approved"):
            await rollouts.approve(number, by="grace", reason="fine")
        await rollouts.plan(number, by="ada")
        with pytest.raises(PermissionDenied, match="nobody approves their own"):
            await rollouts.approve(number, by="ada", reason="fine")
        with pytest.raises(FailedPrecondition, match="planned, so it can't become applied"):
            await rollouts.apply(number, percent=100, by="olga", reason="go")
        refused, _ = await rollouts.push(BAD, author="ada", reason="because")
        number = refused.version.number
        assert (await settled(rollouts, number)).state == "refused"
        for attempt in (
            rollouts.plan(number, by="ada"),
            rollouts.approve(number, by="grace", reason="fine"),
            rollouts.apply(number, percent=100, by="olga", reason="go"),
            rollouts.rollback(number, by="olga", reason="go"),
        ):
            with pytest.raises(FailedPrecondition):
                await attempt
        assert (await store.in_force()).sequence == 0

    asyncio.run(world.life(work))


def test_an_approval_lapses_when_something_else_comes_into_force(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        number = await approved(rollouts, ONE)
        await in_force(rollouts, TWO)
        with pytest.raises(FailedPrecondition, match="its plan compares with assignment 0, in force is 1"):
            await rollouts.apply(number, percent=100, by="olga", reason="go")
        await rollouts.plan(number, by="ada")
        with pytest.raises(FailedPrecondition, match="can't become applied"):
            await rollouts.apply(number, percent=100, by="olga", reason="go")
        await rollouts.approve(number, by="grace", reason="still fine")
        await rollouts.apply(number, percent=100, by="olga", reason="go")
        assert (await store.in_force()).full.version == number

    asyncio.run(world.life(work))


def test_rollback_brings_back_the_same_version_with_a_higher_sequence(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        first, second = await in_force(rollouts, ONE), await in_force(rollouts, TWO)
        await rollouts.rollback(first, by="olga", reason="it broke")
        now = await store.in_force()
        assert (now.full.version, now.full.sequence, now.canary) == (first, 3, None)
        assert now.full.cause == "rollback"
        again = await rollouts.rollback(first, by="olga", reason="it broke")
        assert (await store.in_force()).sequence == 3 and again.state == "recorded", "asked twice, done once"
        await rollouts.rollback(second, by="olga", reason="it didn't")
        assert (await store.in_force()).full.version == second

    asyncio.run(world.life(work))


def agent(name: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org/spire/agent/x/{name}")


def test_a_canary_grows_or_goes(world: Any) -> None:
    class Feed:
        async def reports(self, sequence: int) -> tuple[list[AgentCounts], int]:
            return [
                AgentCounts(agent("a"), True, Counts(200, 40)),
                AgentCounts(agent("b"), False, Counts(1000, 10)),
            ], 1

    async def work(rollouts: Any, store: Any) -> None:
        first = await in_force(rollouts, ONE)
        second = await in_force(rollouts, TWO, percent=10)
        now = await store.in_force()
        assert (now.full.version, now.canary.version, now.canary.percent) == (first, second, 10)
        for percent in (10, 50):
            await rollouts.apply(second, percent=percent, by="olga", reason="more")
        with pytest.raises(FailedPrecondition, match="not shrink"):
            await rollouts.apply(second, percent=20, by="olga", reason="less")
        assert (await store.in_force()).canary.sequence == 3, "10 % again changed nothing"
        verdict = await rollouts.judge_canary(Feed(), DenialRule())
        assert verdict.rolls_back and "20.0 %" in verdict.reason
        now = await store.in_force()
        assert (now.full.version, now.full.cause, now.canary) == (first, "denials", None)
        assert await rollouts.judge_canary(Feed(), DenialRule()) is None, "none runs any more"

    asyncio.run(world.life(work))


def test_what_was_only_a_canary_needs_the_whole_procedure_again(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        first = await in_force(rollouts, ONE)
        second = await in_force(rollouts, TWO, percent=10)
        await rollouts.rollback(None, by="olga", reason="odd")
        with pytest.raises(FailedPrecondition, match="never was in force for all"):
            await rollouts.rollback(second, by="olga", reason="again")
        with pytest.raises(FailedPrecondition, match="was applied before"):
            await rollouts.apply(second, percent=100, by="olga", reason="again")
        assert await approved(rollouts, TWO) == second
        await rollouts.apply(second, percent=100, by="olga", reason="again")
        await rollouts.plan(first, by="ada")
        with pytest.raises(FailedPrecondition, match="so it stays"):
            await rollouts.close(first, by="grace", reason="no", how="rejected")
        await rollouts.rollback(first, by="olga", reason="in a hurry, planned or not")
        assert (await store.in_force()).full.version == first

    asyncio.run(world.life(work))


def test_the_same_content_is_the_same_version_while_it_lives(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        first, _ = await rollouts.push(ONE, author="ada", reason="because")
        again, _ = await rollouts.push(ONE, author="eve", reason="mine")
        assert again == first
        await settled(rollouts, 1)
        await rollouts.close(1, by="grace", reason="no", how="rejected")
        third, _ = await rollouts.push(ONE, author="eve", reason="mine")
        assert third.version.number == 2
        await settled(rollouts, 2)

    asyncio.run(world.life(work))


def test_a_changed_database_is_noticed_before_it_is_signed(world: Any) -> None:
    async def prepare(rollouts: Any, store: Any) -> None:
        await approved(rollouts, ONE)

    async def apply(rollouts: Any, store: Any) -> None:
        with pytest.raises(Corrupt):
            await rollouts.apply(1, percent=100, by="olga", reason="go")
        assert (await store.in_force()).sequence == 0

    asyncio.run(world.life(prepare))
    for statement in (
        "UPDATE policy_versions SET author = 'mallory'",
        f"UPDATE policy_versions SET author = 'ada', content = x'{TWO.pack().hex()}'",
    ):
        database = sqlite3.connect(world.path)
        database.execute(statement)
        database.commit()
        database.close()
        asyncio.run(world.life(apply))


def test_keys_change_without_a_gap(world: Any) -> None:
    async def work(rollouts: Any, store: Any) -> None:
        await in_force(rollouts, ONE)
        old = (await store.pushed()).keys[0].key_id
        new = await rollouts.rotate_key()
        pushed = await store.pushed()
        assert [key.key_id for key in pushed.keys].count(old) == 1 and pushed.bundles[1].key_id == old
        await in_force(rollouts, TWO)
        pushed = await store.pushed()
        assert [key.key_id for key in pushed.keys] == [new] and pushed.bundles[2].key_id == new
        await rollouts.rollback(1, by="olga", reason="signed by the old key, still ours")

    asyncio.run(world.life(work))


def test_killed_before_and_after_each_write_it_resumes_to_the_same_end(new_world: Any) -> None:
    """Every write of the whole life, enumerated: who asks again after the restart gets to the same end."""

    async def everything(rollouts: Any, store: Any) -> None:
        for source, percent in ((ONE, 100), (TWO, 10), (TWO, 100)):
            version, _ = await rollouts.push(source, author="ada", reason="because")
            number = version.version.number
            life = await settled(rollouts, number)
            assert life.state not in ("submitted", "evaluated", "compiled")
            if life.state in ("proved", "planned", "approved"):
                await rollouts.plan(number, by="ada")
                await rollouts.approve(number, by="grace", reason="fine")
            if any(isinstance(step, Applied) and step.percent == percent for step in life.steps):
                continue  # that much was done in the life before
            await rollouts.apply(number, percent=percent, by="olga", reason="go")
        await rollouts.rollback(1, by="olga", reason="back")

    async def compare(store: Any) -> dict[str, Any]:
        return {
            "lives": [
                (version.version.number, [step.kind for step in life.steps])
                for version, life in await store.versions(0, 10)
            ],
            "assignments": [
                (one.sequence, one.version, one.percent, str(one.cause))
                for one in await store.assignments(0, 10)
            ],
            "pushed": sorted((await store.pushed()).bundles),
        }

    def run(die_at: int | None, *, after: bool) -> tuple[Any, dict[str, Any]]:
        world = new_world()
        seen: dict[str, Any] = {}

        async def to_the_end(rollouts: Any, store: Any) -> None:
            await everything(rollouts, store)
            seen.update(await compare(store))

        lived = asyncio.run(world.life(to_the_end, die_at=die_at, after=after))
        if die_at is None:
            return world, seen
        if lived:
            # It died in the task that compiles, where nobody waits for it any more: the next life goes on.
            assert seen
        else:
            assert asyncio.run(world.life(to_the_end)), (die_at, after)
        return world, seen

    undisturbed, expected = run(None, after=False)
    assert expected["assignments"][0] == (4, 1, 100, "rollback")
    for die_at in range(1, undisturbed.writes + 1):
        for after in (False, True):
            world, seen = run(die_at, after=after)
            assert seen == expected, (die_at, after)
            in_ledger = {record["detail"].split('"sequence": ')[1][0] for record in world.ledger.records}
            assert in_ledger == {"1", "2", "3", "4"}, (die_at, after)


def test_what_a_killed_apply_left_is_recorded_by_the_next_life_alone(world: Any) -> None:
    async def apply(rollouts: Any, store: Any) -> None:
        await in_force(rollouts, ONE)

    async def nothing(rollouts: Any, store: Any) -> None:
        for _ in range(200):
            _, life = await store.version(1)
            if life.state == "recorded":
                return
            assert isinstance(life.steps[-1], Applied)
            await asyncio.sleep(0.01)
        raise AssertionError("it was never recorded")

    # key, version, three steps, plan, approval, assignment
    assert not asyncio.run(world.life(apply, die_at=8, after=True))
    assert not world.ledger.records
    asyncio.run(world.life(nothing))
    assert len(world.ledger.records) == 1


def test_what_nobody_foresaw_ends_the_process_and_what_is_corrupt_does_not(world: Any) -> None:
    class Broken:
        async def compile(self, source: Any) -> Any:
            raise ZeroDivisionError
            yield

    async def push(rollouts: Any, store: Any) -> None:
        rollouts._compiler = Broken()
        stop = asyncio.Event()
        running = asyncio.create_task(rollouts.run(stop))
        await rollouts.push(ONE, author="ada", reason="because")
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(10):
                await running

    async def wait(rollouts: Any, store: Any) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(rollouts.run(stop))
        _, life = await rollouts.settled(1, 1)
        assert life.state == "submitted" and not running.done()
        stop.set()
        await running

    asyncio.run(world.life(push))
    database = sqlite3.connect(world.path)
    database.execute("UPDATE policy_versions SET author = 'mallory'")
    database.commit()
    database.close()
    asyncio.run(world.life(wait))
