"""The Bundle service: ours for everybody, federated ones for those who may."""

from typing import Any

import pytest

from control_plane.api.bundles import MAX_BATCH
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2 as wire
from control_plane.proto.spire.api.types import bundle_pb2 as types

BUNDLE = "/spire.api.server.bundle.v1.Bundle/"
WATCH = "/gatehouse.node.v1.Node/Watch"


async def call(channel: Any, method: str, request: Any, reply: Any) -> Any:
    return await channel.unary(BUNDLE + method, request, reply)


def test_our_bundle_is_public_and_masked(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        whole = await call(server.tls(), "GetBundle", wire.GetBundleRequest(), types.Bundle)
        assert whole.x509_authorities and whole.jwt_authorities and whole.sequence_number
        mask = types.BundleMask(sequence_number=True)
        masked = await call(server.tls(), "GetBundle", wire.GetBundleRequest(output_mask=mask), types.Bundle)
        assert masked == types.Bundle(trust_domain="example.org", sequence_number=whole.sequence_number)

    serve(scenario)


def test_appending_to_our_bundle_is_remembered(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        before = await call(server.admin, "GetBundle", wire.GetBundleRequest(), types.Bundle)
        extra = types.JWTKey(
            public_key=before.jwt_authorities[0].public_key, key_id="elsewhere", expires_at=9
        )
        request = wire.AppendBundleRequest(jwt_authorities=[extra])
        for _ in range(2):
            after = await call(server.admin, "AppendBundle", request, types.Bundle)
            assert [key.key_id for key in after.jwt_authorities][-1] == "elsewhere"
            assert len(after.jwt_authorities) == 2
            assert after.sequence_number == before.sequence_number + 1
        broken = wire.AppendBundleRequest(x509_authorities=[types.X509Certificate(asn1=b"no")])
        with pytest.raises(InvalidInput):
            await call(server.admin, "AppendBundle", broken, types.Bundle)

    serve(scenario)


@pytest.mark.parametrize("which", ["Create", "Set", "Update", "Delete"])
def test_a_batch_is_bounded(serve: Any, which: str) -> None:
    """Each bundle is a transaction of its own."""
    names = [f"t{number}.test" for number in range(MAX_BATCH + 1)]
    given = (
        {"trust_domains": names}
        if which == "Delete"
        else {"bundle": [types.Bundle(trust_domain=name) for name in names]}
    )
    request = getattr(wire, f"Batch{which}FederatedBundleRequest")(**given)

    async def scenario(server: Any) -> None:
        method, reply = f"Batch{which}FederatedBundle", f"Batch{which}FederatedBundleResponse"
        with pytest.raises(InvalidInput, match="split the request"):
            await call(server.admin, method, request, getattr(wire, reply))
        assert not server.parts.replica.index.bundles

    serve(scenario)


def test_appending_nothing_is_refused(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        sequence = server.parts.trust.own.sequence
        with pytest.raises(InvalidInput, match="no authorities"):
            await call(server.admin, "AppendBundle", wire.AppendBundleRequest(), types.Bundle)
        assert server.parts.trust.own.sequence == sequence

    serve(scenario)


def test_the_life_of_federated_bundles(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        own = await call(server.admin, "GetBundle", wire.GetBundleRequest(), types.Bundle)
        foreign = types.Bundle(trust_domain="b.org", x509_authorities=own.x509_authorities, refresh_hint=60)
        reply = await call(
            server.admin,
            "BatchCreateFederatedBundle",
            wire.BatchCreateFederatedBundleRequest(
                bundle=[
                    foreign,
                    foreign,
                    types.Bundle(trust_domain="example.org"),
                    types.Bundle(trust_domain="A"),
                ]
            ),
            wire.BatchCreateFederatedBundleResponse,
        )
        assert [result.status.code for result in reply.results] == [0, 6, 3, 3]
        reply = await call(
            server.admin,
            "BatchUpdateFederatedBundle",
            wire.BatchUpdateFederatedBundleRequest(
                bundle=[
                    types.Bundle(trust_domain="b.org", refresh_hint=90),
                    types.Bundle(trust_domain="c.org"),
                ],
                input_mask=types.BundleMask(refresh_hint=True),
            ),
            wire.BatchUpdateFederatedBundleResponse,
        )
        assert [result.status.code for result in reply.results] == [0, 5]
        assert reply.results[0].bundle.refresh_hint == 90 and reply.results[0].bundle.x509_authorities
        listed = await call(
            server.admin,
            "ListFederatedBundles",
            wire.ListFederatedBundlesRequest(page_size=1),
            wire.ListFederatedBundlesResponse,
        )
        assert [bundle.trust_domain for bundle in listed.bundles] == ["b.org"] and not listed.next_page_token
        counted = await call(
            server.admin, "CountBundles", wire.CountBundlesRequest(), wire.CountBundlesResponse
        )
        assert counted.count == 2
        with pytest.raises(NotFound):
            request = wire.GetFederatedBundleRequest(trust_domain="c.org")
            await call(server.admin, "GetFederatedBundle", request, types.Bundle)

    serve(scenario)


def test_an_agent_is_pushed_the_foreign_bundles_that_its_entries_need(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        own = await call(server.admin, "GetBundle", wire.GetBundleRequest(), types.Bundle)
        bundles = [
            types.Bundle(trust_domain=name, x509_authorities=own.x509_authorities)
            for name in ("b.org", "c.org")
        ]
        request = wire.BatchSetFederatedBundleRequest(bundle=bundles)
        await call(server.admin, "BatchSetFederatedBundle", request, wire.BatchSetFederatedBundleResponse)
        async with agent.channel.server_stream(
            WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse
        ) as watch:
            assert not (await watch.receive()).federated_bundles
            await server.create(api.entry_for("/web", agent.id, federates_with=["b.org"]))
            pushed = await watch.receive()
            assert [bundle.trust_domain for bundle in pushed.federated_bundles] == ["b.org"]
            restrict, dissociate = (
                wire.BatchDeleteFederatedBundleRequest(trust_domains=["b.org"], mode=mode) for mode in (0, 2)
            )
            reply = await call(
                server.admin, "BatchDeleteFederatedBundle", restrict, wire.BatchDeleteFederatedBundleResponse
            )
            assert reply.results[0].status.code == 9
            await call(
                server.admin,
                "BatchDeleteFederatedBundle",
                dissociate,
                wire.BatchDeleteFederatedBundleResponse,
            )
            pushed = await watch.receive()
            assert list(pushed.removed_federated) == ["b.org"]
            assert list(pushed.upserted[0].federates_with) == []

    serve(scenario)
