"""The life cycle of the authorities: what `schedule` says is due, done; and the operator's commands.

One of these runs in a cluster's management process; issuers only read the state. Every step is: load,
make what is needed, compute the next state, save it if nobody else was faster, tell who wants to know. A
crash between any two of these leaves at most keys that nothing refers to, which are swept an hour later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Final, Literal

from control_plane.authority import quarantine, steps
from control_plane.authority.ports import Above, AuthorityStore, KeyManager, KeyPurpose, SlotMaker
from control_plane.authority.schedule import (
    Activate,
    Decision,
    Lifetimes,
    Prepare,
    Prune,
    RenewIssuing,
    Withhold,
    due_of,
)
from control_plane.authority.state import AuthorityState, CutOff, Kind, Slot, Status, X509Slot
from control_plane.core.errors import Bug, GatehouseError
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

TICK_SECONDS: Final = 10
MAX_STEPS_PER_TICK: Final = 16
ORPHAN_SECONDS: Final = 3600

Step = Literal["prepare", "activate", "taint", "revoke"]
Confirmed = Callable[[int], Awaitable[bool]]
Changed = Callable[[AuthorityState], Awaitable[None]]
Intend = Callable[[AuthorityState, AuthorityState], Awaitable[None]]

_log = get_logger("authority")


class AuthorityLifecycle:
    """A service: `run` keeps the authorities fresh until it is stopped.

    `confirmed(sequence)` says whether every live agent holds our bundle of that sequence or a later one.
    `intend(before, after)` is awaited before a change is stored; if it raises, nothing changes: that is where
    the ledger is written. `changed(state)` is awaited after each stored change, so that this process signs
    and publishes by it.
    """

    def __init__(
        self,
        store: AuthorityStore,
        keys: KeyManager,
        maker: SlotMaker,
        lifetimes: Lifetimes,
        clock: Clock,
        *,
        confirmed: Confirmed,
        intend: Intend | None = None,
        changed: Changed | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._maker = maker
        self._lifetimes = lifetimes
        self._clock = clock
        self._confirmed = confirmed
        self._intend = intend
        self._changed = changed
        self._turn = asyncio.Lock()
        self._orphans: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Looks every ten seconds, by the wall clock, so that a suspended machine catches up at once."""
        failure = ""
        while not stop.is_set():
            try:
                await self.tick()
                failure = ""
            except GatehouseError as error:
                # The store is busy, a disk is full or Vault is away: the next look may succeed, and until
                # then what is active signs on. Said once while it is the same: Vault may be away for days.
                if error.kind != failure:
                    _log.error("authority_step_failed", error=str(error), kind=error.kind)
                failure = error.kind
            try:
                await asyncio.wait_for(stop.wait(), TICK_SECONDS)
            except TimeoutError:
                continue

    async def tick(self) -> list[Decision]:
        """Does all that is due now; gives what was done. The first call makes the first authorities.

        A step for one kind that fails (Vault is away) doesn't keep the other kind from its own; the failure
        is raised after that.
        """
        done: list[Decision] = []
        failure: GatehouseError | None = None
        async with self._turn:
            above = await self._maker.above()
            for kind in Kind:
                try:
                    await self._catch_up(kind, above, done)
                except GatehouseError as error:
                    failure = failure or error
            if failure is not None:
                raise failure
            self._sweep((await self._store.load())[1])
        return done

    async def _catch_up(self, kind: Kind, above: Above | None, done: list[Decision]) -> None:
        for _ in range(MAX_STEPS_PER_TICK):
            version, state = await self._store.load()
            decision = await self._next(state, kind, above)
            if decision is None:
                return
            await self._save(version, state, await self._applied(state, decision))
            _log.info("authority_step", step=type(decision).__name__, **_shown(decision))
            done.append(decision)
        raise Bug(f"authorities: {len(done)} steps were due at once, the last was {done[-1]}")

    async def foresee(self, kind: Kind, step: Step, authority_id: str = "") -> None:
        """Raises what the step would raise now, and changes nothing: for whoever writes a change down before
        it is made."""
        _, state = await self._store.load()
        match step:
            case "prepare":
                steps.check_free(state, kind)
            case "activate":
                steps.activate(state, kind, authority_id, self._clock.unix())
            case "taint":
                steps.taint(state, kind, authority_id)
            case "revoke":
                steps.revoke(state, kind, authority_id)

    async def prepare(self, kind: Kind) -> Slot:
        """Makes and publishes the next authority now. Raises FailedPrecondition if one is prepared."""
        async with self._turn:
            version, state = await self._store.load()
            slot = await self._made(kind)
            after = steps.prepare(state, slot, self._clock.unix())
            state = await self._save(version, state, after)
            return state.find(kind, slot.authority_id)

    async def activate(self, kind: Kind, authority_id: str) -> Slot:
        """Lets a prepared authority sign now, on the operator's word instead of the agents' confirmation."""
        return await self._command(
            kind, authority_id, lambda state: steps.activate(state, kind, authority_id, self._clock.unix())
        )

    async def taint(self, kind: Kind, authority_id: str) -> Slot:
        """Makes agents replace what an old authority signed."""
        return await self._command(kind, authority_id, lambda state: steps.taint(state, kind, authority_id))

    async def revoke(self, kind: Kind, authority_id: str) -> Slot:
        """Takes an authority out of the bundle: what it signed is refused from then on."""
        slot = await self._command(kind, authority_id, lambda state: steps.revoke(state, kind, authority_id))
        if isinstance(slot, X509Slot):
            await self._maker.withdrawn(slot)
        return slot

    async def quarantine(self, kind: Kind, authority_id: str, cut_off: CutOff, *, force: bool) -> bool:
        """Cuts an authority off; False if it was already. `force`: where it is active and none is prepared,
        one is made that signs at once. Raises FailedPrecondition without."""
        async with self._turn:
            version, state = await self._store.load()
            active = state.with_status(kind, Status.ACTIVE)
            alone = state.with_status(kind, Status.PREPARED) is None
            needed = force and alone and active is not None and active.authority_id == authority_id
            spare = await self._made(kind) if needed else None
            after = quarantine.quarantine(state, kind, authority_id, cut_off, spare)
            if after != state:
                await self._save(version, state, after)
            return after != state

    async def release(self, kind: Kind, authority_id: str) -> bool:
        """Lets it count again; False if it did."""
        async with self._turn:
            version, state = await self._store.load()
            after = quarantine.release(state, kind, authority_id)
            if after != state:
                await self._save(version, state, after)
            return after != state

    async def _command(
        self, kind: Kind, authority_id: str, step: Callable[[AuthorityState], AuthorityState]
    ) -> Slot:
        async with self._turn:
            version, state = await self._store.load()
            state = await self._save(version, state, step(state))
            return state.find(kind, authority_id)

    async def _next(self, state: AuthorityState, kind: Kind, above: Above | None) -> Decision | None:
        # The rules are pure, the confirmation is a question to the database: ask it first, once, and only
        # if there is something to confirm.
        waiting = state.with_status(kind, Status.PREPARED)
        confirmed = waiting is not None and await self._confirmed(waiting.published_sequence)
        now = self._clock.unix()
        return due_of(state, kind, now, self._lifetimes, lambda sequence: confirmed, above)

    async def _applied(self, state: AuthorityState, decision: Decision) -> AuthorityState:
        now = self._clock.unix()
        match decision:
            case Prepare(kind=kind):
                return steps.prepare(state, await self._made(kind), now)
            case Activate(kind=kind, authority_id=authority_id):
                return steps.activate(state, kind, authority_id, now)
            case RenewIssuing(authority_id=authority_id):
                slot = state.find(Kind.X509, authority_id)
                assert isinstance(slot, X509Slot)
                return steps.replace_issuing(state, authority_id, await self._maker.issuing(slot, now))
            case Prune(kind=kind, authority_ids=authority_ids):
                return steps.prune(state, kind, authority_ids)
            case Withhold(kind=kind, authority_id=authority_id):
                return quarantine.withhold(state, kind, authority_id)

    async def _made(self, kind: Kind) -> Slot:
        now = self._clock.unix()
        return await (self._maker.x509(now) if kind is Kind.X509 else self._maker.jwt(now))

    async def _save(self, version: int, before: AuthorityState, after: AuthorityState) -> AuthorityState:
        if self._intend is not None:
            await self._intend(before, after)
        # A crash here leaves the ledger with a step that wasn't taken; never the other way round.
        await self._store.save(version, after)
        if self._changed is not None:
            await self._changed(after)
        return after

    def _sweep(self, state: AuthorityState) -> None:
        """Deletes keys that nothing has referred to for an hour: of replaced issuing CAs, of forgotten
        authorities, of steps that a crash cut off. An hour, because other issuers may not have reloaded."""
        self._keys.sweep(self._clock.unix())
        now = self._clock.monotonic()
        referred = state.key_ids
        unreferred = {
            key_id
            for purpose in (KeyPurpose.X509, KeyPurpose.JWT)
            for key_id in self._keys.key_ids(purpose)
            if key_id not in referred
        }
        self._orphans = {key_id: self._orphans.get(key_id, now) for key_id in unreferred}
        for key_id, since in self._orphans.items():
            if now - since >= ORPHAN_SECONDS:
                self._keys.delete(key_id)
                _log.info("key_deleted", key_id=key_id)


def _shown(decision: Decision) -> dict[str, str]:
    """What a step was about, for the log."""
    return {
        name: ", ".join(sorted(value)) if isinstance(value, frozenset) else str(value)
        for name, value in asdict(decision).items()
    }
