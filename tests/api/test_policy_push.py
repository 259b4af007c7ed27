"""What an agent's stream says of policies and quarantine: signed bytes, keys, and nothing twice."""

import asyncio
import hashlib
import zlib
from typing import Any

import pytest

from control_plane.authority.ports import KeyPurpose
from control_plane.core.errors import PermissionDenied
from control_plane.core.signature import POLICY_BUNDLE, is_signed_by
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.quarantine import Quarantined
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.rollout.assignment import Assignment, Cause
from control_plane.rollout.bundle import PolicyKey, payload_of, signed
from control_plane.rollout.steps import Applied, Approved, Compiled, Evaluated, Life, Planned, Proved
from control_plane.rollout.version import PolicySource, PolicyVersion, SignedVersion

TD = TrustDomain("example.org")
WATCH = "/gatehouse.node.v1.Node/Watch"
SOURCE = PolicySource.of({"a.rego": "package a", "a_test.rego": "package a_test"}, "mesh: {}")


class Author:
    """Puts versions in force straight through the store, without people and without compiling."""

    def __init__(self, server: Any) -> None:
        self.store = server.parts.rollout_store
        self.signer = server.parts.keys.create(KeyPurpose.POLICY)
        self.key = PolicyKey(self.signer.key_id, self.signer.public_key, 1)
        self.sequence = 0

    async def version(self, number: int) -> Life:
        await self.store.add_key(self.key)
        version = PolicyVersion(
            number=number, digest=SOURCE.digest, content_digest=SOURCE.content_digest,
            author="ada", reason="first", created_at=1,
        )  # fmt: skip
        await self.store.add_version(SignedVersion(version, b"s", self.key.key_id), SOURCE)
        life = Life(number)
        plan = Planned(at=1, by="ada", against=0, against_version=0, gains=0, loses=0, undecided=0)
        for step in (
            Evaluated(at=1, files=1, tests=0),
            Compiled(at=1, target="envoy-rbac", workloads=0, objects=0),
            Proved(at=1, exact=0),
            plan,
            Approved(at=1, by="grace", reason="fine", plan_digest=plan.digest),
        ):
            life = await self.store.add_step(life, step)
        return life

    async def apply(self, life: Life, percent: int = 100) -> None:
        self.sequence += 1
        assignment = Assignment(
            sequence=self.sequence, version=life.number, digest=SOURCE.digest, percent=percent,
            cause=Cause.APPLY, by="op", reason="go", at=5,
        )  # fmt: skip
        bundle = signed(payload_of(SOURCE, assignment, TD), self.key, self.signer.sign)
        step = Applied(at=5, by="op", reason="go", sequence=self.sequence, percent=percent, cause="apply")
        await self.store.assign(life, step, assignment, bundle)


def watching(agent: Any, **known: Any) -> Any:
    return agent.channel.server_stream(WATCH, node_pb2.WatchRequest(**known), node_pb2.WatchResponse)


def opened(message: node_pb2.WatchResponse, key: PolicyKey) -> node_pb2.PolicyBundle:
    """Checks the signature as an agent does, and unpacks."""
    assert message.policy.key_id == key.key_id == hashlib.sha256(key.public_key).hexdigest()
    assert is_signed_by(key.public_key, message.policy.signature, POLICY_BUNDLE + message.policy.payload)
    return node_pb2.PolicyBundle.FromString(zlib.decompress(message.policy.payload))


