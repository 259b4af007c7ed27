"""gatehouse.node.v1.Node: pushes to an agent what it would otherwise poll for.

First the state relative to what the agent says it knows, then deltas, gathered for at most 50 ms after the
first piece of news; an empty message every 30 s shows that both sides live. A stream that falls behind holds
IDs, not values, so a slow reader costs nothing. Deltas are computed against what this stream has sent.

An agent that heard of more elsewhere is answered once that is here too (`abreast`).

Policies are passed on as they were signed. An agent that says it knows another assignment than the one that
is meant for it gets this one, older or newer: whether to take it is the agent's to judge.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from control_plane.api.caller import agent_of
from control_plane.api.context import ServerContext
from control_plane.api.paging import MAX_REPLY_BYTES
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.convert import bundle_to_message, entry_to_message
from control_plane.proto.gatehouse.node.v1 import node_pb2 as wire
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.denials import Counts
from control_plane.rollout.reports import MAX_WORKLOADS, Report, Wanted, wanted
from control_plane.runtime.transport import Call

COALESCE_SECONDS: Final = 0.02
HEARTBEAT_SECONDS: Final = 30.0
RENEW_EARLY_WITHIN_SECONDS: Final = 3600  # 10,000 workloads of a long outage: three signatures a second

_Version = tuple[int, int]  # revision and creation time


class NodeService:
    """Implements the Node service for attested agents."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def watch(self, call: Call, request: wire.WatchRequest) -> AsyncIterator[wire.WatchResponse]:
        stream = _Stream(self._context, agent_of(call), request)
        subscription = self._context.replica.subscribe(stream.agent_id)
        try:
            for response in stream.changes(None, shared=True, full=True):
                yield response
                del response  # a state of some KiB, which would stay until the next change
            del request
            stream.confirm()
            while not subscription.ended:
                if not await subscription.wait(HEARTBEAT_SECONDS):
                    if not subscription.ended:
                        yield wire.WatchResponse()
                    continue
                await asyncio.sleep(COALESCE_SECONDS)
                entries, shared = subscription.take()
                for response in stream.changes(entries, shared=shared, full=False):
                    yield response
                    del response
                del entries
                stream.confirm()
        finally:
            self._context.replica.unsubscribe(subscription)

    async def report_decisions(
        self, call: Call, request: wire.ReportDecisionsRequest
    ) -> wire.ReportDecisionsResponse:
        """What an agent's Envoys decided. Identities that the agent doesn't serve are left out."""
        await self._context.limiters.status.take(call)
        if len(request.workloads) > MAX_WORKLOADS:
            raise InvalidInput(
                f"report of decisions: {len(request.workloads)} workloads, at most {MAX_WORKLOADS}"
            )
        agent_id = agent_of(call)
        report = Report(
            request.canary,
            request.sequence,
            {SpiffeId.parse(one.spiffe_id): _counts(one) for one in request.workloads},
            _counts(request.before),
        )
        entries = self._context.replica.index.authorized_entries(agent_id).entries
        own = {entry.spiffe_id for entry in entries.values()}
        return wire.ReportDecisionsResponse(taken=self._context.reports.take(agent_id, report, own))


