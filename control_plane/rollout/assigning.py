"""Making an assignment: sign, store, record. The last part of a policy's life.

An assignment and the step that says so are one transaction: agents never get what the history doesn't show.
The ledger's record comes after it: what a crash cut off is recorded by the next life of the process.
"""

import asyncio
import hashlib
import json

from control_plane.rollout.assignment import Assignment, Cause, InForce
from control_plane.rollout.bundle import payload_of, signed
from control_plane.rollout.keys import PolicyKeys
from control_plane.rollout.ports import Recorder, RolloutStore
from control_plane.rollout.steps import Applied, Approved, Life, Recorded
from control_plane.rollout.version import PolicyVersion, SignedVersion
from control_plane.runtime import tracing
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

_log = get_logger("policy")


class Assigner:
    """Assigns versions; one call at a time, which is the caller's to see to."""

    def __init__(self, store: RolloutStore, keys: PolicyKeys, recorder: Recorder, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._recorder = recorder
        self._clock = clock

    async def assign(
        self,
        version: SignedVersion,
        life: Life,
        now: InForce,
        percent: int,
        cause: Cause,
        by: str,
        reason: str,
    ) -> Life:
        """Signs and assigns; recorded too when this returns. Raises Corrupt for a version that isn't as it
        was signed, and what store and ledger raise."""
        self._keys.check_version(version)
        life = await self.recorded(life)
        assignment = self.assignment(version.version, now, percent, cause, by, reason)
        source = await self._store.source(version.version.number)
        key, sign = self._keys.current
        payload = await asyncio.to_thread(payload_of, source, assignment, self._keys.trust_domain)
        bundle = await asyncio.to_thread(signed, payload, key, sign)
        step = Applied(
            at=assignment.at,
            by=by,
            reason=reason,
            sequence=assignment.sequence,
            percent=percent,
            cause=str(cause),
        )
        life = await self._store.assign(life, step, assignment, bundle)
        _log.info(
            "policy_assigned",
            version=assignment.version,
            sequence=assignment.sequence,
            percent=percent,
            cause=str(cause),
            by=by,
        )
        # Agents have it from here on; a crash now leaves the record to the next start.
        life = await self.recorded(life)
        await self._keys.retire_unused(await self._store.pushed())
        return life

    async def recorded(self, life: Life) -> Life:
        """Writes the ledger's record of an assignment, where it is missing."""
        last = life.steps[-1] if life.steps else None
        if not isinstance(last, Applied):
            return life
        version, _ = await self._store.version(life.number)
        pushed = await self._store.pushed()
        bundle = pushed.bundles.get(last.sequence)
        detail = {
            "sequence": last.sequence,
            "version": life.number,
            "digest": version.version.digest,
            "percent": last.percent,
            "cause": last.cause,
            "author": version.version.author,
            "approved_by": next((s.by for s in reversed(life.steps) if isinstance(s, Approved)), ""),
            "payload_sha256": hashlib.sha256(bundle.payload).hexdigest() if bundle is not None else "",
            "key_id": bundle.key_id if bundle is not None else "",
        }
        ledger_id = await self._recorder.record(
            action="policy.in-force",
            by=last.by,
            resource=f"policy version {life.number}",
            reason=last.reason,
            request_id="",
            detail=json.dumps(detail),
        )
        step = Recorded(at=self._clock.unix(), sequence=last.sequence, ledger_id=ledger_id)
        return await self._store.add_step(life, step)

    def assignment(
        self, version: PolicyVersion, now: InForce, percent: int, cause: Cause, by: str, reason: str
    ) -> Assignment:
        """The assignment that would follow `now`."""
        return Assignment(
            sequence=now.sequence + 1,
            version=version.number,
            digest=version.digest,
            percent=percent,
            cause=cause,
            by=by,
            reason=reason,
            at=self._clock.unix(),
            trace=tracing.outgoing() or "",
        )
