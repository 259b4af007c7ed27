"""The policy in force on this node: taken from the server's pushes, verified, kept, compiled, published.

    push -> signature and sequence checked -> compiled for this node's workloads -> in force -> on the disk

What fails on this way changes nothing: the policy before stays in force, and `error` says what came and why
it wasn't taken. Only quarantine counts at once, as it needs no compiling. Without any policy everything is
denied. The state of the life before is verified and compiled again at the start, so that enforcement goes on
while the server is away. It judges as soon as it is verified: it was proved before it was kept, and Envoys
that run ask already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import replace
from typing import Final, Protocol

from agent.enforcement.bundle import PolicyBundle, read_keys, read_policy
from agent.enforcement.news import Held, News
from agent.enforcement.ports import Enforcement, Json, Judge, Ruling, WorkloadPolicy
from agent.waiting import wait_any
from control_plane.core.errors import Corrupt, FailedPrecondition, GatehouseError
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.gatehouse.node.v1.node_pb2 import SignedPolicy
from control_plane.runtime import tracing
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

RETRY_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 1.0  # how often the set of this node's identities is looked at

Compile = Callable[[PolicyBundle, Set[SpiffeId]], Awaitable[Mapping[SpiffeId, WorkloadPolicy]]]

_log = get_logger(__name__)


class Keep(Protocol):
    """Where what is held lies between two lives; `CacheFile` is one. Blocking."""

    def load(self) -> bytes | None:
        """The content, None if there is none. Raises Corrupt."""
        ...

    def save(self, content: bytes) -> None:
        """Replaces the content, durably. Raises FailedPrecondition."""
        ...

    def delete(self) -> None:
        """Removes it; that there is none is no error."""
        ...

    def set_aside(self, reason: str, stamp: int) -> object:
        """Moves what can't be read out of the way. Raises FailedPrecondition."""
        ...


