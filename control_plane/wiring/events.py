"""Where the events of live views come from: the change log, the trust bundle, and the steps of policies.

All of it is in this process: the management process writes every step, and what issuers write reaches it by
the change log.
"""

from typing import Final

from control_plane.api.limits import Limiter
from control_plane.api.rest.events import Events
from control_plane.api.rest.front import Rates
from control_plane.api.rest.policy_views import shown_assignment, shown_version
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.index import Effects
from control_plane.identity.quarantine import Quarantine
from control_plane.rollout.assignment import Assignment, SignedBundle
from control_plane.rollout.steps import Life, Step
from control_plane.rollout.version import PolicySource, SignedVersion
from control_plane.sql.rollout_store import SqlRolloutStore
from control_plane.wiring.process import Parts

REQUESTS: Final = "requests to the management API"


def rates_of(parts: Parts) -> Rates:
    """How often the management API may be called."""
    api, monotonic = parts.settings.written.api, parts.clock.monotonic
    return Rates(
        Limiter(REQUESTS, api.address_requests_per_second, api.address_burst, monotonic),
        Limiter(
            REQUESTS,
            api.subject_requests_per_second,
            api.subject_burst,
            monotonic,
            whose="from this subject",
        ),
    )


def events_of(parts: Parts) -> Events:
    """The events of this process, fed from now on."""
    events = Events()
    watch = _Watch(parts, events)
    parts.replica.listen(watch.changed)
    parts.trust.listen(watch.trust_changed)
    return events


class _Watch:
    """Tells what changed from what was known before."""

    def __init__(self, parts: Parts, events: Events) -> None:
        self._parts = parts
        self._events = events
        self._quarantine = parts.replica.index.quarantine
        self._agents = {agent_id: _state(one) for agent_id, one in parts.replica.index.agents.items()}

    def changed(self, effects: Effects) -> None:
        now = self._parts.clock.unix()
        if effects.quarantine:
            before, self._quarantine = self._quarantine, self._parts.replica.index.quarantine
            self._tell_quarantine(before, self._quarantine, now)
        for agent_id in effects.agents:
            self._tell_agent(agent_id, now)

    def trust_changed(self) -> None:
        own = self._parts.trust.own
        data = {
            "bundle_sequence": own.sequence,
            "x509_authorities": [one.subject_key_id for one in own.x509_authorities],
            "jwt_authorities": [one.key_id for one in own.jwt_authorities],
        }
        self._events.publish("authority.bundle", self._parts.clock.unix(), data)

    def _tell_quarantine(self, before: Quarantine, after: Quarantine, now: int) -> None:
        for spiffe_id in after.spiffe_ids - before.spiffe_ids:
            member = after.members[spiffe_id]
            data = {"reason": member.reason, "by": member.by, "revision": after.revision}
            self._events.publish("quarantine.set", now, data, spiffe_id=spiffe_id)
        for spiffe_id in before.spiffe_ids - after.spiffe_ids:
            self._events.publish(
                "quarantine.released", now, {"revision": after.revision}, spiffe_id=spiffe_id
            )

    def _tell_agent(self, agent_id: SpiffeId, now: int) -> None:
        """An agent's renewals are no news; that it came, was banned or went is."""
        record = self._parts.replica.index.agents.get(agent_id)
        state = "gone" if record is None else _state(record)
        if self._agents.get(agent_id, "gone") == state:
            return
        if record is None:
            del self._agents[agent_id]
            data = {"state": state}
        else:
            self._agents[agent_id] = state
            data = {"state": state, "attestation_type": record.attestation_type, "version": record.version}
        self._events.publish(f"agent.{state}", now, data, spiffe_id=agent_id)


def _state(record: AgentRecord) -> str:
    return "banned" if record.banned else "attested"


class ToldSteps(SqlRolloutStore):
    """The store of policies that tells of each step once it is stored."""

    def __init__(self, parts: Parts, events: Events) -> None:
        super().__init__(parts.store.thread)
        self._events = events
        self._unix = parts.clock.unix

    async def add_version(self, version: SignedVersion, source: PolicySource) -> None:
        """See the port."""
        await super().add_version(version, source)
        life = Life(version.version.number)
        self._events.publish("policy.version", self._unix(), shown_version(version, life))

    async def add_step(self, life: Life, step: Step) -> Life:
        """See the port."""
        after = await super().add_step(life, step)
        self._tell(after, step)
        return after

    async def assign(self, life: Life, step: Step, assignment: Assignment, bundle: SignedBundle) -> Life:
        """See the port."""
        after = await super().assign(life, step, assignment, bundle)
        self._tell(after, step)
        self._events.publish("policy.in-force", self._unix(), shown_assignment(assignment))
        return after

    def _tell(self, life: Life, step: Step) -> None:
        data = {"version": life.number, "step": step.kind, "state": life.state, "by": getattr(step, "by", "")}
        self._events.publish("policy.step", self._unix(), data)
