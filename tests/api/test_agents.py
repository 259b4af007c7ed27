"""Attestation, renewal, bans: what an agent goes through."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    DenialReason,
    FailedPrecondition,
    GatehouseError,
    InvalidInput,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from control_plane.core.svid import verify_x509
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.google.protobuf.empty_pb2 import Empty
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types.agent_pb2 import Agent as AgentMessage
from control_plane.proto.spire.api.types.bundle_pb2 import Bundle
from control_plane.runtime.tls import TlsIdentity

AGENT = "/spire.api.server.agent.v1.Agent/"
ENTRY = "/spire.api.server.entry.v1.Entry/"
SVID = "/spire.api.server.svid.v1.SVID/"
BUNDLE = "/spire.api.server.bundle.v1.Bundle/"
WATCH = "/gatehouse.node.v1.Node/Watch"


def test_from_token_to_svid(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        assert agent.id.path.startswith("/spire/agent/join_token/")
        assert (
            verify_x509(agent.identity.chain, server.parts.trust.own, server.parts.clock.unix()) == agent.id
        )
        created = await server.create(
            api.entry_for("/web", agent.id, dns_names=["web.internal"]),
            api.entry_for("/db", "spiffe://example.org/x"),
        )
        entry_id, foreign_id = (result.entry.id for result in created.results)
        async with agent.channel.stream(
            ENTRY + "SyncAuthorizedEntries", entry_pb2.SyncAuthorizedEntriesResponse, timeout=5
        ) as call:
            await call.send(entry_pb2.SyncAuthorizedEntriesRequest(), end=True)
            reply = await call.receive()
            assert [entry.id for entry in reply.entries] == [entry_id] and not reply.more
            assert await call.receive() is None
        _, csr = api.new_key_and_csr()
        params = svid_pb2.NewX509SVIDParams
        reply = await agent.channel.unary(
            SVID + "BatchNewX509SVID",
            svid_pb2.BatchNewX509SVIDRequest(
                params=[
                    params(entry_id=foreign_id, csr=csr),
                    params(entry_id=entry_id, csr=csr),
                    params(entry_id=entry_id, csr=csr[:-1] + b"x"),
                ]
            ),
            svid_pb2.BatchNewX509SVIDResponse,
        )
        assert [result.status.code for result in reply.results] == [5, 0, 3]
        svid = reply.results[1].svid
        chain = tuple(svid.cert_chain)
        assert (
            str(verify_x509(chain, server.parts.trust.own, server.parts.clock.unix()))
            == "spiffe://example.org/web"
        )
        leaf = x509.load_der_x509_certificate(chain[0])
        assert int(leaf.not_valid_after_utc.timestamp()) == svid.expires_at
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["web.internal"]
        token = await agent.channel.unary(
            SVID + "NewJWTSVID",
            svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=["bank"]),
            svid_pb2.NewJWTSVIDResponse,
        )
        assert token.svid.expires_at > token.svid.issued_at > 0

    serve(scenario)


def test_a_token_works_once_and_is_not_stored(serve: Any, short_dir: Path) -> None:
    async def scenario(server: Any) -> None:
        token = await server.token()
        await server.attest("join_token", token.encode())
        with pytest.raises(InvalidInput, match="already been used"):
            await server.attest("join_token", token.encode())
        unused = await server.token()
        await server.parts.store.prune_changes(1)
        assert unused.encode() not in b"".join(p.read_bytes() for p in (short_dir / "d").glob("registry.db*"))
        with pytest.raises(InvalidInput):
            await server.attest("join_token", b"..")
        with pytest.raises(FailedPrecondition, match="attestor"):
            await server.attest("no_such", b"x")

    serve(scenario)


def test_an_expired_token_is_used_up(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        request = agent_pb2.CreateJoinTokenRequest(ttl=1, token="mine-1")
        from control_plane.proto.spire.api.types.jointoken_pb2 import JoinToken

        await server.admin.unary(AGENT + "CreateJoinToken", request, JoinToken)
        await asyncio.sleep(1.1)
        with pytest.raises(InvalidInput, match="expired"):
            await server.attest("join_token", b"mine-1")
        with pytest.raises(InvalidInput, match="already been used"):
            await server.attest("join_token", b"mine-1")

    serve(scenario)


async def renew(server: Any, api: Any, agent: Any) -> TlsIdentity:
    from control_plane.core.secret import Secret

    pem, csr = api.new_key_and_csr()
    request = agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=csr))
    reply = await agent.channel.unary(AGENT + "RenewAgent", request, agent_pb2.RenewAgentResponse)
    return TlsIdentity(tuple(reply.svid.cert_chain), Secret(pem))


async def status(channel: Any) -> None:
    await channel.unary(
        AGENT + "PostStatus", agent_pb2.PostStatusRequest(agent_version="1"), agent_pb2.PostStatusResponse
    )


def test_the_first_use_of_a_renewed_certificate_ends_the_old_one(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        lost = await renew(server, api, agent)  # its answer never arrived: the old one goes on
        await status(agent.channel)
        new = await renew(server, api, agent)
        await status(agent.channel)
        fresh = server.tls(new)
        await status(fresh)
        for stale in (agent.channel, server.tls(lost)):
            with pytest.raises(PermissionDenied) as refused:
                await status(stale)
            assert refused.value.reason is DenialReason.AGENT_NOT_ACTIVE
        await status(fresh)

    serve(scenario)


def test_a_ban_ends_streams_within_a_second(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        async with agent.channel.server_stream(
            WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse
        ) as watch:
            assert (await watch.receive()).full
            async with asyncio.timeout(1):
                await server.admin.unary(
                    AGENT + "BanAgent", agent_pb2.BanAgentRequest(id=api.message_of(agent.id)), Empty
                )
                with pytest.raises(PermissionDenied) as refused:
                    await watch.receive()
        assert refused.value.reason is DenialReason.AGENT_BANNED
        with pytest.raises(PermissionDenied) as refused:
            await status(server.tls(agent.identity))
        assert refused.value.reason is DenialReason.AGENT_BANNED
        await server.admin.unary(
            AGENT + "DeleteAgent", agent_pb2.DeleteAgentRequest(id=api.message_of(agent.id)), Empty
        )
        with pytest.raises(PermissionDenied) as refused:
            await status(server.tls(agent.identity))
        assert refused.value.reason is DenialReason.AGENT_NOT_ATTESTED

    serve(scenario)


def test_a_revoked_authority_ends_its_connections(serve: Any, api: Any) -> None:
    from control_plane.authority.state import Kind

    async def scenario(server: Any) -> None:
        agent = await server.join()
        old = server.parts.authority.active().x509.authority_id
        async with agent.channel.server_stream(
            WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse
        ) as watch:
            await watch.receive()
            slot = await server.lifecycle.prepare(Kind.X509)
            pushed = await watch.receive()
            assert len(pushed.bundle.x509_authorities) == 2
            await server.lifecycle.activate(Kind.X509, slot.authority_id)
            await server.lifecycle.taint(Kind.X509, old)
            pushed = await watch.receive()
            assert sorted(one.tainted for one in pushed.bundle.x509_authorities) == [False, True]
            async with asyncio.timeout(2):
                await server.lifecycle.revoke(Kind.X509, old)
                with pytest.raises((Unauthenticated, Unavailable)):
                    while await watch.receive() is not None:
                        pass
        # The server presents a certificate of the new authority by now.
        await asyncio.sleep(1.2)
        await server.join()

    serve(scenario)


def test_watch_tells_who_stood_in_once_that_is_over(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        told: list[tuple[bytes, ...]] = [()]
        object.__setattr__(server.parts.context, "stand_ins", lambda: told[0])
        async with agent.channel.server_stream(
            WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse
        ) as watch:
            assert not (await watch.receive()).HasField("renew_early")
            for _ in range(2):
                told[0] = (b"\x01" * 20,)
                server.parts.replica.tell_all()
                pushed = await watch.receive()
                assert list(pushed.renew_early.issuer_key_ids) == [b"\x01" * 20]
                assert pushed.renew_early.within_seconds == 3600
                told[0] = ()
                server.parts.replica.tell_all()
                await asyncio.sleep(0.1)

    serve(scenario)


def test_a_state_too_large_for_one_message_says_that_more_comes(
    serve: Any, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that has half of the state may refuse nobody yet."""
    monkeypatch.setattr("control_plane.api.node.MAX_REPLY_BYTES", 1500)

    async def scenario(server: Any) -> None:
        agent = await server.join()
        await server.create(*(api.entry_for(f"/w{number}", agent.id) for number in range(12)))
        async with agent.channel.server_stream(
            WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse
        ) as watch:
            parts = [await watch.receive()]
            while parts[-1].more:
                parts.append(await watch.receive())
            assert len(parts) > 1
            assert [part.full for part in parts] == [True, *[False] * (len(parts) - 1)]
            assert len({entry.id for part in parts for entry in part.upserted}) == 12
            await server.create(api.entry_for("/later", agent.id))
            assert not (await watch.receive()).more

    serve(scenario)


