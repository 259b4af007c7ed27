"""A server for the agent's tests: the node API, strictly, with a real CA, in memory and in one process.

It refuses what SPIRE refuses (masks without a revision number, IDs out of order, batches that are too large,
a serial that isn't current), so that an agent that pleases it pleases more than a mock. With `pushes` it
offers `gatehouse.node.v1.Node`, else that is UNIMPLEMENTED as at a SPIRE server. Tests steer it by its
attributes: `entries`, `federated`, `refuse`, `tokens`, and look at `calls`.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from control_plane.core import jwt_svid
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.ca_profile import build_root
from control_plane.core.certificate import read_certificate
from control_plane.core.csr import check_csr
from control_plane.core.entry import Entry
from control_plane.core.errors import (
    DenialReason,
    GatehouseError,
    InvalidInput,
    NotFound,
    PermissionDenied,
)
from control_plane.core.jwk import load_public_key
from control_plane.core.lifetime import Window
from control_plane.core.profile import SigningRequest, build_leaf
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, agent_id, server_id
from control_plane.core.verify_x509 import Purpose, verify_x509
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types import (
    bundle_pb2 as bundle_types,
)
from control_plane.proto.spire.api.types import (
    entry_pb2 as entry_types,
)
from control_plane.proto.spire.api.types import (
    jwtsvid_pb2,
    selector_pb2,
    spiffeid_pb2,
    status_pb2,
    x509svid_pb2,
)
from control_plane.runtime.tls import TlsIdentity, TlsServerSource
from control_plane.runtime.transport import Call, Server, service

PAGE = 500
MAX_BATCH = 100


class Ca:
    """One self-signed authority."""

    def __init__(self, trust_domain: TrustDomain, now: int) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.trust_domain = trust_domain
        window = Window(now - 300, now + 30 * 86_400)
        self.certificate = build_root(trust_domain, spki(self._key), serial(), window, self._sign)
        self.parsed = read_certificate(self.certificate)

    def leaf(
        self, spiffe_id: SpiffeId, public_key: bytes, now: int, ttl: int, dns: tuple[str, ...] = ()
    ) -> bytes:
        """A leaf for a key (SPKI DER)."""
        request = SigningRequest(spiffe_id, public_key, serial(), Window(now - 120, now + ttl), dns)
        return build_leaf(request, self.parsed, self._sign)

    def _sign(self, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


class JwtKey:
    """A key for JWT-SVIDs."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.key_id = secrets.token_hex(8)
        self.spki = spki(self._key)

    def token(self, spiffe_id: SpiffeId, audience: tuple[str, ...], now: int, ttl: int, jti: str = "") -> Any:
        """A JWT-SVID value."""
        request = jwt_svid.JwtRequest(spiffe_id, audience, now, now + ttl, token_id=jti)
        key = load_public_key(self.spki)
        return jwt_svid.encode_jwt(
            request, self.key_id, key, lambda data: self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        )


class X509Pop:
    """The server's half of x509pop, for one known certificate (DER)."""

    def __init__(self, certificate: bytes, key: ec.EllipticCurvePublicKey) -> None:
        self._certificate, self._key = certificate, key
        self._nonce = b""

    def challenge(self) -> bytes:
        self._nonce = secrets.token_bytes(32)
        nonce = base64.b64encode(self._nonce).decode()
        return json.dumps({"ecdsa_signature": {"nonce": nonce}}).encode()

    def check(self, payload: bytes, answer: bytes) -> SpiffeId:
        chain = [base64.b64decode(each) for each in json.loads(payload)["certificates"]]
        assert chain[0] == self._certificate
        signed = json.loads(answer)["ecdsa_signature"]
        r, s = (int.from_bytes(base64.b64decode(signed[name])) for name in ("r", "s"))
        nonce = base64.b64decode(signed["nonce"])
        self._key.verify(encode_dss_signature(r, s), self._nonce + nonce, ec.ECDSA(hashes.SHA256()))
        return agent_id(TrustDomain("agents.test"), "x509pop", "abcdef")


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half, DER."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def serial() -> int:
    """128 random bits, positive, the first octet not zero."""
    return secrets.randbits(120) | 1 << 120