def test_an_assignment_reaches_the_agent_within_a_second(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent, author = await server.join(), Author(server)
        life = await author.version(1)
        async with watching(agent) as watch:
            first = await watch.receive()
            assert first.full and not first.HasField("policy")
            assert [key.key_id for key in first.policy_keys] == [author.key.key_id]
            began = asyncio.get_running_loop().time()
            await author.apply(life)
            message = await watch.receive()
            assert asyncio.get_running_loop().time() - began < 1
            bundle = opened(message, author.key)
            assert (bundle.trust_domain, bundle.sequence, bundle.version) == ("example.org", 1, 1)
            assert bundle.issued_at == 5 and bundle.digest == SOURCE.digest
            assert [file.path for file in bundle.files] == ["a.rego"], "agents get no tests"
            assert bundle.inventory == b"mesh: {}"
            assert not message.policy_keys, "they didn't change"
        async with watching(agent, known_policy_sequence=1) as watch:
            assert not (await watch.receive()).HasField("policy"), "known already"
        async with watching(agent, known_policy_sequence=9) as watch:
            # Of a server that was lost: the agent judges by the key what to make of it.
            assert (await watch.receive()).HasField("policy")

    serve(scenario)


def test_a_canary_reaches_its_share_only(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent, author = await server.join(), Author(server)
        await author.apply(await author.version(1))
        life = await author.version(2)
        await author.apply(life, percent=50)
        await server.parts.reload_policies()  # they follow the change log at their own pace
        assignment = (await author.store.in_force()).canary
        expected = 2 if assignment.covers(agent.id) else 1
        async with watching(agent) as watch:
            assert opened(await watch.receive(), author.key).version == expected

    serve(scenario)


def test_quarantine_is_pushed_and_stops_issuing_until_released(serve: Any, api: Any) -> None:
    web = SpiffeId(TD, "/web")

    async def sign(server: Any, agent: Any, entry_id: str) -> Any:
        _, csr = api.new_key_and_csr()
        request = svid_pb2.BatchNewX509SVIDRequest(
            params=[svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=csr)]
        )
        answer = await agent.channel.unary(
            "/spire.api.server.svid.v1.SVID/BatchNewX509SVID", request, svid_pb2.BatchNewX509SVIDResponse
        )
        return answer.results[0].status

    async def scenario(server: Any) -> None:
        agent = await server.join()
        created = await server.create(api.entry_for("/web", agent.id))
        entry_id = created.results[0].entry.id
        assert (await sign(server, agent, entry_id)).code == 0
        async with watching(agent) as watch:
            assert not (await watch.receive()).HasField("quarantine"), "nobody ever was"
            began = asyncio.get_running_loop().time()
            assert await server.parts.store.quarantine(Quarantined(web, "odd calls", "op", 7))
            message = await watch.receive()
            assert asyncio.get_running_loop().time() - began < 1
            assert message.quarantine.revision == 1 and list(message.quarantine.spiffe_ids) == [str(web)]
            refused = await sign(server, agent, entry_id)
            assert refused.code == 7 and "quarantined: odd calls" in refused.message
            with pytest.raises(PermissionDenied, match="quarantined"):
                await agent.channel.unary(
                    "/spire.api.server.svid.v1.SVID/NewJWTSVID",
                    svid_pb2.NewJWTSVIDRequest(entry_id=entry_id, audience=["a"]),
                    svid_pb2.NewJWTSVIDResponse,
                )
            assert not await server.parts.store.quarantine(Quarantined(web, "again", "op", 8))
            assert await server.parts.store.release(web)
            message = await watch.receive()
            assert message.quarantine.revision == 2 and not message.quarantine.spiffe_ids
        assert (await sign(server, agent, entry_id)).code == 0
        async with watching(agent, known_quarantine_revision=2) as watch:
            assert not (await watch.receive()).HasField("quarantine")

    serve(scenario)


def test_an_agent_in_quarantine_loses_its_stream_and_comes_back_when_released(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        async with watching(agent) as watch:
            await watch.receive()
            async with asyncio.timeout(1):
                await server.parts.store.quarantine(Quarantined(agent.id, "lost laptop", "op", 7))
                with pytest.raises(PermissionDenied, match="quarantined"):
                    await watch.receive()
        fresh = server.tls(agent.identity)
        post = ("/spire.api.server.agent.v1.Agent/PostStatus", agent_pb2.PostStatusRequest())
        with pytest.raises(PermissionDenied, match="lost laptop"):
            await fresh.unary(*post, agent_pb2.PostStatusResponse)
        await server.parts.store.release(agent.id)
        await server.parts.replica.refresh()
        await fresh.unary(*post, agent_pb2.PostStatusResponse)

    serve(scenario)