def test_watch_pushes_deltas(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        await server.create(api.entry_for("/old", agent.id))
        async with agent.channel.server_stream(
            WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse
        ) as watch:
            first = await watch.receive()
            assert first.full and len(first.upserted) == 1 and first.bundle.x509_authorities
            began = asyncio.get_running_loop().time()
            created = await server.create(
                api.entry_for("/new", agent.id), api.entry_for("/other", "spiffe://example.org/other")
            )
            delta = await watch.receive()
            assert asyncio.get_running_loop().time() - began < 0.5
            assert not delta.full and [entry.id for entry in delta.upserted] == [created.results[0].entry.id]
            assert not delta.HasField("bundle")
            await server.admin.unary(
                ENTRY + "BatchDeleteEntry",
                entry_pb2.BatchDeleteEntryRequest(ids=[first.upserted[0].id]),
                entry_pb2.BatchDeleteEntryResponse,
            )
            assert list((await watch.receive()).removed_entry_ids) == [first.upserted[0].id]

    serve(scenario)


def pop_authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, certificate(key, "pop root", key, "pop root", ca=True)


def certificate(
    key: Any, name: str, issuer_key: Any, issuer: str, *, ca: bool, sign: bool = True
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(0xABC)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(
            x509.KeyUsage(sign and not ca, False, not sign, False, False, ca, ca, False, False), True
        )
    )
    return builder.sign(issuer_key, hashes.SHA256())


def pop_payload(*chain: x509.Certificate) -> bytes:
    texts = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in chain]
    return json.dumps({"certificates": texts}).encode()