@dataclasses.dataclass
class AgentRow:
    """What the server knows of one agent."""

    current: int
    new: int = 0
    banned: bool = False
    reattestable: bool = False


class FakeServer:
    """The whole server."""

    def __init__(self, trust_domain: TrustDomain, *, pushes: bool = True, leaf_ttl: int = 86_400) -> None:
        self.trust_domain = trust_domain
        self.leaf_ttl = leaf_ttl
        self.agent_ttl = 86_400
        self.clock_offset = 0
        self.ca = Ca(trust_domain, self.now())
        self.jwt_key = JwtKey()
        self.jwt_ttl = 300
        self.bundle = Bundle(
            trust_domain,
            (X509Authority(self.ca.certificate),),
            (JwtAuthority(self.jwt_key.key_id, self.jwt_key.spki, self.now() + 86_400),),
            sequence=1,
            refresh_hint_seconds=2,
        )
        self.entries: dict[str, Entry] = {}
        self.federated: dict[TrustDomain, Bundle] = {}
        self.tokens: set[str] = set()
        self.agents: dict[SpiffeId, AgentRow] = {}
        self.refuse: dict[str, GatehouseError] = {}
        self.refuse_entry: dict[str, int] = {}
        self.deny: DenialReason | None = None
        self.watch_ends = False
        self.watch_pauses: asyncio.Event | None = None  # between the two parts of the first state
        self.change_log = "0123456789abcdef"  # its name; changes are counted while it has one
        self.change_sequence = 1
        self.heard: dict[str, str] = defaultdict(str)  # by method, what the last call said of it
        self.connections: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.batches: list[int] = []
        self.posted: list[int] = []
        self.port = 0
        self._watchers: set[asyncio.Event] = set()
        names = [
            (agent_pb2.DESCRIPTOR.services_by_name["Agent"], _Agent(self)),
            (bundle_pb2.DESCRIPTOR.services_by_name["Bundle"], _Bundle(self)),
            (entry_pb2.DESCRIPTOR.services_by_name["Entry"], _Entry(self)),
            (svid_pb2.DESCRIPTOR.services_by_name["SVID"], _Svid(self)),
        ]
        if pushes:
            names.append((node_pb2.DESCRIPTOR.services_by_name["Node"], _Node(self)))
        self._server = Server([service(*each) for each in names], interceptors=[self._count])

    def now(self) -> int:
        return int(time.time()) + self.clock_offset

    async def start(self, port: int = 0) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = (self.ca.leaf(server_id(self.trust_domain), spki(key), self.now(), 86_400),)
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._identity = TlsIdentity(chain, Secret(der))
        self._tls = TlsServerSource(self._identity, self._trust())
        self.port = await self._server.listen_tcp("127.0.0.1", port, self._tls)

    def _trust(self) -> list[bytes]:
        return [authority.certificate for authority in self.bundle.x509_authorities]

    async def stop(self) -> None:
        await self._server.close(0)

    def change(self) -> None:
        """Tells watchers that `entries`, `federated` or `bundle` are others now."""
        self.change_sequence += 1
        for watcher in self._watchers:
            watcher.set()

    def put(self, *entries: Entry) -> None:
        """Adds or replaces entries, with a new revision."""
        for entry in entries:
            before = self.entries.get(entry.id)
            revision = before.revision + 1 if before else 0
            self.entries[entry.id] = dataclasses.replace(
                entry, revision=revision, created_at=entry.created_at or self.now()
            )
        self.change()

    def remove(self, entry_id: str) -> None:
        del self.entries[entry_id]
        self.change()

    def set_bundle(self, **changes: Any) -> None:
        """A new bundle with the next sequence number."""
        self.bundle = dataclasses.replace(self.bundle, sequence=self.bundle.sequence + 1, **changes)
        self._tls.swap(self._identity, self._trust())
        self.change()

    def rotate(self, *, taint: bool) -> None:
        """A new authority signs from now on; the old one stays, tainted or not."""
        old = [dataclasses.replace(each, tainted=taint) for each in self.bundle.x509_authorities]
        self.ca = Ca(self.trust_domain, self.now())
        self.set_bundle(x509_authorities=(*old, X509Authority(self.ca.certificate)))

    def caller(self, call: Call) -> SpiffeId:
        """The agent that calls; the active-serial rule is kept here."""
        if self.deny is not None:
            raise PermissionDenied("refused by the test", reason=self.deny)
        if not call.peer.chain:
            raise PermissionDenied("no client certificate", reason=DenialReason.AGENT_NOT_ATTESTED)
        found = verify_x509(call.peer.chain, self.bundle, self.now(), purpose=Purpose.CLIENT_AUTH)
        row = self.agents.get(found)
        if row is None:
            raise PermissionDenied("agent is not attested", reason=DenialReason.AGENT_NOT_ATTESTED)
        if row.banned:
            raise PermissionDenied("agent is banned", reason=DenialReason.AGENT_BANNED)
        shown = read_certificate(call.peer.chain[0]).serial
        if shown == row.new:
            row.current, row.new = row.new, 0
        if shown != row.current:
            raise PermissionDenied("agent is not active", reason=DenialReason.AGENT_NOT_ACTIVE)
        return found

    def agent_svid(self, spiffe_id: SpiffeId, csr: bytes) -> x509svid_pb2.X509SVID:
        der = self.ca.leaf(spiffe_id, check_csr(csr).spki, self.now(), self.agent_ttl)
        return x509svid_pb2.X509SVID(
            cert_chain=[der], id=id_message(spiffe_id), expires_at=self.now() + self.agent_ttl
        )

    async def _count(self, call: Call) -> None:
        name = call.method.rpartition("/")[2]
        self.calls[name] += 1
        self.heard[name] = call.first("gatehouse-heard") or ""
        self.connections.add(call.peer.address)
        if name in self.refuse:
            raise self.refuse[name]


