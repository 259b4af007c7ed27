"""The admin socket's services: what this agent holds, and why a process gets what it gets.

The socket is the agent's own user's and root's (mode 0600); nobody else is asked who they are. Nothing here
changes anything but the log level. The Debug service is SPIRE's, so that its tools can ask.
"""

from typing import Final

from agent import messages
from agent.attest.process import ProcessEnded
from agent.attest.sessions import Sessions
from agent.enforcement.policies import Policies
from agent.explain import near_misses
from agent.identities import Identities
from agent.jwt_svids import JwtSvids
from agent.node import Node
from agent.sync import Synchroniser
from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.core.selectors import Selector, Selectors
from control_plane.proto.gatehouse.agent.v1 import admin_pb2 as pb
from control_plane.proto.spire.api.agent.debug.v1 import debug_pb2
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.runtime.clock import Clock
from control_plane.runtime.transport import Call

MAX_LISTED: Final = 10_000


class Admin:
    """Implements gatehouse.agent.v1.Admin."""

    def __init__(
        self,
        identities: Identities,
        sessions: Sessions,
        node: Node,
        sync: Synchroniser,
        policies: Policies,
    ) -> None:
        self._identities = identities
        self._sessions = sessions
        self._node = node
        self._sync = sync
        self._policies = policies

    async def show_policy(self, call: Call, request: pb.ShowPolicyRequest) -> pb.ShowPolicyResponse:
        """What is enforced, for whom, and which rule comes from which line."""
        current = self._policies.current
        return pb.ShowPolicyResponse(
            sequence=current.sequence,
            version=current.version,
            digest=current.digest,
            issued_at=current.issued_at,
            settled=current.settled,
            error=self._policies.error,
            quarantined=sorted(map(str, current.quarantined)),
            workloads=[
                pb.EnforcedWorkload(
                    workload=policy.workload,
                    spiffe_id=str(policy.spiffe_id),
                    judged_by_agent=policy.custom,
                    rules=[pb.RuleLines(rule=rule, lines=lines) for rule, lines in policy.lines.items()],
                )
                for policy in current.workloads.values()
            ],
        )

    async def list_identities(
        self, call: Call, request: pb.ListIdentitiesRequest
    ) -> pb.ListIdentitiesResponse:
        """All entries with the SVIDs held for them; 0 and empty where none is held."""
        held = self._identities.held()
        return pb.ListIdentitiesResponse(
            identities=[
                pb.Identity(
                    entry_id=entry.id,
                    spiffe_id=str(entry.spiffe_id),
                    selectors=messages.selector_messages(entry.selectors),
                    expires_at=held[entry.id].svid.not_after if entry.id in held else 0,
                    renews_at=held[entry.id].renew_at if entry.id in held else 0,
                    serial=f"{held[entry.id].svid.serial:x}" if entry.id in held else "",
                    subscribers=self._identities.subscriber_count(entry.id),
                )
                for entry in list(self._identities.entries.values())[:MAX_LISTED]
            ]
        )

    async def explain(self, call: Call, request: pb.ExplainRequest) -> pb.ExplainResponse:
        """For a process or for selectors: what matches, what nearly does, and how fresh our knowledge is."""
        response = pb.ExplainResponse(
            last_sync_at=self._sync.last_sync,
            last_sync_error="; ".join(filter(None, (self._sync.error, self._node.error))),
            agent_id=str(self._node.credential.spiffe_id) if self._node.credential else "",
        )
        selectors = await self._selectors(request, response)
        response.attested.extend(messages.selector_messages(selectors))
        if response.process_ended:
            return response
        held = self._identities.held()
        for position, entry in enumerate(self._identities.match(selectors)):
            svid = held.get(entry.id)
            response.matches.append(
                pb.EntryMatch(
                    entry_id=entry.id,
                    spiffe_id=str(entry.spiffe_id),
                    svid_expires_at=svid.svid.not_after if svid else 0,
                    renews_at=svid.renew_at if svid else 0,
                    is_default=position == 0,
                    hint=entry.hint,
                )
            )
            if error := self._identities.error(entry.id):
                response.attestation_errors.append(f"entry {entry.id}: {error}")
        for miss in near_misses(self._identities.entries.values(), selectors):
            response.near.append(
                pb.NearMiss(
                    entry_id=miss.entry.id,
                    spiffe_id=str(miss.entry.spiffe_id),
                    missing=messages.selector_messages(miss.missing),
                )
            )
        return response

    async def _selectors(self, request: pb.ExplainRequest, response: pb.ExplainResponse) -> Selectors:
        if request.pid < 0 or (request.pid and request.selectors) or not (request.pid or request.selectors):
            raise InvalidInput("explain: give either a process ID or selectors")
        if not request.pid:
            return frozenset(Selector(selector.type, selector.value) for selector in request.selectors)
        try:
            attestation = await self._sessions.explain(request.pid)
        except ProcessEnded as error:
            response.process_ended = True
            response.attestation_errors.append(str(error))
            return frozenset()
        except GatehouseError as error:
            response.attestation_errors.append(str(error))
            return frozenset()
        response.attestation_errors.extend(attestation.problems)
        return attestation.selectors


class Debug:
    """Implements spire.agent.debug.v1.Debug."""

    def __init__(
        self, identities: Identities, node: Node, sync: Synchroniser, jwt_svids: JwtSvids, clock: Clock
    ) -> None:
        self._identities = identities
        self._node = node
        self._sync = sync
        self._jwt_svids = jwt_svids
        self._clock = clock
        self._started = clock.monotonic()

    async def get_info(self, call: Call, request: debug_pb2.GetInfoRequest) -> debug_pb2.GetInfoResponse:
        """The agent's own SVID, and counts."""
        credential = self._node.credential
        certificates = []
        if credential is not None:
            certificates.append(
                debug_pb2.GetInfoResponse.Cert(
                    id=SPIFFEID(
                        trust_domain=credential.spiffe_id.trust_domain.name, path=credential.spiffe_id.path
                    ),
                    expires_at=credential.held.svid.not_after,
                )
            )
        held = len(self._identities.held())
        return debug_pb2.GetInfoResponse(
            svid_chain=certificates,
            uptime=int(self._clock.monotonic() - self._started),
            svids_count=held,
            last_sync_success=self._sync.last_sync,
            cached_x509_svids_count=held,
            cached_jwt_svids_count=len(self._jwt_svids),
        )
