"""The compiler's child process: what it says, what it costs the event loop, and what ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import ResourceExhausted
from control_plane.core.spiffe_id import TrustDomain
from control_plane.rollout.compiler import ChildCompiler
from control_plane.rollout.compiling import plan_of, steps_of
from control_plane.rollout.steps import Proved, Refused
from control_plane.rollout.version import PolicySource
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.packaged import shipped

ROOT = Path(__file__).resolve().parents[2]
TD = TrustDomain("gatehouse.test")


def starter(**changed: str) -> PolicySource:
    files = {
        name.removeprefix("gatehouse/"): text
        for part in ("starter", "lib")
        for name, text in shipped(part).items()
    }
    inventory = (ROOT / "deploy/demo/inventory.yaml").read_text(encoding="utf-8")
    return PolicySource.of({**files, **changed}, inventory)


def test_the_starter_policy_is_proved_beside_a_free_event_loop() -> None:
    async def scenario() -> None:
        held = 0.0
        working = True

        async def watch() -> None:
            nonlocal held
            clock = asyncio.get_running_loop()
            while working:
                before = clock.time()
                await asyncio.sleep(0.001)
                held = max(held, clock.time() - before)

        watching = asyncio.create_task(watch())
        compiler = ChildCompiler(TD, SystemClock())
        steps = [step async for step in compiler.compile(starter())]
        assert [step.kind for step in steps] == ["evaluated", "compiled", "proved"]
        assert isinstance(steps[-1], Proved) and steps[-1].exact == 3 and steps[-1].at > 0
        plan = await compiler.plan(None, starter())
        assert plan.gains > 5 and plan.loses == 0
        assert (await compiler.plan(starter(), starter())).shifts == ()
        working = False
        await watching
        # On a busy machine the loop waits for its turn; it must never wait for a compilation (seconds).
        assert held < 0.5, held

    asyncio.run(scenario())


def test_the_child_says_what_the_functions_say() -> None:
    async def scenario() -> None:
        compiler = ChildCompiler(TD, SystemClock())
        bad = starter(**{"starter/authz/authz.rego": "package gatehouse.authz\n\nallow if { nope(1) }\n"})
        for source in (bad, starter()):
            said = [step async for step in compiler.compile(source)]
            expected = list(steps_of(source, TD.name))
            assert [step.kind for step in said] == [step.kind for step in expected]
            if isinstance(said[-1], Refused):
                assert said[-1].reasons == expected[-1].reasons  # type: ignore[union-attr]
        assert (await compiler.plan(None, starter())).digest == plan_of(None, starter()).digest

    asyncio.run(scenario())


def test_a_policy_for_another_trust_domain_is_refused() -> None:
    [step] = steps_of(starter(), "example.org")
    assert isinstance(step, Refused) and "gatehouse.test" in step.reasons[0]


def test_a_test_that_fails_is_named_by_its_line() -> None:
    own = "package own_test\n\ntest_no if 1 == 2\n"
    [step] = steps_of(starter(**{"own_test.rego": own}), TD.name)
    assert isinstance(step, Refused)
    assert step.reasons == ("test failed: data.own_test.test_no at own_test.rego:3",)


def test_what_takes_too_long_is_refused_and_leaves_no_process() -> None:
    async def scenario() -> None:
        compiler = ChildCompiler(TD, SystemClock(), wall_seconds=0.05)
        [step] = [step async for step in compiler.compile(starter())]
        assert isinstance(step, Refused) and "not done within 0.05 s" in step.reasons[0]
        with pytest.raises(ResourceExhausted, match="not done"):
            await compiler.plan(None, starter())

    asyncio.run(scenario())


def test_a_child_that_is_killed_refuses_and_a_broken_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(program: str, told: str) -> None:
        compiler = ChildCompiler(TD, SystemClock())
        real = asyncio.create_subprocess_exec

        async def instead(python: str, *_: str, **pipes: Any) -> Any:
            return await real(python, "-c", program, **pipes)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", instead)
        try:
            steps = [step async for step in compiler.compile(starter())]
        finally:
            monkeypatch.undo()
        assert isinstance(steps[-1], Refused) and told in steps[-1].reasons[0], steps

    asyncio.run(scenario("import os; os.kill(os.getpid(), 9)", "signal 9"))
    asyncio.run(scenario("raise SystemExit(3)", "the compiler failed"))