class _Agent:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def attest_agent(
        self, call: Call, requests: AsyncIterator[agent_pb2.AttestAgentRequest]
    ) -> AsyncIterator[agent_pb2.AttestAgentResponse]:
        server = self._server
        request = await anext(requests)
        if not request.HasField("params"):
            raise InvalidInput("missing params")
        data = request.params.data
        reattestable = False
        if data.type == "join_token":
            token = data.payload.decode()
            if token not in server.tokens:
                raise InvalidInput("join token does not exist or has already been used")
            server.tokens.discard(token)
            spiffe_id = agent_id(server.trust_domain, "join_token", token)
        elif data.type == "x509pop":
            yield agent_pb2.AttestAgentResponse(challenge=server.x509pop.challenge())  # type: ignore[attr-defined]
            answer = (await anext(requests)).challenge_response
            spiffe_id = server.x509pop.check(data.payload, answer)  # type: ignore[attr-defined]
            reattestable = True
        else:
            raise InvalidInput(f"unknown attestation type {data.type}")
        row = server.agents.get(spiffe_id)
        if row is not None and row.banned:
            raise PermissionDenied("failed to attest: banned", reason=DenialReason.AGENT_BANNED)
        svid = server.agent_svid(spiffe_id, request.params.params.csr)
        server.agents[spiffe_id] = AgentRow(
            read_certificate(svid.cert_chain[0]).serial, reattestable=reattestable
        )
        yield agent_pb2.AttestAgentResponse(
            result=agent_pb2.AttestAgentResponse.Result(svid=svid, reattestable=reattestable)
        )

    async def renew_agent(
        self, call: Call, request: agent_pb2.RenewAgentRequest
    ) -> agent_pb2.RenewAgentResponse:
        caller = self._server.caller(call)
        row = self._server.agents[caller]
        if row.reattestable:
            raise PermissionDenied("agent must reattest", reason=DenialReason.AGENT_MUST_REATTEST)
        svid = self._server.agent_svid(caller, request.params.csr)
        row.new = read_certificate(svid.cert_chain[0]).serial
        return agent_pb2.RenewAgentResponse(svid=svid)

    async def post_status(
        self, call: Call, request: agent_pb2.PostStatusRequest
    ) -> agent_pb2.PostStatusResponse:
        self._server.caller(call)
        self._server.posted.append(request.current_bundle_serial)
        return agent_pb2.PostStatusResponse()


