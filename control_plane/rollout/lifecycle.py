"""The life of policies, carried out: push → evaluate → compile → prove, plan, approve, apply → record.

One of these runs, in the management process. Every step is stored before the next is begun; what the machine
owes (`Life.works_by_itself`) it takes up again at its next start. Whoever asks was authenticated and
authorised before; that an author doesn't approve their own change is checked here once more.

What a crash leaves, step by step: a stored version is compiled again from its start, with the same outcome;
an assignment and the step that says so are one transaction, so agents never get what the history doesn't
show; an assignment whose ledger record isn't noted is recorded again, and the record names its sequence, so
that two of them are one.
"""

import asyncio
import contextlib
import dataclasses
from typing import Any, Final

from control_plane.core.errors import (
    DependencyError,
    FailedPrecondition,
    GatehouseError,
    PermissionDenied,
    ResourceExhausted,
)
from control_plane.rollout.assigning import Assigner
from control_plane.rollout.assignment import ALL, Cause, InForce
from control_plane.rollout.bundle import payload_of
from control_plane.rollout.denials import DenialFeed, DenialRule, DenialVerdict, judge
from control_plane.rollout.keys import PolicyKeys
from control_plane.rollout.ports import Compiler, Recorder, RolloutStore
from control_plane.rollout.steps import Approved, Closed, Life
from control_plane.rollout.version import PolicySource, PolicyVersion, SignedVersion, checked_reason
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

RETRY_SECONDS: Final = 5.0
RECENT: Final = 100  # versions that a push is compared with, and that a start looks at
OURSELVES: Final = "gatehouse"

_log = get_logger("policy")


