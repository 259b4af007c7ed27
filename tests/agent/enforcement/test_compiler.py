"""The compiler in its own process, as the agent runs it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.enforcement import compiler
from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.compiler import Compiler, judge_of
from agent.enforcement.news import News
from agent.enforcement.policies import Policies
from agent.enforcement.ports import WorkloadPolicy
from control_plane.core.errors import Bug, FailedPrecondition, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.runtime.clock import FakeClock

ROOT = Path(__file__).parents[3]
SHOP = "spiffe://gatehouse.test/ns/shop/sa/"
PAYMENTS = SpiffeId.parse(SHOP + "payments")


def starter(extra: str = "") -> PolicyBundle:
    folders = (ROOT / "rego/lib", ROOT / "rego/starter")
    files = {path.name: path.read_text() for each in folders for path in each.rglob("*.rego")}
    inventory = (ROOT / "deploy/demo/inventory.yaml").read_text()
    return PolicyBundle(1, 3, "sha256:x", 0, files | ({"extra.rego": extra} if extra else {}), inventory)


async def compiled(bundle: PolicyBundle, *identities: SpiffeId) -> Mapping[SpiffeId, WorkloadPolicy]:
    compiler = Compiler()
    try:
        return await compiler.compile_for(bundle, set(identities))
    finally:
        await compiler.close()


def test_the_starter_policy_for_one_workload() -> None:
    found = asyncio.run(compiled(starter(), PAYMENTS, SpiffeId.parse(SHOP + "nobody")))
    assert list(found) == [PAYMENTS]
    policy = found[PAYMENTS]
    assert policy.workload == "shop/payments"
    names = ["gatehouse.deny", "gatehouse.segmentation", "gatehouse.allow"]
    assert [one["name"] for one in policy.http_filters] == names
    assert policy.lines["authz-http-deny-0000"] == ("authz.rego:56",)
    assert not policy.custom


def test_the_same_policy_judges_requests() -> None:
    judge = judge_of(starter())
    request = {"source": {"spiffe_id": SHOP + "frontend"}, "destination": {"port": 8080}}
    judged = judge.judge("shop/payments", {**request, "request": {"method": "GET", "path": "/v1/charges"}})
    assert judged.allowed
    assert not judge.judge("shop/payments", request).allowed


def test_rego_that_does_not_compile_is_refused_with_the_line() -> None:
    with pytest.raises(FailedPrecondition, match=r"(?s)policy version 3: .*extra\.rego:3"):
        asyncio.run(compiled(starter("package x\n\nallow if inptu.request\n"), PAYMENTS))


def test_the_tests_of_a_policy_are_not_the_nodes_business() -> None:
    bundle = starter()
    with_tests = replace(bundle, files={**bundle.files, "authz_test.rego": "this is no Rego"})
    assert asyncio.run(compiled(with_tests, PAYMENTS)) == asyncio.run(compiled(bundle, PAYMENTS))
    request = {"source": {"spiffe_id": SHOP + "frontend"}, "destination": {"port": 8080}}
    assert not judge_of(with_tests).judge("shop/payments", request).allowed


def test_a_compiler_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(ResourceExhausted, match="not done after"):
        asyncio.run(compiled(starter(), PAYMENTS))


class Children:
    """The compilers that this process started, those that ended included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[asyncio.subprocess.Process] = []
        start = asyncio.create_subprocess_exec

        async def started(*command: Any, **options: Any) -> asyncio.subprocess.Process:
            child = await start(*command, **options)
            self.started.append(child)
            return child

        monkeypatch.setattr(asyncio, "create_subprocess_exec", started)

    async def reach(self, count: int) -> asyncio.subprocess.Process:
        """The child number `count`, once it was started."""
        await until(lambda: len(self.started) >= count)
        return self.started[count - 1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.01)


def test_a_spare_child_waits_from_the_first_policy_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "SPARE_DELAY_SECONDS", 0.0)

    async def story() -> None:
        one, children = Compiler(), Children(monkeypatch)
        first = await one.compile_for(starter(), {PAYMENTS})
        spare = await children.reach(2)
        assert spare.returncode is None
        assert await one.compile_for(starter(), {PAYMENTS}) == first
        assert spare.returncode == 0 and len(children.started) == 2, "the spare has done it"
        spare = await children.reach(3)
        spare.kill()  # as the kernel does where memory is short
        await spare.wait()
        assert await one.compile_for(starter(), {PAYMENTS}) == first
        spare = await children.reach(5)
        await one.close()
        assert spare.returncode is not None
        assert len(children.started) == 5

    asyncio.run(story())


def test_a_spare_child_whose_end_was_not_seen_yet_costs_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop hears of it when it comes to that: until then the child is one like any other."""
    monkeypatch.setattr(compiler, "SPARE_DELAY_SECONDS", 0.0)

    async def story() -> None:
        one, children = Compiler(), Children(monkeypatch)
        first = await one.compile_for(starter(), {PAYMENTS})
        spare = await children.reach(2)
        spare.kill()
        assert spare.returncode is None
        assert await one.compile_for(starter(), {PAYMENTS}) == first
        assert spare.returncode == -signal.SIGKILL
        await one.close()

    asyncio.run(story())


def test_a_child_that_breaks_at_the_policy_is_not_given_it_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiler, "_COMMAND", (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))

    async def story() -> None:
        one, children = Compiler(), Children(monkeypatch)
        with pytest.raises(Bug, match="ended with -9"):
            await one.compile_for(starter(), {PAYMENTS})
        assert len(children.started) == 1
        await one.close()

    asyncio.run(story())


def test_the_spare_child_ends_with_the_agent() -> None:
    """Its input ends then, even if the agent was killed."""
    command = [sys.executable, "-m", "agent.enforcement.compiling"]
    finished = subprocess.run(command, input=b"", capture_output=True, timeout=60)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"", b"")


def test_a_version_that_does_not_compile_leaves_the_one_before_in_force(author: Any) -> None:
    """With the real compiler and the real judge."""

    class Nowhere:
        def load(self) -> bytes | None:
            return None

        def save(self, content: bytes) -> None:
            pass

        def set_aside(self, reason: str, stamp: int) -> None:
            pass

    def news(sequence: int, bundle: PolicyBundle) -> News:
        files, inventory = bundle.files, bundle.inventory
        return News(author.keys, author.policy(sequence, version=sequence, files=files, inventory=inventory))

    async def story() -> None:
        one, stop = Compiler(), asyncio.Event()
        domain = TrustDomain.parse("example.org")
        policies = Policies(domain, lambda: {PAYMENTS}, Nowhere(), one.compile_for, judge_of, FakeClock())
        task = asyncio.create_task(policies.run(stop))
        policies.take(news(1, starter()), full=True)
        await until(lambda: policies.current.version == 1)
        before = policies.current
        policies.take(news(2, starter("package x\n\nallow if inptu.request\n")), full=False)
        await until(lambda: bool(policies.error))
        assert "policy version 2" in policies.error
        assert "extra.rego:3" in policies.error
        assert policies.current is before
        assert policies.known == (1, 0)
        request = {"source": {"spiffe_id": SHOP + "frontend"}, "destination": {"port": 8080}}
        assert policies.decide(
            PAYMENTS, {**request, "request": {"method": "GET", "path": "/v1/charges"}}
        ).allowed
        stop.set()
        await task
        await one.close()

    asyncio.run(story())