class Policies:
    """Implements `EnforcementSource` and `Decisions`. `identities` tells whom this node serves now."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        identities: Callable[[], Set[SpiffeId]],
        keep: Keep,
        compile_for: Compile,
        judge_of: Callable[[PolicyBundle], Judge],
        clock: Clock,
    ) -> None:
        self._trust_domain = trust_domain
        self._identities = identities
        self._keep = keep
        self._compile = compile_for
        self._judge_of = judge_of
        self._clock = clock
        self._held = Held()  # what is in force, with everything that it rests on
        self._restored: SignedPolicy | None = None  # of the life before, not in force yet
        self._restored_first = True  # it is brought into force before what came since, but once only
        self._told_all = False  # whether the server was heard: what it didn't tell, there isn't
        self._candidate: SignedPolicy | None = None  # what came and isn't in force yet
        self._bundle: PolicyBundle | None = None
        self._compiled_for: frozenset[SpiffeId] = frozenset()
        self._judge: Judge | None = None
        self._trace = ""
        self._judges = 0  # the version that the judge knows
        self._current = Enforcement()
        self._published = asyncio.Event()
        self._arrived = asyncio.Event()
        self.error = ""
        self._restore()

    # ------------------------------------------------------------------ what others ask

    @property
    def current(self) -> Enforcement:
        """See `EnforcementSource`."""
        return self._current

    async def changed(self, seen: Enforcement) -> Enforcement:
        """See `EnforcementSource`."""
        while self._current is seen:
            await self._published.wait()
        return self._current

    @property
    def known(self) -> tuple[int, int]:
        """The sequence of the policy in force and the revision of the quarantine, for the server.

        A policy that was refused isn't in force: the server sends it again with the next stream."""
        return (self._bundle.sequence if self._bundle is not None else 0, self._held.quarantine.revision)

    def decide(self, destination: SpiffeId, request: Json) -> Ruling:
        """See `Decisions`."""
        source = request.get("source")
        caller = source.get("spiffe_id") if isinstance(source, Mapping) else None
        for spiffe_id in self._current.quarantined:
            if str(spiffe_id) in (str(destination), caller):
                return Ruling(False, f"{spiffe_id} is quarantined", version=self._judges)
        workload = self._workload_of(destination)
        if workload is None or self._judge is None:
            reason = f"no policy is in force for {destination}"
            return Ruling(False, reason, version=self._judges, certain=self._current.settled)
        judgement = self._judge.judge(workload, request)
        lines = (str(judgement.origin),) if judgement.origin is not None else ()
        return Ruling(judgement.allowed, judgement.reason, lines, self._judges)

    def _workload_of(self, destination: SpiffeId) -> str | None:
        policy = self._current.workloads.get(destination)
        if policy is not None:
            return policy.workload
        if self._current.settled or self._judge is None:
            return None
        return self._judge.workload_of(str(destination))

    # ------------------------------------------------------------------ what comes in

    def take(self, news: News, *, full: bool) -> None:
        """What the server pushed; `full` marks the first push of a stream, which says all that is new.

        Quarantine holds from here on, a policy when it is compiled.
        """
        try:
            keys = None if news.keys is None else read_keys(news.keys)
        except GatehouseError as error:
            self._failed(error)
            return
        if news.policy is not None:
            self._candidate, self._trace = news.policy, news.trace
        self._held = self._held.after(replace(news, keys=keys, policy=None))
        self._told_all |= full
        with tracing.Span(
            "enforce quarantine", news.quarantine_trace
        ):  # where it changed; else it is nothing
            self._publish(self._current, self._judge)
        if news:
            self._arrived.set()

    def forget(self) -> None:
        """For an agent that was banned: nothing is in force any more, and nothing is kept. Blocking."""
        self._held, self._candidate, self._restored, self._bundle = Held(), None, None, None
        self._publish(Enforcement(settled=True), None)
        self._keep.delete()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`."""
        failed_at = float("-inf")
        while not stop.is_set():
            if self._arrived.is_set() or self._due(failed_at):
                self._arrived.clear()
                try:
                    # The request that assigned the policy goes on here.
                    trace = self._trace if self._candidate is not None else ""
                    with tracing.Span("enforce policy", trace):
                        await self._enforce()
                    failed_at = float("-inf")
                except GatehouseError as error:
                    failed_at = self._clock.monotonic()
                    self._failed(error)
                await self._save()
            await wait_any(stop, self._arrived, timeout_seconds=LOOK_SECONDS)
        if self._arrived.is_set():
            await self._save()  # a quarantine that came last

    def _due(self, failed_at: float) -> bool:
        """Whether other workloads than those that were compiled for are here now, or a failure is to be
        tried again."""
        if self._clock.monotonic() - failed_at < RETRY_SECONDS:
            return False
        if self._candidate is not None or self._restored is not None:
            return True
        return self._bundle is not None and self._identities() != self._compiled_for

    async def _enforce(self) -> None:
        """Brings what came into force. Raises what stands in the way; nothing has changed then."""
        restored = self._restored if self._restored_first else None
        signed = restored or self._candidate or self._restored or self._held.policy
        if signed is None:
            return
        self._restored_first = False
        if self._candidate not in (None, signed):
            self._arrived.set()  # what came since is next, whatever becomes of this
        # What was in force may go on by the key that it was verified with; what is new may not.
        keys = self._held.keys if signed is self._candidate else {**self._held.signer, **self._held.keys}
        try:
            bundle = read_policy(signed, keys, self._trust_domain)
        except GatehouseError:
            if signed is self._restored:
                self._restored = None  # it won't be better another time, as a compiler may be
            raise
        self._check_sequence(bundle)
        identities = frozenset(self._identities())
        if bundle != self._bundle or identities != self._compiled_for:
            workloads, judge = await self._prepared(bundle, identities, at_once=signed is self._restored)
            _log.info(
                "policy_in_force",
                version=bundle.version,
                sequence=bundle.sequence,
                digest=bundle.digest,
                workloads=[policy.workload for policy in workloads.values()],
            )
            in_force = Enforcement(
                bundle.sequence, bundle.version, bundle.digest, bundle.issued_at, workloads, settled=True
            )
            self._publish(in_force, judge)
        # From here on nothing can fail: the old policy is replaced as a whole.
        self._restored = None
        if self._candidate is signed:
            self._candidate = None
        self._held = replace(self._held, policy=signed, signer={signed.key_id: keys[signed.key_id]})
        self._bundle, self._compiled_for, self.error = bundle, identities, ""

    async def _prepared(
        self, bundle: PolicyBundle, identities: Set[SpiffeId], *, at_once: bool
    ) -> tuple[Mapping[SpiffeId, WorkloadPolicy], Judge | None]:
        """What is to be published. Compiler and judge are made side by side where a judge was needed before;
        a node without workloads of the policy doesn't keep one. `at_once`: this policy was in force before,
        so the judge needn't wait for the compiler."""
        if self._judge is None and not at_once:
            workloads = await self._compile(bundle, identities)
            return workloads, await asyncio.to_thread(self._judge_of, bundle) if workloads else None
        judging = asyncio.ensure_future(self._made_judge(bundle, at_once=at_once))
        try:
            workloads = await self._compile(bundle, identities)
        except GatehouseError:
            await asyncio.gather(judging, return_exceptions=True)  # it fails for the same reason
            raise
        judge = await judging
        return workloads, judge if workloads else None

    async def _made_judge(self, bundle: PolicyBundle, *, at_once: bool) -> Judge:
        judge = await asyncio.to_thread(self._judge_of, bundle)
        if at_once and self._judge is None:
            self._judge, self._judges = judge, bundle.version
        return judge

    def _check_sequence(self, bundle: PolicyBundle) -> None:
        """An assignment that is older than the one in force is a replay, unless the server is a new one: it
        signs with other keys then, and the old one is gone."""
        before = self._bundle
        if before is None or bundle.sequence >= before.sequence or self._held.policy is None:
            return
        if self._held.policy.key_id in self._held.keys:
            raise FailedPrecondition(
                f"taking policy version {bundle.version}: its sequence is {bundle.sequence}, and "
                f"{before.sequence} is in force; an older assignment is never taken again",
                hint="to go back, let the server assign the old version anew: gatehouse policy rollback",
            )

    def _publish(self, enforcement: Enforcement, judge: Judge | None) -> None:
        nothing_comes = self._told_all and self._candidate is None and self._restored is None
        enforcement = replace(
            enforcement,
            quarantined=self._held.quarantine.spiffe_ids,
            settled=enforcement.settled or nothing_comes,
        )
        if enforcement == self._current:
            return
        self._current = enforcement.coming(self._current, self._clock.now().timestamp())
        if judge is not self._judge:
            self._judge, self._judges = judge, enforcement.version
        published, self._published = self._published, asyncio.Event()
        published.set()

    def _failed(self, error: GatehouseError) -> None:
        self.error = str(error)
        in_force = self._bundle.version if self._bundle is not None else "none"
        _log.error("policy_not_taken", error=self.error, in_force=in_force)
        self._publish(self._current, self._judge)  # which may have been all there was to wait for

    # ------------------------------------------------------------------ the disk

    def _restore(self) -> None:
        """What was held in the life before; it is verified and compiled like a push."""
        try:
            content = self._keep.load()
            if content is None:
                return
            held = Held.parse(content)
        except Corrupt as error:
            self._keep.set_aside(str(error), self._clock.unix())
            self._failed(error)
            return
        self._held, self._restored = replace(held, policy=None), held.policy
        self._publish(self._current, None)
        self._arrived.set()

    async def _save(self) -> None:
        """What is in force, never what was refused; until then, what was restored stays as it was."""
        held = replace(self._held, policy=self._held.policy or self._restored)
        try:
            await asyncio.to_thread(lambda: self._keep.save(held.dump()))
        except GatehouseError as error:
            _log.error("policy_not_written", error=str(error))
