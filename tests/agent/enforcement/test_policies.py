"""The policy in force: what comes is verified and compiled first, and what fails changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.news import Held, News, Quarantine
from agent.enforcement.policies import Policies
from agent.enforcement.ports import WorkloadPolicy
from control_plane.core.errors import Corrupt, FailedPrecondition
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.runtime.clock import FakeClock

WEB = SpiffeId.parse("spiffe://example.org/web")
DATABASE = SpiffeId.parse("spiffe://example.org/database")
REQUEST = {"source": {"spiffe_id": "spiffe://example.org/a"}, "destination": {"port": 1}}


class Judged(NamedTuple):
    allowed: bool
    reason: str
    origin: str | None


@dataclass
class Judge:
    version: int

    def judge(self, workload: str, request: object) -> Judged:
        return Judged(True, f"{workload} by version {self.version}", "a.rego:3")

    def workload_of(self, spiffe_id: str) -> str | None:
        return spiffe_id.rpartition("/")[2] if spiffe_id == str(WEB) else None


@dataclass
class Disk:
    """Holds one content; `broken` content can't be read."""

    content: bytes | None = None
    broken: bool = False
    full: bool = False
    aside: list[str] = field(default_factory=list)

    def load(self) -> bytes | None:
        if self.broken:
            raise Corrupt("reading the cache: it was changed")
        return self.content

    def save(self, content: bytes) -> None:
        if self.full:
            raise FailedPrecondition("writing the cache: no space left")
        self.content = content

    def delete(self) -> None:
        self.content = None

    def set_aside(self, reason: str, stamp: int) -> None:
        self.aside.append(reason)