def pop_answer(key: Any, nonce: bytes = b"n" * 32) -> Callable[[bytes], bytes]:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    def answer(challenge: bytes) -> bytes:
        [(kind, fields)] = json.loads(challenge).items()
        digest = hashlib.sha256(base64.b64decode(fields["nonce"]) + nonce).digest()
        prehashed = utils.Prehashed(hashes.SHA256())
        if isinstance(key, rsa.RSAPrivateKey):
            assert kind == "rsa_signature"
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            return json.dumps(
                {kind: {"nonce": text(nonce), "signature": text(key.sign(digest, pss, prehashed))}}
            ).encode()
        assert kind == "ecdsa_signature"
        r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(prehashed)))
        fields = {"r": text(r.to_bytes(48, "big")), "s": text(s.to_bytes(48, "big"))}
        return json.dumps({kind: {"nonce": text(nonce), **fields}}).encode()

    return answer


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384"])
def test_x509pop(kind: str, serve: Any, api: Any, tmp_path: Path) -> None:
    authority_key, authority = pop_authority()
    (tmp_path / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    key: Any = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }[kind]()
    leaf = certificate(key, "node-7", authority_key, "pop root", ca=False)

    async def scenario(server: Any) -> None:
        agent = await server.attest("x509pop", pop_payload(leaf), pop_answer(key))
        fingerprint = hashlib.sha1(leaf.public_bytes(Encoding.DER)).hexdigest()
        assert agent.id.path == f"/spire/agent/x509pop/{fingerprint}"
        record = server.parts.replica.index.agents[agent.id]
        root = hashlib.sha1(authority.public_bytes(Encoding.DER)).hexdigest()
        assert {str(selector) for selector in record.selectors} == {
            "x509pop:subject:cn:node-7",
            "x509pop:serialnumber:0abc",
            f"x509pop:ca:fingerprint:{root}",
        }
        with pytest.raises(PermissionDenied) as refused:
            await renew(server, api, agent)
        assert refused.value.reason is DenialReason.AGENT_MUST_REATTEST
        again = await server.attest("x509pop", pop_payload(leaf), pop_answer(key))
        await status(again.channel)
        with pytest.raises(PermissionDenied):
            await server.attest(
                "x509pop",
                pop_payload(leaf),
                pop_answer(ec.generate_private_key(ec.SECP384R1()))
                if kind != "rsa"
                else pop_answer(rsa.generate_private_key(65537, 2048)),
            )

    serve(scenario, **{"x509pop.ca_bundle": str(tmp_path / "ca.pem")})