class _Stream:
    """What one stream's agent holds, and how to bring it up to date."""

    def __init__(self, context: ServerContext, agent_id: SpiffeId, request: wire.WatchRequest) -> None:
        self.agent_id = agent_id
        self._context = context
        self._entries: dict[str, _Version] = {
            known.id: (known.revision_number, known.created_at) for known in request.known_entries
        }
        self._own_sequence = request.known_bundle_sequence
        self._federated: dict[TrustDomain, Bundle] = {}
        self._policy_sequence = request.known_policy_sequence
        self._policy_keys: tuple[PolicyKey, ...] = ()
        self._quarantine_revision = request.known_quarantine_revision
        self._wanted = Wanted()
        self._stand_ins: tuple[bytes, ...] = ()

    def changes(
        self, entry_ids: set[str] | None, *, shared: bool, full: bool
    ) -> Iterable[wire.WatchResponse]:
        """The messages that bring the agent up to date; none if nothing that it sees has changed. `shared`:
        look at what isn't this agent's alone (our bundle, policies, quarantine)."""
        index = self._context.replica.index
        entries = index.authorized_entries(self.agent_id).entries
        ids = self._entries.keys() | entries.keys() if entry_ids is None else entry_ids
        gone = [id for id in ids if id in self._entries and id not in entries]
        new = [entries[id] for id in ids if id in entries and self._entries.get(id) != _version(entries[id])]
        for id in gone:
            del self._entries[id]
        for entry in new:
            self._entries[entry.id] = _version(entry)
        response = wire.WatchResponse(
            full=full, removed_entry_ids=sorted(gone), change_sequence=index.sequence
        )
        if full:
            response.change_log = index.log
        if shared:
            self._add_own(response)
            self._add_policy(response)
            self._add_quarantine(response)
            self._add_wanted(response)
            self._add_early(response)
        if full or shared or gone or any(entry.federates_with for entry in new):
            # Which foreign bundles an agent needs follows from its entries.
            self._add_federated(response, entries.values())
        if not (full or gone or new or response.ByteSize() > _empty_size(response)):
            return []
        return _filled(response, sorted(new, key=lambda entry: entry.id))

    def _add_own(self, response: wire.WatchResponse) -> None:
        own = self._context.trust.own
        if own.sequence != self._own_sequence:
            response.bundle.CopyFrom(bundle_to_message(own))
            self._own_sequence = own.sequence

    def _add_policy(self, response: wire.WatchResponse) -> None:
        pushed = self._context.policies.current
        if pushed.keys != self._policy_keys:
            self._policy_keys = pushed.keys
            for key in pushed.keys:
                response.policy_keys.add(key_id=key.key_id, public_key=key.public_key)
        meant = pushed.of_agent(self.agent_id)
        if meant is not None and meant[0] != self._policy_sequence:
            self._policy_sequence, bundle = meant
            response.policy.payload = bundle.payload
            response.policy.signature = bundle.signature
            response.policy.key_id = bundle.key_id
            assignment = pushed.in_force.of_agent(self.agent_id)
            response.policy_traceparent = assignment.trace if assignment is not None else ""

    def _add_quarantine(self, response: wire.WatchResponse) -> None:
        now = self._context.replica.index.quarantine
        if now.revision != self._quarantine_revision:
            self._quarantine_revision = now.revision
            response.quarantine.revision = now.revision
            response.quarantine.traceparent = now.trace
            response.quarantine.spiffe_ids.extend(sorted(map(str, now.members)))

    def _add_wanted(self, response: wire.WatchResponse) -> None:
        now = wanted(self._context.policies.current.in_force, len(self._context.replica.index.agents))
        if now.canary != self._wanted.canary:  # that another agent came is no reason to tell all of them
            self._wanted = now
            response.decisions_wanted.canary = now.canary
            response.decisions_wanted.interval_seconds = now.interval_seconds

    def _add_early(self, response: wire.WatchResponse) -> None:
        now = self._context.stand_ins()
        if now != self._stand_ins:
            self._stand_ins = now
            if now:
                response.renew_early.issuer_key_ids.extend(now)
                response.renew_early.within_seconds = RENEW_EARLY_WITHIN_SECONDS

    def confirm(self) -> None:
        """To be called once everything was sent: the agent holds our bundle as it was written there."""
        self._context.confirmations.note(self.agent_id, self._own_sequence)

    def _add_federated(self, response: wire.WatchResponse, entries: Iterable[Entry]) -> None:
        known = self._context.replica.index.bundles
        needed = {name for entry in entries for name in entry.federates_with if name in known}
        for name in sorted(needed):
            if self._federated.get(name) != known[name]:
                self._federated[name] = known[name]
                response.federated_bundles.append(bundle_to_message(known[name]))
        for name in sorted(self._federated.keys() - needed):
            del self._federated[name]
            response.removed_federated.append(name.name)


def _filled(first: wire.WatchResponse, entries: list[Entry]) -> Iterable[wire.WatchResponse]:
    """`first` with entries, continued in further messages where one would grow too large.

    Only the first message of a full state says `full`: a later one would make the agent drop the first's.
    All but the last say `more`: until then the agent doesn't know whom it may refuse.
    """
    response, size = first, first.ByteSize()
    for entry in entries:
        message = entry_to_message(entry)
        size += message.ByteSize() + 64
        if size > MAX_REPLY_BYTES:
            response.more = True
            yield response
            response = wire.WatchResponse(change_sequence=first.change_sequence)
            size = message.ByteSize() + 64
        response.upserted.append(message)
        if entry.priority:
            response.priorities[entry.id] = entry.priority
    yield response


def _counts(message: wire.DecisionCount) -> Counts:
    return Counts.bounded(message.requests, message.denied)


def _empty_size(response: wire.WatchResponse) -> int:
    return wire.WatchResponse(change_sequence=response.change_sequence).ByteSize()


def _version(entry: Entry) -> _Version:
    return entry.revision, entry.created_at
