"""spire.api.server.agent.v1.Agent: attestation, renewal and administration of agents (spire.md b.1, b.2)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from control_plane.api.agent_filters import agent_filter
from control_plane.api.caller import agent_of, caller_of
from control_plane.api.context import ServerContext
from control_plane.api.paging import page_of, read_token, write_token
from control_plane.core.entry import Entry, check_member
from control_plane.core.errors import (
    Bug,
    DeadlineExceeded,
    DenialReason,
    FailedPrecondition,
    GatehouseError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    shown,
)
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, agent_id, is_agent_id
from control_plane.core.svid import X509Svid
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.attestors import AttestedNode, Challenge
from control_plane.identity.attestors.join_token import TYPE as JOIN_TOKEN
from control_plane.identity.attestors.join_token import check_token, new_token, token_digest
from control_plane.identity.issuance import X509Issue
from control_plane.identity.ports import JoinToken
from control_plane.proto.convert import (
    mask_of,
    masked,
    selectors_to_messages,
    spiffe_id_from_message,
    spiffe_id_to_message,
    x509_svid_to_message,
)
from control_plane.proto.google.protobuf.empty_pb2 import Empty
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2 as wire
from control_plane.proto.spire.api.types import agent_pb2, jointoken_pb2
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

MAX_ROUNDS: Final = 8
STEP_SECONDS: Final = 30.0
MAX_VERSION_CHARACTERS: Final = 255
MAX_TOKEN_TTL_SECONDS: Final = 366 * 24 * 3600

_log = get_logger("agents")


class AgentService:
    """Implements the Agent service; who may call what was decided before."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def attest_agent(
        self, call: Call, requests: AsyncIterator[wire.AttestAgentRequest]
    ) -> AsyncIterator[wire.AttestAgentResponse]:
        await self._context.limiters.attestation.take(call)
        first = await _next(requests)
        params = first.params
        if first.WhichOneof("step") != "params" or not params.data.type or not params.params.csr:
            raise InvalidInput("attestation: the first message must carry params with type, payload and CSR")
        attestor = self._context.attestors.get(params.data.type)
        if attestor is None:
            raise FailedPrecondition(
                f"could not find node attestor type {shown(params.data.type)}",
                hint="available are " + ", ".join(sorted(self._context.attestors)),
            )
        now = self._context.clock.unix()
        conversation = attestor.begin(params.data.payload, now)
        response: bytes | None = None
        for _ in range(MAX_ROUNDS):
            step = await conversation.proceed(response)
            if isinstance(step, AttestedNode):
                yield await self._attested(attestor.type, step, params.params.csr)
                return
            assert isinstance(step, Challenge)
            yield wire.AttestAgentResponse(challenge=step.data)
            answer = await _next(requests)
            if answer.WhichOneof("step") != "challenge_response":
                raise InvalidInput("attestation: expected the response to a challenge")
            response = answer.challenge_response
        raise Bug(f"attestor {attestor.type}: no result after {MAX_ROUNDS} challenges")

    async def _attested(self, type_: str, node: AttestedNode, csr: bytes) -> wire.AttestAgentResponse:
        context = self._context
        expected = agent_id(context.trust_domain, type_, "x").path[:-1]
        if node.agent_id.trust_domain != context.trust_domain or not node.agent_id.path.startswith(expected):
            raise Bug(f"attestor {type_}: gave the ID {node.agent_id}, which isn't below {expected}")
        context.replica.index.quarantine.check(node.agent_id)
        known = context.replica.index.agents.get(node.agent_id)
        if known is not None and known.banned:
            raise PermissionDenied(f"agent {node.agent_id} is banned", reason=DenialReason.AGENT_BANNED)
        svid = await self._sign(node.agent_id, csr, None)
        # A crash from here on leaves a ledgered certificate that nobody got; the agent attests again.
        record = AgentRecord(
            id=node.agent_id,
            attestation_type=type_,
            selectors=node.selectors,
            serial=svid.serial,
            expires_at=svid.not_after,
            can_reattest=node.can_reattest,
            attested_at=context.clock.unix(),
        )
        context.confirmations.forget(node.agent_id)
        await context.store.record_attestation(record)
        await context.replica.refresh()
        # The ID of a joined agent ends in its token, which is used up by now.
        _log.info("agent_attested", agent=str(node.agent_id), attestor=type_, serial=f"{svid.serial:x}")
        return wire.AttestAgentResponse(
            result=wire.AttestAgentResponse.Result(
                svid=x509_svid_to_message(svid), reattestable=node.can_reattest
            )
        )

    async def renew_agent(self, call: Call, request: wire.RenewAgentRequest) -> wire.RenewAgentResponse:
        spiffe_id = agent_of(call)
        record = self._context.replica.index.agents.get(spiffe_id)
        if record is None:
            raise PermissionDenied(f"agent {spiffe_id}", reason=DenialReason.AGENT_NOT_ATTESTED)
        if record.can_reattest:
            raise PermissionDenied(
                f"agent {spiffe_id}: must attest again instead of renewing",
                reason=DenialReason.AGENT_MUST_REATTEST,
            )
        await self._context.limiters.x509_signing.take(call)
        svid = await self._sign(spiffe_id, request.params.csr, spiffe_id)
        await self._context.store.record_renewal(spiffe_id, svid.serial, svid.not_after)
        _log.info("agent_renewed", agent=str(spiffe_id), serial=f"{svid.serial:x}")
        return wire.RenewAgentResponse(svid=x509_svid_to_message(svid))

    async def _sign(self, spiffe_id: SpiffeId, csr: bytes, requested_by: SpiffeId | None) -> X509Svid:
        item = X509Issue(
            spiffe_id=spiffe_id,
            csr=csr,
            ttl_seconds=self._context.ttls.agent,
            requested_by=requested_by,
        )
        [outcome] = await self._context.issuer.issue_x509([item])
        if isinstance(outcome, GatehouseError):
            raise outcome
        return outcome

    async def post_status(self, call: Call, request: wire.PostStatusRequest) -> wire.PostStatusResponse:
        await self._context.limiters.status.take(call)
        if len(request.agent_version) > MAX_VERSION_CHARACTERS:
            raise InvalidInput(
                f"agent version: {len(request.agent_version)} characters, at most {MAX_VERSION_CHARACTERS}"
            )
        spiffe_id = agent_of(call)
        record = self._context.replica.index.agents.get(spiffe_id)
        if record is not None and request.agent_version not in ("", record.version):
            await self._context.store.note_version(spiffe_id, request.agent_version)
        if request.current_bundle_serial <= self._context.trust.own.sequence:
            self._context.confirmations.note(spiffe_id, request.current_bundle_serial)
        return wire.PostStatusResponse()

    async def create_join_token(
        self, call: Call, request: wire.CreateJoinTokenRequest
    ) -> jointoken_pb2.JoinToken:
        if not 1 <= request.ttl <= MAX_TOKEN_TTL_SECONDS:
            raise InvalidInput(f"join token: ttl is {request.ttl} s, expected 1 to {MAX_TOKEN_TTL_SECONDS}")
        context = self._context
        token = check_token(request.token) if request.token else new_token(context.random_bytes)
        now = context.clock.unix()
        alias = None
        if request.HasField("agent_id"):
            parent = agent_id(context.trust_domain, JOIN_TOKEN, token.reveal())
            alias = Entry(
                id="",
                spiffe_id=spiffe_id_from_message(request.agent_id, what="agent_id"),
                parent_id=parent,
                selectors=_itself(parent),
            ).check(context.trust_domain)
        await context.store.add_token(JoinToken(token_digest(token), now + request.ttl), alias, now)
        await context.replica.refresh()
        _log.info("join_token_created", expires_at=now + request.ttl, by=str(caller_of(call)))
        return jointoken_pb2.JoinToken(value=token.reveal(), expires_at=now + request.ttl)

    async def count_agents(self, call: Call, request: wire.CountAgentsRequest) -> wire.CountAgentsResponse:
        wanted = agent_filter(request.filter)
        return wire.CountAgentsResponse(
            count=sum(wanted(agent) for agent in self._context.replica.index.agents_after(None))
        )

    async def list_agents(self, call: Call, request: wire.ListAgentsRequest) -> wire.ListAgentsResponse:
        wanted, mask = agent_filter(request.filter), mask_of(request)
        after = read_token(request.page_token)
        agents = self._context.replica.index.agents_after(SpiffeId.parse(after) if after else None)
        page, last = page_of(
            (agent for agent in agents if wanted(agent)),
            lambda agent: masked(_message(agent), mask),
            lambda agent: str(agent.id),
            request.page_size,
        )
        return wire.ListAgentsResponse(agents=page, next_page_token=write_token(last))

    async def get_agent(self, call: Call, request: wire.GetAgentRequest) -> agent_pb2.Agent:
        spiffe_id = self._agent_id(request.id)
        record = self._context.replica.index.agents.get(spiffe_id)
        if record is None:
            raise NotFound(f"agent {spiffe_id} not found")
        return masked(_message(record), mask_of(request))

    async def delete_agent(self, call: Call, request: wire.DeleteAgentRequest) -> Empty:
        """Its entries stay, save the alias that came with its token, whose selector nobody can have again."""
        spiffe_id = self._agent_id(request.id)
        await self._context.store.evict(spiffe_id)
        await self._context.replica.refresh()
        children = self._context.replica.index.children_of(spiffe_id)
        aliases = [entry.id for entry in children if entry.selectors == _itself(spiffe_id)]
        if aliases:
            await self._context.store.delete_entries(aliases)
            await self._context.replica.refresh()
        _log.info("agent_evicted", agent=str(spiffe_id), by=str(caller_of(call)))
        return Empty()

    async def ban_agent(self, call: Call, request: wire.BanAgentRequest) -> Empty:
        spiffe_id = self._agent_id(request.id)
        await self._context.store.ban(spiffe_id)
        await self._context.replica.refresh()
        _log.warning("agent_banned", agent=str(spiffe_id), by=str(caller_of(call)))
        return Empty()

    def _agent_id(self, message: SPIFFEID) -> SpiffeId:
        """Raises InvalidInput for what can't be the ID of an agent of ours."""
        spiffe_id = spiffe_id_from_message(message, what="id")
        check_member(spiffe_id, self._context.trust_domain, "id:")
        if not is_agent_id(spiffe_id):
            raise InvalidInput(f"id: {spiffe_id} is no agent's: it isn't below /spire/agent")
        return spiffe_id


def _itself(spiffe_id: SpiffeId) -> frozenset[Selector]:
    """The selector of a join token's alias: the very agent that came with the token."""
    return frozenset({Selector("spiffe_id", str(spiffe_id))})


async def _next(requests: AsyncIterator[wire.AttestAgentRequest]) -> wire.AttestAgentRequest:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await anext(requests)
    except StopAsyncIteration:
        raise InvalidInput("attestation: the agent ended the conversation") from None
    except TimeoutError:
        raise DeadlineExceeded(f"attestation: the agent sent nothing for {STEP_SECONDS:.0f} s") from None


def _message(agent: AgentRecord) -> agent_pb2.Agent:
    return agent_pb2.Agent(
        id=spiffe_id_to_message(agent.id),
        attestation_type=agent.attestation_type,
        x509svid_serial_number=str(agent.serial) if agent.serial else "",
        x509svid_expires_at=agent.expires_at,
        selectors=selectors_to_messages(agent.selectors),
        banned=agent.banned,
        can_reattest=agent.can_reattest,
        agent_version=agent.version,
    )