def test_x509pop_refuses(serve: Any, tmp_path: Path) -> None:
    authority_key, authority = pop_authority()
    (tmp_path / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certificate(key, "node", authority_key, "pop root", ca=False)
    stranger = certificate(key, "node", key, "pop root", ca=False)
    mute = certificate(key, "node", authority_key, "pop root", ca=False, sign=False)
    weak_key = rsa.generate_private_key(65537, 1024)
    weak = certificate(weak_key, "node", authority_key, "pop root", ca=False)

    async def scenario(server: Any) -> None:
        hostile = [
            b"",
            b"[]",
            b"{}",
            b'{"certificates":[]}',
            b'{"certificates":["!"]}',
            b'{"certificates":[1]}',
            pop_payload(stranger),
            pop_payload(mute),
            pop_payload(weak),
            pop_payload(*[leaf] * 6),
        ]
        for payload in hostile:
            with pytest.raises((InvalidInput, PermissionDenied)):
                await server.attest("x509pop", payload, pop_answer(key))
        for response in (b"", b"{}", b'{"rsa_signature":{}}', b'{"ecdsa_signature":{"nonce":"AAAA"}}'):
            with pytest.raises((InvalidInput, PermissionDenied)):
                await server.attest("x509pop", pop_payload(leaf), lambda _, response=response: response)  # type: ignore[misc]

    serve(scenario, **{"x509pop.ca_bundle": str(tmp_path / "ca.pem")})


def test_attestation_is_limited_for_each_address(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        await server.join()
        await server.join()
        params = agent_pb2.AttestAgentRequest.Params()
        params.data.type, params.data.payload, params.params.csr = "join_token", b"x", b"x"
        with pytest.raises(GatehouseError) as refused:
            async with server.tls().stream(
                AGENT + "AttestAgent", agent_pb2.AttestAgentResponse, timeout=1
            ) as call:
                await call.send(agent_pb2.AttestAgentRequest(params=params), end=True)
                await call.receive()
        assert isinstance(refused.value, ResourceExhausted)

    serve(
        scenario,
        **{"rate_limits.attestation_burst": 2, "rate_limits.attestation_per_second": 0.01},
    )


def test_agents_are_listed_by_filters_and_pages(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agents = [await server.join() for _ in range(3)]
        seen: list[str] = []
        token = ""
        while True:
            request = agent_pb2.ListAgentsRequest(page_size=2, page_token=token)
            request.output_mask.banned = True
            page = await server.admin.unary(AGENT + "ListAgents", request, agent_pb2.ListAgentsResponse)
            assert all(not agent.attestation_type for agent in page.agents)
            seen += [agent.id.path for agent in page.agents]
            token = page.next_page_token
            if not token:
                break
        assert seen == sorted(agent.id.path for agent in agents)
        for text, count in (("2030-01-01 00:00:00 +0000 UTC", 3), ("2020-01-01T00:00:00Z", 0)):
            counted = agent_pb2.CountAgentsRequest(
                filter=agent_pb2.CountAgentsRequest.Filter(by_expires_before=text)
            )
            reply = await server.admin.unary(AGENT + "CountAgents", counted, agent_pb2.CountAgentsResponse)
            assert reply.count == count
        with pytest.raises(InvalidInput):
            await server.admin.unary(
                AGENT + "ListAgents",
                agent_pb2.ListAgentsRequest(page_token="%"),
                agent_pb2.ListAgentsResponse,
            )

    serve(scenario)


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "spiffe://example.org",
        "spiffe://example.org/web",
        "spiffe://example.org/spire/server",
        "spiffe://example.org/spire/agent",
        "spiffe://foreign.org/spire/agent/join_token/x",
    ],
)
def test_what_is_no_agents_id_is_refused(serve: Any, api: Any, spiffe_id: str) -> None:
    async def scenario(server: Any) -> None:
        message = api.message_of(spiffe_id)
        for method, request, reply in (
            ("GetAgent", agent_pb2.GetAgentRequest(id=message), AgentMessage),
            ("DeleteAgent", agent_pb2.DeleteAgentRequest(id=message), Empty),
            ("BanAgent", agent_pb2.BanAgentRequest(id=message), Empty),
        ):
            with pytest.raises(InvalidInput, match="id:"):
                await server.admin.unary(AGENT + method, request, reply)

    serve(scenario)


def test_an_evicted_agent_takes_the_alias_of_its_token_along(serve: Any, api: Any) -> None:
    """And nothing else below it: other entries are their authors' business."""

    async def scenario(server: Any) -> None:
        token = await server.token(agent_id=api.message_of("spiffe://example.org/fleet"))
        agent = await server.attest("join_token", token.encode())
        kept = await server.create(
            api.entry_for("/web", agent.id), api.entry_for("/db", agent.id, f"spiffe_id:{agent.id}", "a:b")
        )
        await server.admin.unary(
            AGENT + "DeleteAgent", agent_pb2.DeleteAgentRequest(id=api.message_of(agent.id)), Empty
        )
        left = await server.admin.unary(
            ENTRY + "ListEntries", entry_pb2.ListEntriesRequest(), entry_pb2.ListEntriesResponse
        )
        assert {entry.id for entry in left.entries} == {result.entry.id for result in kept.results}

    serve(scenario)


def test_an_agent_that_says_no_version_keeps_the_one_it_said(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        for version in ("1.2.3", ""):
            await agent.channel.unary(
                AGENT + "PostStatus",
                agent_pb2.PostStatusRequest(agent_version=version),
                agent_pb2.PostStatusResponse,
            )
        await server.parts.replica.refresh()
        request = agent_pb2.GetAgentRequest(id=api.message_of(agent.id))
        stored = await server.admin.unary(AGENT + "GetAgent", request, AgentMessage)
        assert stored.agent_version == "1.2.3"

    serve(scenario)


def test_the_bundle_that_an_agent_fetched_is_confirmed(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        sequence, now = server.parts.trust.own.sequence, server.parts.clock.unix()
        assert await server.parts.store.count_unconfirmed(sequence, now) == 1
        await agent.channel.unary(BUNDLE + "GetBundle", bundle_pb2.GetBundleRequest(), Bundle)
        await server.parts.confirmations.flush()
        assert await server.parts.store.count_unconfirmed(sequence, now) == 0
        assert await server.parts.store.count_unconfirmed(sequence + 1, now) == 1

    serve(scenario)


@pytest.mark.parametrize("constrained", [True, False])
def test_the_constraint_on_uris_is_a_setting(serve: Any, constrained: bool) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        issuing = read_certificate(agent.identity.chain[1])
        assert issuing.is_ca and (issuing.name_constraints is not None) is constrained

    serve(scenario, **{"authority.constrain_uris": str(constrained).lower()})