class Compiler:
    """Compiles at once, unless a version is refused or the test holds it; records what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, frozenset[SpiffeId]]] = []
        self.refuses: set[int] = set()
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, bundle: PolicyBundle, identities: Set[SpiffeId]) -> dict[SpiffeId, Any]:
        self.asked.append((bundle.version, frozenset(identities)))
        await self.free.wait()
        await asyncio.sleep(0)
        if bundle.version in self.refuses:
            raise FailedPrecondition(f"compiling policy version {bundle.version}: refused")
        return {one: WorkloadPolicy(one.path[1:], one, (), ()) for one in identities}


@dataclass
class Node:
    """Policies with everything around them that a test may want to bend."""

    disk: Disk = field(default_factory=Disk)
    compiler: Compiler = field(default_factory=Compiler)
    identities: set[SpiffeId] = field(default_factory=lambda: {WEB})
    clock: FakeClock = field(default_factory=FakeClock)

    def start(self) -> Policies:
        return Policies(
            TrustDomain.parse("example.org"),
            lambda: self.identities,
            self.disk,
            self.compiler,
            lambda bundle: Judge(bundle.version),
            self.clock,
        )

    def live(self, story: Callable[[Policies], Coroutine[Any, Any, None]]) -> Policies:
        """Runs one life of the agent, during which `story` happens."""

        async def life() -> Policies:
            policies = self.start()
            stop = asyncio.Event()
            task = asyncio.create_task(policies.run(stop))
            try:
                async with asyncio.timeout(20):
                    await story(policies)
            finally:
                stop.set()
                await task
            return policies

        return asyncio.run(life())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - any condition may be waited for
        await asyncio.sleep(0.005)


def in_force(policies: Policies, sequence: int) -> Callable[[], bool]:
    return lambda: policies.current.sequence == sequence


def test_without_a_policy_everything_is_denied() -> None:
    async def story(policies: Policies) -> None:
        ruling = policies.decide(WEB, REQUEST)
        assert not ruling.allowed
        assert "no policy is in force" in ruling.reason
        assert not policies.current.settled
        policies.take(News(), full=True)
        assert policies.current.settled  # the server was heard, and has none
        assert not policies.decide(WEB, REQUEST).allowed

    Node().live(story)


def test_a_push_comes_into_force_and_is_kept(author: Any) -> None:
    node = Node()

    async def first(policies: Policies) -> None:
        before = policies.current
        policies.take(News(author.keys, author.policy(4, version=2)), full=True)
        after = await policies.changed(before)
        assert (after.sequence, after.version, after.digest) == (4, 2, "sha256:2")
        assert set(after.workloads) == {WEB}
        assert after.settled
        assert policies.known == (4, 0)
        ruling = policies.decide(WEB, REQUEST)
        assert (ruling.allowed, ruling.lines, ruling.version) == (True, ("a.rego:3",), 2)

    async def second(policies: Policies) -> None:
        assert not policies.current.settled
        await until(in_force(policies, 4))
        assert policies.current.settled
        assert policies.decide(WEB, REQUEST).allowed

    node.live(first)
    node.live(second)


@pytest.mark.parametrize("what", ["signature", "stranger", "compiler", "domain", "older"])
def test_what_is_refused_changes_nothing(author: Any, stranger: Any, what: str) -> None:
    node = Node()
    node.compiler.refuses = {9}
    good = author.policy(5, version=5)
    changed = author.policy(6, version=6)
    changed.payload += b"x"
    bad = {
        "signature": changed,
        "stranger": stranger.policy(6, version=6),
        "compiler": author.policy(6, version=9),
        "domain": author.policy(6, version=6, trust_domain="other.org"),
        "older": author.policy(4, version=4),
    }[what]

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, good), full=True)
        await until(in_force(policies, 5))
        policies.take(News(policy=bad), full=False)
        await until(lambda: bool(policies.error))
        assert policies.current.sequence == 5
        assert policies.decide(WEB, REQUEST).allowed
        assert policies.known == (5, 0)

    async def next_life(policies: Policies) -> None:
        await until(in_force(policies, 5))
        assert not policies.error

    node.live(story)
    node.live(next_life)


def test_a_good_policy_after_a_bad_one_is_taken(author: Any) -> None:
    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(6, version=9)), full=True)
        await until(lambda: bool(policies.error))
        assert not policies.current.settled
        policies.take(News(policy=author.policy(7, version=7)), full=False)
        await until(in_force(policies, 7))
        assert policies.error == ""

    node = Node()
    node.compiler.refuses = {9}
    node.live(story)


def test_what_failed_is_tried_again(author: Any) -> None:
    node = Node()
    node.compiler.refuses = {1}

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(1, version=1)), full=True)
        await until(lambda: bool(policies.error))
        node.compiler.refuses.clear()
        node.clock.advance(31)
        await until(in_force(policies, 1))
        assert policies.error == ""

    node.live(story)


def test_a_bad_push_at_the_start_does_not_cost_what_was_restored(author: Any, stranger: Any) -> None:
    node = Node()

    async def first(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(3)), full=True)
        await until(in_force(policies, 3))

    async def second(policies: Policies) -> None:
        policies.take(News(policy=stranger.policy(4)), full=True)
        await until(lambda: bool(policies.error))
        assert policies.current.sequence == 3

    node.live(first)
    node.live(second)


def test_a_new_server_signs_with_other_keys_and_counts_anew(author: Any, stranger: Any) -> None:
    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(50)), full=True)
        await until(in_force(policies, 50))
        policies.take(News({**author.keys, **stranger.keys}, stranger.policy(2)), full=False)
        await until(lambda: bool(policies.error))
        assert policies.current.sequence == 50
        policies.take(News(stranger.keys), full=False)
        await until(in_force(policies, 2))

    Node().live(story)


def test_a_policy_outlives_the_key_that_signed_it(author: Any, stranger: Any) -> None:
    node = Node()

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(1)), full=True)
        await until(in_force(policies, 1))
        policies.take(News(stranger.keys), full=False)
        node.identities.add(DATABASE)
        await until(lambda: DATABASE in policies.current.workloads)

    async def next_life(policies: Policies) -> None:
        await until(in_force(policies, 1))
        # What is new needs a key that signs now.
        policies.take(News(policy=author.policy(2)), full=False)
        await until(lambda: bool(policies.error))
        assert policies.current.sequence == 1

    node.live(story)
    node.live(next_life)


def test_other_workloads_are_compiled_for_as_they_come(author: Any) -> None:
    node = Node()

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy()), full=True)
        await until(in_force(policies, 1))
        node.identities.add(DATABASE)
        await until(lambda: DATABASE in policies.current.workloads)
        assert policies.current.sequence == 1

    node.live(story)
    assert node.compiler.asked == [(1, frozenset({WEB})), (1, frozenset({WEB, DATABASE}))]


def test_quarantine_counts_at_once_for_caller_and_called(author: Any) -> None:
    node = Node()
    caller = SpiffeId.parse("spiffe://example.org/a")

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy()), full=True)
        await until(in_force(policies, 1))
        for cut_off in (caller, WEB):
            policies.take(News(quarantine=Quarantine(2, frozenset({cut_off}))), full=False)
            assert policies.current.quarantined == {cut_off}
            ruling = policies.decide(WEB, REQUEST)
            assert (ruling.allowed, ruling.reason) == (False, f"{cut_off} is quarantined")
        assert policies.known == (1, 2)

    async def next_life(policies: Policies) -> None:
        assert policies.current.quarantined == {WEB}
        await until(in_force(policies, 1))
        assert policies.current.quarantined == {WEB}
        policies.take(News(quarantine=Quarantine(3)), full=False)
        assert policies.decide(WEB, REQUEST).allowed

    node.live(story)
    node.live(next_life)


def test_quarantine_is_kept_beside_a_policy_that_fails(author: Any) -> None:
    node = Node()
    node.compiler.refuses = {9}

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(1)), full=True)
        await until(in_force(policies, 1))
        policies.take(
            News(policy=author.policy(2, version=9), quarantine=Quarantine(1, frozenset({WEB}))), full=False
        )
        await until(lambda: bool(policies.error))

    node.live(story)
    held = Held.parse(node.disk.content or b"")
    assert held.quarantine == Quarantine(1, frozenset({WEB}))
    assert held.policy == author_policy_of(node)


def author_policy_of(node: Node) -> Any:
    """What the next life begins with."""
    policies: list[Any] = []

    async def story(running: Policies) -> None:
        await until(in_force(running, 1))
        policies.append(running._held.policy)

    node.live(story)
    return policies[0]


@pytest.mark.parametrize("refused", [False, True])
def test_what_was_in_force_judges_before_it_is_compiled_again(author: Any, refused: bool) -> None:
    """Envoys that run ask the agent at once after its restart. Nothing is decided before the policy is
    verified, and what was in force goes on judging should the compiler of this life refuse it."""
    node = Node()

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(5, version=3)), full=True)
        await until(lambda: policies.current.version == 3)
        assert policies.decide(WEB, REQUEST).certain

    node.live(story)
    node.compiler = Compiler()
    if refused:
        node.compiler.refuses.add(3)
    node.compiler.free.clear()

    async def restarted(policies: Policies) -> None:
        first = policies.decide(WEB, REQUEST)
        assert (first.allowed, first.certain) == (False, False)
        await until(lambda: policies.decide(WEB, REQUEST).allowed)
        assert policies.decide(WEB, REQUEST).version == 3
        assert not policies.current.settled and not policies.current.workloads
        assert not policies.decide(DATABASE, REQUEST).allowed
        node.compiler.free.set()
        await until(lambda: bool(policies.error) is refused and policies.current.settled is not refused)
        assert policies.decide(WEB, REQUEST).allowed
        assert policies.decide(DATABASE, REQUEST).certain is not refused

    node.live(restarted)


def test_an_unreadable_file_is_set_aside_and_said() -> None:
    node = Node(disk=Disk(broken=True))

    async def story(policies: Policies) -> None:
        assert "it was changed" in policies.error
        assert not policies.current.settled

    node.live(story)
    assert node.disk.aside == ["reading the cache: it was changed"]


def test_a_full_disk_costs_the_memory_not_the_service(author: Any) -> None:
    node = Node(disk=Disk(full=True))

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy()), full=True)
        await until(in_force(policies, 1))
        assert policies.decide(WEB, REQUEST).allowed

    node.live(story)
    assert node.disk.content is None


def test_keys_that_are_not_what_they_say_change_nothing(author: Any) -> None:
    async def story(policies: Policies) -> None:
        policies.take(News({"00": author.spki}, author.policy()), full=True)
        assert "is not that of its key" in policies.error
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await policies.changed(policies.current)
        assert policies.current.sequence == 0

    Node().live(story)


def test_a_banned_agent_keeps_and_allows_nothing(author: Any) -> None:
    node = Node()

    async def story(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy()), full=True)
        await until(lambda: node.disk.content is not None)
        assert policies.decide(WEB, REQUEST).allowed
        policies.forget()
        assert not policies.decide(WEB, REQUEST).allowed
        assert policies.current.settled  # Envoys are told, and deny

    node.live(story)
    assert node.disk.content is None


def restarted(author: Any, story: Callable[[Policies, Node], Coroutine[Any, Any, None]]) -> Node:
    """A node that had version 3 in force, and starts again with a compiler that waits to be freed."""
    node = Node()

    async def before(policies: Policies) -> None:
        policies.take(News(author.keys, author.policy(5, version=3)), full=True)
        await until(in_force(policies, 5))

    node.live(before)
    node.compiler = Compiler()
    node.compiler.free.clear()
    node.live(lambda policies: story(policies, node))
    return node


def test_a_server_without_a_policy_settles_nothing_while_the_old_one_is_compiled(author: Any) -> None:
    """Envoys would be told to deny everything, and then otherwise: what comes is waited for."""

    async def story(policies: Policies, node: Node) -> None:
        seen = []

        async def watch() -> None:
            while True:
                seen.append(await policies.changed(seen[-1] if seen else policies.current))

        task = asyncio.create_task(watch())
        await until(lambda: bool(node.compiler.asked))
        policies.take(News(), full=True)
        await asyncio.sleep(0)
        assert not policies.current.settled
        assert policies.decide(WEB, REQUEST).allowed
        assert not policies.decide(DATABASE, REQUEST).certain
        node.compiler.free.set()
        await until(in_force(policies, 5))
        await asyncio.sleep(0)
        task.cancel()
        assert [one.sequence for one in seen if one.settled] == [5]

    restarted(author, story)


def test_a_compiler_that_failed_once_does_not_cost_what_was_in_force(author: Any) -> None:
    """Nor does the disk lose it, or a quarantine that came meanwhile."""
    quarantine = Quarantine(7, frozenset({DATABASE}))

    async def story(policies: Policies, node: Node) -> None:
        node.compiler.refuses.add(3)
        node.compiler.free.set()
        policies.take(News(quarantine=quarantine), full=True)
        await until(lambda: bool(policies.error))
        assert policies.decide(WEB, REQUEST).allowed and not policies.current.settled

    node = restarted(author, story)
    held = Held.parse(node.disk.content or b"")
    assert held.policy is not None and held.quarantine == quarantine

    async def again(policies: Policies) -> None:
        await until(lambda: bool(policies.error))
        node.compiler.refuses.clear()
        node.clock.advance(31)
        await until(in_force(policies, 5))
        assert policies.error == "" and policies.current.quarantined == {DATABASE}

    node.live(again)


def test_what_is_stored_and_wrongly_signed_is_given_up_and_all_is_denied(author: Any, stranger: Any) -> None:
    """As soon as the server was heard Envoys are told so, whichever comes first."""
    node = Node()
    bad = Held(author.keys, author.keys, stranger.policy(5))
    node.disk.content = bad.dump()

    async def story(policies: Policies) -> None:
        policies.take(News(), full=True)
        assert not policies.current.settled
        await until(lambda: bool(policies.error))
        assert policies.current.settled
        ruling = policies.decide(WEB, REQUEST)
        assert (ruling.allowed, ruling.certain) == (False, True)

    node.live(story)
    assert Held.parse(node.disk.content or b"").policy is None