class Rollouts:
    """A service: `run` takes up what was left, and carries on until it is stopped."""

    def __init__(
        self, store: RolloutStore, compiler: Compiler, keys: PolicyKeys, recorder: Recorder, clock: Clock
    ) -> None:
        self._store = store
        self._compiler = compiler
        self._keys = keys
        self._assigner = Assigner(store, keys, recorder, clock)
        self._clock = clock
        self._turn = asyncio.Lock()  # one change at a time; compiling is outside of it
        self._working: dict[int, asyncio.Task[None]] = {}
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`; what isn't finished then is taken up at the next start. What nobody foresaw in
        a task is raised here, where it ends the process."""
        for version, life in await self._store.versions(0, RECENT):
            if life.works_by_itself:
                _log.info("policy_resumed", version=version.version.number, state=life.state)
                self._begin(life.number)
        stopping = asyncio.ensure_future(stop.wait())
        try:
            ends: set[asyncio.Future[Any]] = {stopping, self._broken}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
        finally:
            stopping.cancel()
            working = list(self._working.values())
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    # ------------------------------------------------------------------ what people do

    async def push(self, source: PolicySource, *, author: str, reason: str) -> tuple[SignedVersion, Life]:
        """Stores a new version and begins to compile it. The same content as a version that is still alive
        gives that one. Raises ResourceExhausted where it would be too large to push to agents."""
        reason = checked_reason(reason)
        async with self._turn:
            recent = await self._store.versions(0, RECENT)
            # 16 MiB of text take a while, which isn't others' while.
            digest, content_digest = await asyncio.to_thread(lambda: (source.digest, source.content_digest))
            for known, life in recent:
                alive = life.state not in ("refused", "closed")
                if alive and known.version.content_digest == content_digest:
                    self._begin(life.number)
                    return known, life
            version = PolicyVersion(
                number=recent[0][0].version.number + 1 if recent else 1,
                digest=digest,
                content_digest=content_digest,
                author=author,
                reason=reason,
                created_at=self._clock.unix(),
            )
            probe = self._assigner.assignment(version, InForce(), ALL, Cause.APPLY, author, reason)
            await asyncio.to_thread(payload_of, source, probe, self._keys.trust_domain)
            signed_version = await asyncio.to_thread(self._keys.sign_version, version)
            await self._store.add_version(signed_version, source)
        _log.info("policy_pushed", version=version.number, digest=version.digest, author=author)
        self._begin(version.number)
        return signed_version, Life(version.number)

    async def settled(self, number: int, timeout_seconds: float) -> tuple[SignedVersion, Life]:
        """The version once the machine has done its part, or as it is after the timeout."""
        task = self._working.get(number)
        if task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await asyncio.shield(task)
        return await self._store.version(number)

    async def plan(self, number: int, *, by: str) -> Life:
        """Compares with what is in force now; a plan that says the same as the latest isn't stored again."""
        version, life = await self._store.version(number)
        self._keys.check_version(version)
        life.require("planned")
        now = await self._store.in_force()
        if number in (one.version for one in (now.full, now.canary) if one is not None):
            raise FailedPrecondition(f"policy version {number} is in force, there is nothing to plan")
        before = None if now.full is None else await self._store.source(now.full.version)
        planned = await self._compiler.plan(before, await self._store.source(number))
        against = 0 if now.full is None else now.full.version
        planned = dataclasses.replace(planned, by=by, against=now.sequence, against_version=against)
        if life.plan is not None and life.plan.digest == planned.digest:
            return life
        return await self._store.add_step(life, planned)

    async def approve(self, number: int, *, by: str, reason: str, break_glass: bool = False) -> Life:
        """Agrees to the latest plan. Raises PermissionDenied for the author, unless the glass was broken."""
        reason = checked_reason(reason)
        async with self._turn:
            version, life = await self._store.version(number)
            self._keys.check_version(version)
            if by == version.version.author and not break_glass:
                raise PermissionDenied(
                    f"approving policy version {number}: {by} wrote it, and nobody approves their own change",
                    hint="somebody else with the role approver has to",
                )
            self._check_plan(life, await self._store.in_force())
            plan_digest = life.plan.digest if life.plan is not None else ""
            step = Approved(at=self._clock.unix(), by=by, reason=reason, plan_digest=plan_digest)
            if life.state == "approved":
                return life
            return await self._store.add_step(life, step)

    async def close(self, number: int, *, by: str, reason: str, how: str) -> Life:
        """Ends a version that isn't in force, before or after its approval."""
        reason = checked_reason(reason)
        async with self._turn:
            _, life = await self._store.version(number)
            if life.state == "closed":
                return life
            if life.was_in_force:
                raise FailedPrecondition(
                    f"policy version {number} was in force, so it stays: one may have to come back to it"
                )
            step = Closed(at=self._clock.unix(), by=by, reason=reason, how=how)
            return await self._store.add_step(life, step)

    async def apply(self, number: int, *, percent: int, by: str, reason: str) -> Life:
        """Assigns an approved version to a share of the agents, or lets its canary grow. What is so already
        changes nothing."""
        reason = checked_reason(reason)
        async with self._turn:
            version, life = await self._store.version(number)
            now = await self._store.in_force()
            newest = now.canary or now.full
            if newest is not None and (newest.version, newest.percent) == (number, percent):
                return await self._assigner.recorded(life)
            cause = now.cause_of_apply(number, percent)
            if cause is not Cause.PROMOTE:
                if life.state == "recorded":
                    raise FailedPrecondition(
                        f"applying policy version {number}: it was applied before",
                        hint=f"bring it back (gatehouse policy rollback --to {number}), or plan it again",
                    )
                self._check_plan(life, now)
            return await self._assigner.assign(version, life, now, percent, cause, by, reason)

    async def rollback(self, to: int | None, *, by: str, reason: str, cause: Cause = Cause.ROLLBACK) -> Life:
        """Brings a version back that was in force before, for all agents; without `to`, ends the canary.

        It was approved then, so that nobody has to be asked again when minutes count.
        """
        reason = checked_reason(reason)
        async with self._turn:
            now = await self._store.in_force()
            number = now.rollback_target() if to is None else to
            version, life = await self._store.version(number)
            if not life.was_in_force:
                raise FailedPrecondition(
                    f"rolling back to policy version {number}: it never was in force for all agents",
                    hint="gatehouse policy history shows which ones were",
                )
            if now.canary is None and now.full is not None and now.full.version == number:
                return await self._assigner.recorded(life)
            return await self._assigner.assign(version, life, now, ALL, cause, by, reason)

    async def rotate_key(self) -> str:
        """Makes a new policy key; signs with it from the next assignment on. Gives its ID."""
        async with self._turn:
            return await self._keys.rotate()

    async def judge_canary(self, feed: DenialFeed, rule: DenialRule) -> DenialVerdict | None:
        """Rolls a running canary back if the rule says so; None where none runs."""
        now = await self._store.in_force()
        if now.canary is None or now.full is None:
            return None
        verdict = judge(*await feed.reports(now.canary.sequence), rule)
        if verdict.rolls_back:
            _log.error("policy_canary_rolled_back", version=now.canary.version, reason=verdict.reason)
            await self.rollback(None, by=OURSELVES, reason=verdict.reason, cause=Cause.DENIALS)
        return verdict

    # ------------------------------------------------------------------ what the machine does

    def _begin(self, number: int) -> None:
        if number not in self._working:
            task = asyncio.get_running_loop().create_task(self._work(number))
            self._working[number] = task
            task.add_done_callback(lambda task: self._ended(number, task))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._working.pop(number, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _work(self, number: int) -> None:
        while True:
            try:
                await self._advance(number)
                return
            except (DependencyError, ResourceExhausted) as error:
                _log.warning("policy_step_postponed", version=number, reason=str(error), kind=error.kind)
                await asyncio.sleep(RETRY_SECONDS)
            except GatehouseError as error:
                # Trying again changes nothing; the version stays where it is, and an operator is needed.
                _log.error("policy_step_failed", version=number, reason=str(error), kind=error.kind)
                return

    async def _advance(self, number: int) -> None:
        """Does what the machine owes a version; what is stored already isn't stored again."""
        version, life = await self._store.version(number)
        if life.state == "applied":
            async with self._turn:
                await self._assigner.recorded((await self._store.version(number))[1])
            return
        if not life.works_by_itself:
            return
        self._keys.check_version(version)
        source = await self._store.source(number)
        position = 0
        async with contextlib.aclosing(self._compiler.compile(source)) as steps:
            async for step in steps:
                if position >= len(life.steps):
                    life = await self._store.add_step(life, step)
                    _log.info("policy_step", version=number, step=step.kind)
                position += 1

    @staticmethod
    def _check_plan(life: Life, now: InForce) -> None:
        plan = life.plan
        if plan is not None and plan.against != now.sequence:
            raise FailedPrecondition(
                f"policy version {life.number}: its plan compares with assignment {plan.against}, "
                f"in force is {now.sequence}",
                hint=f"plan it again, and have it approved: gatehouse policy plan {life.number}",
            )