class _Bundle:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def get_bundle(self, call: Call, request: bundle_pb2.GetBundleRequest) -> bundle_types.Bundle:
        return bundle_message(self._server.bundle)

    async def get_federated_bundle(
        self, call: Call, request: bundle_pb2.GetFederatedBundleRequest
    ) -> bundle_types.Bundle:
        self._server.caller(call)
        found = self._server.federated.get(TrustDomain(request.trust_domain))
        if found is None:
            raise NotFound("bundle not found")
        return bundle_message(found)


class _Entry:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def sync_authorized_entries(
        self, call: Call, requests: AsyncIterator[entry_pb2.SyncAuthorizedEntriesRequest]
    ) -> AsyncIterator[entry_pb2.SyncAuthorizedEntriesResponse]:
        self._server.caller(call)
        first = await anext(requests)
        if first.ids or not first.output_mask.revision_number:
            raise InvalidInput("the first request carries a mask with revision_number and no ids")
        entries = dict(self._server.entries)
        reply = entry_pb2.SyncAuthorizedEntriesResponse
        if len(entries) <= PAGE:
            yield reply(entries=[entry_message(entry) for entry in entries.values()])
            return
        everything = list(entries.values())
        for start in range(0, len(everything), PAGE):
            page = everything[start : start + PAGE]
            yield reply(
                entry_revisions=[
                    entry_pb2.EntryRevision(
                        id=entry.id, revision_number=entry.revision, created_at=entry.created_at
                    )
                    for entry in page
                ],
                more=start + PAGE < len(everything),
            )
        async for request in requests:
            ids = list(request.ids)
            if ids != sorted(ids) or len(ids) > PAGE or not ids:
                raise InvalidInput("ids must come in order, one page at a time")
            found = [entries[entry_id] for entry_id in ids if entry_id in entries]
            middle = len(found) // 2
            yield reply(entries=[entry_message(entry) for entry in found[:middle]], more=True)
            yield reply(entries=[entry_message(entry) for entry in found[middle:]], more=False)


class _Svid:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def batch_new_x509_svid(
        self, call: Call, request: svid_pb2.BatchNewX509SVIDRequest
    ) -> svid_pb2.BatchNewX509SVIDResponse:
        server = self._server
        server.caller(call)
        if len(request.params) > MAX_BATCH:
            raise InvalidInput(f"batch of {len(request.params)}")
        server.batches.append(len(request.params))
        return svid_pb2.BatchNewX509SVIDResponse(results=[self._one(each) for each in request.params])

    def _one(self, params: svid_pb2.NewX509SVIDParams) -> svid_pb2.BatchNewX509SVIDResponse.Result:
        server = self._server
        entry = server.entries.get(params.entry_id)
        code = server.refuse_entry.get(params.entry_id, 0 if entry else 5)
        if entry is None or code:
            return svid_pb2.BatchNewX509SVIDResponse.Result(
                status=status_pb2.Status(code=code, message="entry not found or not authorized")
            )
        ttl = entry.x509_svid_ttl_seconds or server.leaf_ttl
        public_key = check_csr(params.csr).spki
        der = server.ca.leaf(entry.spiffe_id, public_key, server.now(), ttl, entry.dns_names)
        return svid_pb2.BatchNewX509SVIDResponse.Result(
            svid=x509svid_pb2.X509SVID(
                cert_chain=[der], id=id_message(entry.spiffe_id), expires_at=server.now() + ttl
            )
        )

    async def new_jwt_svid(
        self, call: Call, request: svid_pb2.NewJWTSVIDRequest
    ) -> svid_pb2.NewJWTSVIDResponse:
        server = self._server
        server.caller(call)
        entry = server.entries.get(request.entry_id)
        if entry is None:
            raise NotFound("entry not found or not authorized")
        ttl = entry.jwt_svid_ttl_seconds or server.jwt_ttl
        svid = server.jwt_key.token(entry.spiffe_id, tuple(request.audience), server.now(), ttl)
        return svid_pb2.NewJWTSVIDResponse(
            svid=jwtsvid_pb2.JWTSVID(
                token=svid.token,
                id=id_message(entry.spiffe_id),
                issued_at=svid.issued_at,
                expires_at=svid.expires_at,
            )
        )


