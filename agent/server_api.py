"""The server's node API over gRPC: SPIRE's services, and ours for pushes.

Speaks to a Gatehouse server and to a SPIRE server alike (spire.api.server.*.v1). Here are the wire rules:
paging, batch limits, masks, timeouts. When to call what is decided in `node`, `sync` and `keeper`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from agent import messages
from agent.cache_content import AgentCredential
from agent.enforcement.counts import Decided, Snapshot
from agent.heard import Heard
from agent.node_attestors import NodeAttestor
from agent.ports import Attested, Change
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError, InvalidInput, NotFound, PeerMisbehaved
from control_plane.core.log_position import LogPosition
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.core.svid import JwtSvid
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types import attestation_pb2
from control_plane.proto.spire.api.types import bundle_pb2 as bundle_types
from control_plane.runtime.clock import Clock
from control_plane.runtime.tls import TlsClient, TlsIdentity
from control_plane.runtime.transport import Channel, ClientCall

AGENT: Final = "/spire.api.server.agent.v1.Agent/"
BUNDLE: Final = "/spire.api.server.bundle.v1.Bundle/"
ENTRY: Final = "/spire.api.server.entry.v1.Entry/"
SVID: Final = "/spire.api.server.svid.v1.SVID/"
NODE: Final = "/gatehouse.node.v1.Node/"

TIMEOUT_SECONDS: Final = 30.0
MAX_CHALLENGES: Final = 8
MAX_ENTRIES: Final = 200_000
MAX_REPORTED: Final = 100  # workloads in one report
VERSION: Final = "gatehouse"


class GrpcServerApi:
    """One connection; see `ports.ServerApi`. It is made at the first call and made again when it ended.
    `heard` is shared by all connections of the agent."""

    def __init__(
        self, channel: Channel, trust_domain: TrustDomain, heard: Heard, version: str = VERSION
    ) -> None:
        self._channel = channel
        self._trust_domain = trust_domain
        self._heard = heard
        self._version = version

    async def attest(self, attestor: NodeAttestor, csr: bytes) -> Attested:
        """AttestAgent: parameters, challenges as often as the method asks, result."""
        first = agent_pb2.AttestAgentRequest(
            params=agent_pb2.AttestAgentRequest.Params(
                data=attestation_pb2.AttestationData(type=attestor.type, payload=attestor.payload()),
                params=agent_pb2.AgentX509SVIDParams(csr=csr),
            )
        )
        async with self._channel.stream(
            AGENT + "AttestAgent", agent_pb2.AttestAgentResponse, timeout=TIMEOUT_SECONDS
        ) as call:
            await call.send(first)
            for _ in range(MAX_CHALLENGES):
                response = await call.receive()
                if response is None:
                    raise PeerMisbehaved("attesting this node: the server ended the call without a result")
                if response.WhichOneof("step") == "result":
                    await call.end()
                    await call.expect_end()
                    return Attested(tuple(response.result.svid.cert_chain), response.result.reattestable)
                answer = attestor.respond(response.challenge)
                await call.send(agent_pb2.AttestAgentRequest(challenge_response=answer))
        raise PeerMisbehaved(f"attesting this node: more than {MAX_CHALLENGES} challenges")

    async def renew(self, csr: bytes) -> tuple[bytes, ...]:
        """RenewAgent."""
        response = await self._channel.unary(
            AGENT + "RenewAgent",
            agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=csr)),
            agent_pb2.RenewAgentResponse,
            timeout=TIMEOUT_SECONDS,
            metadata=self._heard.metadata,
        )
        return tuple(response.svid.cert_chain)

    async def bundle(self) -> Bundle:
        """GetBundle; works without a client certificate too."""
        response = await self._channel.unary(
            BUNDLE + "GetBundle", bundle_pb2.GetBundleRequest(), bundle_types.Bundle, timeout=TIMEOUT_SECONDS
        )
        bundle = messages.bundle(response)
        if bundle.trust_domain != self._trust_domain or not bundle.x509_authorities:
            raise PeerMisbehaved(
                f"the server's bundle is of {bundle.trust_domain}, with {len(bundle.x509_authorities)} "
                f"X.509 authorities; expected one of {self._trust_domain} with at least one"
            )
        return bundle

    async def federated_bundle(self, trust_domain: TrustDomain) -> Bundle | None:
        """GetFederatedBundle; NotFound is an answer (the relationship may come later)."""
        try:
            response = await self._channel.unary(
                BUNDLE + "GetFederatedBundle",
                bundle_pb2.GetFederatedBundleRequest(trust_domain=trust_domain.name),
                bundle_types.Bundle,
                timeout=TIMEOUT_SECONDS,
                metadata=self._heard.metadata,
            )
        except NotFound:
            return None
        bundle = messages.bundle(response)
        return bundle if bundle.trust_domain == trust_domain else None

    async def sync_entries(self, known: Mapping[str, Entry]) -> dict[str, Entry]:
        """SyncAuthorizedEntries: all entries in one reply, or revisions first and then those that differ.

        The size of the first page of revisions is the page size for the IDs asked for, which go in order.
        """
        async with self._channel.stream(
            ENTRY + "SyncAuthorizedEntries",
            entry_pb2.SyncAuthorizedEntriesResponse,
            timeout=TIMEOUT_SECONDS,
            metadata=self._heard.metadata,
        ) as call:
            await call.send(entry_pb2.SyncAuthorizedEntriesRequest(output_mask=messages.ENTRY_MASK))
            first = await _page(call)
            if not first.entry_revisions:
                if first.more:
                    raise PeerMisbehaved("syncing entries: the server sent entries and promised more of them")
                await call.end()
                return {entry.id: entry for entry in messages.entries(first.entries)}
            page_size = len(first.entry_revisions)
            revisions = list(first.entry_revisions)
            page = first
            while page.more:
                page = await _page(call)
                revisions += page.entry_revisions
                if page.entries or len(revisions) > MAX_ENTRIES:
                    raise PeerMisbehaved(
                        "syncing entries: a page of revisions holds entries, or there is no end"
                    )
            current = {
                revision.id: known[revision.id] for revision in revisions if _is_current(revision, known)
            }
            missing = sorted(revision.id for revision in revisions if revision.id not in current)
            for start in range(0, len(missing), page_size):
                share = missing[start : start + page_size]
                await call.send(entry_pb2.SyncAuthorizedEntriesRequest(ids=share))
                current.update(await _entries(call, len(share)))
            await call.end()
            await call.expect_end()
            return current

    @asynccontextmanager
    async def watch(
        self, known: Mapping[str, Entry], enforced: tuple[int, int] = (0, 0)
    ) -> AsyncIterator[AsyncIterator[Change]]:
        """Watch. Saying what is known spares the server to send it, and us to forget it in between."""
        request = node_pb2.WatchRequest(
            known_entries=[
                entry_pb2.EntryRevision(
                    id=entry.id, revision_number=entry.revision, created_at=entry.created_at
                )
                for entry in known.values()
            ],
            agent_version=self._version,
            known_policy_sequence=enforced[0],
            known_quarantine_revision=enforced[1],
        )
        async with self._channel.server_stream(
            NODE + "Watch", request, node_pb2.WatchResponse, metadata=self._heard.metadata
        ) as call:
            yield _changes(call, self._heard)

    async def new_x509_svids(
        self, requests: Sequence[tuple[Entry, bytes]]
    ) -> list[tuple[bytes, ...] | GatehouseError]:
        """BatchNewX509SVID; results come in the order of the requests."""
        response = await self._channel.unary(
            SVID + "BatchNewX509SVID",
            svid_pb2.BatchNewX509SVIDRequest(
                params=[svid_pb2.NewX509SVIDParams(entry_id=entry.id, csr=csr) for entry, csr in requests]
            ),
            svid_pb2.BatchNewX509SVIDResponse,
            timeout=TIMEOUT_SECONDS,
            metadata=self._heard.metadata,
        )
        if len(response.results) != len(requests):
            raise PeerMisbehaved(
                f"asked for {len(requests)} SVIDs, the server answered {len(response.results)}"
            )
        return [
            messages.error_of(result.status, f"SVID {entry.spiffe_id}")
            if result.status.code
            else tuple(result.svid.cert_chain)
            for (entry, _), result in zip(requests, response.results, strict=True)
        ]

    async def new_jwt_svid(self, entry: Entry, audience: tuple[str, ...]) -> JwtSvid:
        """NewJWTSVID."""
        response = await self._channel.unary(
            SVID + "NewJWTSVID",
            svid_pb2.NewJWTSVIDRequest(entry_id=entry.id, audience=audience),
            svid_pb2.NewJWTSVIDResponse,
            timeout=TIMEOUT_SECONDS,
            metadata=self._heard.metadata,
        )
        svid = response.svid
        if not svid.token or svid.issued_at <= 0 or svid.expires_at < svid.issued_at:
            raise PeerMisbehaved(
                f"JWT-SVID {entry.spiffe_id}: the server's answer lacks the token or its times"
            )
        return JwtSvid(messages.spiffe_id(svid.id), svid.token, audience, svid.issued_at, svid.expires_at)

    async def post_status(self, bundle_sequence: int) -> None:
        """PostStatus."""
        await self._channel.unary(
            AGENT + "PostStatus",
            agent_pb2.PostStatusRequest(current_bundle_serial=bundle_sequence, agent_version=self._version),
            agent_pb2.PostStatusResponse,
            timeout=TIMEOUT_SECONDS,
            metadata=self._heard.metadata,
        )

    async def report_decisions(self, canary: int, snapshot: Snapshot) -> bool:
        """ReportDecisions. Where there are too many workloads, those with the most denials."""
        most = sorted(snapshot.workloads.items(), key=lambda one: (-one[1].denied, -one[1].requests))
        request = node_pb2.ReportDecisionsRequest(
            canary=canary,
            sequence=snapshot.sequence,
            workloads=[_count(decided, str(spiffe_id)) for spiffe_id, decided in most[:MAX_REPORTED]],
            before=_count(snapshot.before),
        )
        response = await self._channel.unary(
            NODE + "ReportDecisions", request, node_pb2.ReportDecisionsResponse, timeout=TIMEOUT_SECONDS
        )
        return response.taken

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()


class GrpcDial:
    """Makes connections to one server; see `ports.Dial`."""

    def __init__(
        self,
        host: str,
        port: int,
        trust_domain: TrustDomain,
        clock: Clock,
        heard: Heard | None = None,
        version: str = VERSION,
    ) -> None:
        self._host = host
        self._port = port
        self._trust_domain = trust_domain
        self._clock = clock
        self._heard = heard or Heard()
        self._version = version

    def __call__(self, credential: AgentCredential | None, bundle: Callable[[], Bundle]) -> GrpcServerApi:
        """A connection that is made when it is first used."""
        identity = None
        if credential is not None:
            identity = TlsIdentity(credential.held.svid.chain, credential.held.private_key)
        tls = TlsClient(
            server_id(self._trust_domain), bundle, lambda: identity, self._clock, allow_tls12=True
        )
        channel = Channel.tcp(self._host, self._port, tls)
        return GrpcServerApi(channel, self._trust_domain, self._heard, self._version)


async def _changes(call: ClientCall[node_pb2.WatchResponse], heard: Heard) -> AsyncIterator[Change]:
    log = ""
    async for response in call:
        log = response.change_log or log
        if log and response.change_sequence:
            heard.take(_position(log, response.change_sequence))
        yield Change(
            full=response.full,
            upserted=messages.entries(response.upserted, response.priorities),
            removed=tuple(response.removed_entry_ids),
            bundle=messages.bundle(response.bundle) if response.HasField("bundle") else None,
            federated=tuple(messages.bundle(bundle) for bundle in response.federated_bundles),
            removed_federated=tuple(TrustDomain.parse(name) for name in response.removed_federated),
            news=messages.news(response),
            wanted=messages.wanted(response),
            early=messages.early(response),
            more=response.more,
        )


def _position(log: str, sequence: int) -> LogPosition:
    try:
        return LogPosition.parse(f"{log}/{sequence}")
    except InvalidInput as error:
        raise PeerMisbehaved(f"a push of the server: {error.message}") from error


def _count(decided: Decided, spiffe_id: str = "") -> node_pb2.DecisionCount:
    return node_pb2.DecisionCount(spiffe_id=spiffe_id, requests=decided.requests, denied=decided.denied)


async def _page(
    call: ClientCall[entry_pb2.SyncAuthorizedEntriesResponse],
) -> entry_pb2.SyncAuthorizedEntriesResponse:
    page = await call.receive()
    if page is None:
        raise PeerMisbehaved("syncing entries: the server ended the call before it had said everything")
    return page


async def _entries(call: ClientCall[entry_pb2.SyncAuthorizedEntriesResponse], asked: int) -> dict[str, Entry]:
    """The answer to one request for entries by ID: as many replies as it says."""
    found: dict[str, Entry] = {}
    while True:
        page = await _page(call)
        found.update((entry.id, entry) for entry in messages.entries(page.entries))
        if page.entry_revisions or len(found) > asked:
            raise PeerMisbehaved("syncing entries: the server answered with more than was asked for")
        if not page.more:
            return found


def _is_current(revision: entry_pb2.EntryRevision, known: Mapping[str, Entry]) -> bool:
    entry = known.get(revision.id)
    return (
        entry is not None
        and entry.revision == revision.revision_number
        and entry.created_at == revision.created_at
    )