class _Node:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def watch(
        self, call: Call, request: node_pb2.WatchRequest
    ) -> AsyncIterator[node_pb2.WatchResponse]:
        server = self._server
        server.caller(call)
        news = asyncio.Event()
        server._watchers.add(news)
        try:
            entries, bundle, federated = dict(server.entries), server.bundle, dict(server.federated)
            known = {each.id: (each.revision_number, each.created_at) for each in request.known_entries}
            new = [
                each for each in entries.values() if known.get(each.id) != (each.revision, each.created_at)
            ]
            gone = [each for each in known if each not in entries]
            if server.watch_pauses is not None:
                first = self._response(True, new[:1], gone, bundle, federated.values(), [])
                first.more = True
                yield first
                await server.watch_pauses.wait()
                new = new[1:]
                yield self._response(False, new, [], None, [], [])
            else:
                yield self._response(True, new, gone, bundle, federated.values(), [])
            if server.watch_ends:
                return
            while True:
                await news.wait()
                await asyncio.sleep(0.01)
                news.clear()
                server.caller(call)
                if "Watch" in server.refuse:
                    raise server.refuse["Watch"]
                now = dict(server.entries)
                changed = [entry for key, entry in now.items() if entries.get(key) != entry]
                gone = [key for key in entries if key not in now]
                new_bundle = server.bundle if server.bundle != bundle else None
                new_federated = [each for key, each in server.federated.items() if federated.get(key) != each]
                gone_federated = [key.name for key in federated if key not in server.federated]
                entries, bundle, federated = now, server.bundle, dict(server.federated)
                yield self._response(False, changed, gone, new_bundle, new_federated, gone_federated)
        finally:
            server._watchers.discard(news)

    def _response(
        self, full: bool, entries: Any, gone: Any, bundle: Bundle | None, federated: Any, gone_federated: Any
    ) -> node_pb2.WatchResponse:
        listed = list(entries)
        return node_pb2.WatchResponse(
            full=full,
            change_log=self._server.change_log if full else "",
            change_sequence=self._server.change_sequence,
            upserted=[entry_message(entry) for entry in listed],
            removed_entry_ids=gone,
            bundle=bundle_message(bundle) if bundle is not None else None,
            federated_bundles=[bundle_message(each) for each in federated],
            removed_federated=gone_federated,
            priorities={entry.id: entry.priority for entry in listed if entry.priority},
        )


def id_message(spiffe_id: SpiffeId) -> spiffeid_pb2.SPIFFEID:
    return spiffeid_pb2.SPIFFEID(trust_domain=spiffe_id.trust_domain.name, path=spiffe_id.path)


def bundle_message(bundle: Bundle) -> bundle_types.Bundle:
    return bundle_types.Bundle(
        trust_domain=bundle.trust_domain.name,
        x509_authorities=[
            bundle_types.X509Certificate(asn1=each.certificate, tainted=each.tainted)
            for each in bundle.x509_authorities
        ],
        jwt_authorities=[
            bundle_types.JWTKey(
                public_key=each.public_key,
                key_id=each.key_id,
                expires_at=each.expires_at,
                tainted=each.tainted,
            )
            for each in bundle.jwt_authorities
        ],
        refresh_hint=bundle.refresh_hint_seconds,
        sequence_number=bundle.sequence,
    )


def entry_message(entry: Entry) -> entry_types.Entry:
    return entry_types.Entry(
        id=entry.id,
        spiffe_id=id_message(entry.spiffe_id),
        parent_id=id_message(entry.parent_id),
        selectors=[
            selector_pb2.Selector(type=each.type, value=each.value) for each in sorted(entry.selectors)
        ],
        x509_svid_ttl=entry.x509_svid_ttl_seconds,
        federates_with=[domain.name for domain in entry.federates_with],
        dns_names=entry.dns_names,
        hint=entry.hint,
        store_svid=entry.store_svid,
        revision_number=entry.revision,
        created_at=entry.created_at,
        additional_attributes=entry_types.Entry.AdditionalAttributes(
            disable_x509_svid_prefetch=entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti=entry.jwt_svid_include_jti,
        ),
    )
