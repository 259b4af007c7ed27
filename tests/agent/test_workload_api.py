"""The Workload API and its endpoint, rule by rule (SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md).

The client is our own channel here, so that what isn't allowed can be sent; `test_pyspiffe.py` asks with a
client that others wrote.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.cli_client import split
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    InvalidInput,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto import workloadapi_pb2 as pb

TD = TrustDomain("agents.test")
OTHER = TrustDomain("other.test")
STREAMS = [
    ("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse),
    ("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse),
    ("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse),
]


@pytest.fixture
def foreign(node_server: Any) -> tuple[Any, Bundle]:
    """A foreign trust domain: its JWT key and its bundle."""
    ca = node_server.Ca(OTHER, 1_700_000_000)
    key = node_server.JwtKey()
    bundle = Bundle(
        OTHER, (X509Authority(ca.certificate),), (JwtAuthority(key.key_id, key.spki, 0),), sequence=7
    )
    return key, bundle


def test_w_01_both_profiles_are_served(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            assert (await run.x509_once()).svids[0].spiffe_id == f"spiffe://{TD}/w"
            answer = await run.unary("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse)
            assert answer.svids[0].spiffe_id == f"spiffe://{TD}/w"

    run_async(work())


def test_w_02_the_service_is_not_extended() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"].methods}
    assert methods == {
        "FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID",
        "FetchWITSVID", "FetchWITBundles",
    }  # fmt: skip


def test_w_04_each_message_carries_the_full_state(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/a")) as run, run.x509() as call:
            first = await call.receive()
            assert [svid.spiffe_id for svid in first.svids] == [f"spiffe://{TD}/a"]
            run.server.put(entry("e2", "/b", created_at=2))
            second = await asyncio.wait_for(call.receive(), 5)
            assert [svid.spiffe_id for svid in second.svids] == [f"spiffe://{TD}/a", f"spiffe://{TD}/b"]
            assert second.svids[0] == first.svids[0], "what didn't change is sent again, unchanged"
            run.server.remove("e1")
            third = await asyncio.wait_for(call.receive(), 5)
            assert [svid.spiffe_id for svid in third.svids] == [f"spiffe://{TD}/b"]

    run_async(work())


def test_w_04_a_message_waits_for_all_identities(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        entries = [entry(f"e{number:03}", f"/w{number:03}") for number in range(120)]
        async with agent_in(*entries) as run:
            message = await run.x509_once()
            assert len(message.svids) == 120

    run_async(work())


def test_w_04_an_identity_that_cannot_be_signed_does_not_hold_up_the_others(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        def refuse(server: Any) -> None:
            server.refuse_entry["bad"] = 13

        async with agent_in(entry("good", "/good"), entry("bad", "/bad"), before=refuse) as run:
            message = await run.x509_once()
            assert [svid.spiffe_id for svid in message.svids] == [f"spiffe://{TD}/good"]

    run_async(work())


def test_w_05_the_first_message_comes_at_once(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            await run.until(run.agent.identities.held, "prefetched")
            for name, request, kind in STREAMS:
                async with asyncio.timeout(1.0):
                    assert await run.first(name, request, kind) is not None

    run_async(work())


def test_w_06_changes_are_sent_when_they_happen(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run, run.x509() as call:
            first = await call.receive()
            run.server.put(entry("e1", "/w", hint="new"))
            hinted = await asyncio.wait_for(call.receive(), 3)
            assert (first.svids[0].hint, hinted.svids[0].hint) == ("", "new")
            assert hinted.svids[0].x509_svid == first.svids[0].x509_svid, "a hint costs no signature"
            run.server.rotate(taint=True)
            rotated = await asyncio.wait_for(call.receive(), 3)
            while rotated.svids[0].x509_svid == first.svids[0].x509_svid:
                rotated = await asyncio.wait_for(call.receive(), 3)
            assert len(split(rotated.svids[0].bundle)) == 2
            leaf = read_certificate(rotated.svids[0].x509_svid)
            assert leaf.authority_key_id == run.server.ca.parsed.subject_key_id

    run_async(work())


def test_w_06_nothing_is_sent_when_nothing_changed(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run, run.x509() as call:
            await call.receive()
            run.server.put(entry("other", "/x", "unix:uid:99999"))
            run.server.put(entry("e1", "/w"))  # a new revision of the same content
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call.receive(), 0.5)

    run_async(work())


@pytest.mark.parametrize(
    ("method", "request_", "kind"),
    [
        ("FetchJWTSVID", pb.JWTSVIDRequest(), pb.JWTSVIDResponse),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a", ""]), pb.JWTSVIDResponse),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(svid="x"), pb.ValidateJWTSVIDResponse),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="x"), pb.ValidateJWTSVIDResponse),
    ],
)
def test_w_08_a_missing_mandatory_field_is_an_invalid_argument(
    agent_in: Any, entry: Any, run_async: Any, method: str, request_: Any, kind: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            with pytest.raises(InvalidInput):
                await run.unary(method, request_, kind)

    run_async(work())


def test_w_10_members_are_set_and_in_der(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", dns_names=["w.example.org"])) as run:
            message = await run.x509_once()
            (svid,) = message.svids
            chain = split(svid.x509_svid)
            leaf = read_certificate(chain[0])
            assert leaf.names.uris == (f"spiffe://{TD}/w",) == (svid.spiffe_id,)
            assert leaf.names.dns == ("w.example.org",) or leaf.names.dns == ()
            key = serialization.load_der_private_key(svid.x509_svid_key, password=None)
            assert key.public_key() == x509.load_der_x509_certificate(chain[0]).public_key()
            assert [bytes(each) for each in split(svid.bundle)] == [run.server.ca.certificate]

    run_async(work())


def test_w_11_hints_are_unique(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        entries = [
            entry("e1", "/a", hint="db", created_at=1),
            entry("e2", "/b", hint="db", created_at=2),
            entry("e3", "/c", hint="é" * 600, created_at=3),  # 1,200 bytes
        ]
        async with agent_in(*entries) as run:
            message = await run.x509_once()
            assert [svid.hint for svid in message.svids] == ["db", "", ""]
            tokens = await run.unary("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse)
            assert [svid.hint for svid in tokens.svids] == ["db", "", ""]

    run_async(work())


@pytest.mark.parametrize(("name", "request_", "kind"), STREAMS)
def test_w_12_without_an_identity_permission_is_denied(
    agent_in: Any, entry: Any, run_async: Any, name: str, request_: Any, kind: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w", "unix:uid:99999")) as run:
            with pytest.raises(PermissionDenied, match="no identity issued"):
                await run.first(name, request_, kind)
            with pytest.raises(PermissionDenied, match="no identity issued"):
                await run.unary("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse)

    run_async(work())


def test_w_12_a_stream_ends_when_the_last_identity_goes(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run, run.x509() as call:
            await call.receive()
            run.server.remove("e1")
            with pytest.raises(PermissionDenied, match="no identity issued"):
                await asyncio.wait_for(call.receive(), 5)

    run_async(work())


def test_w_14_x509_bundles_hold_our_own_and_federated_ones(
    agent_in: Any, entry: Any, run_async: Any, foreign: Any
) -> None:
    async def work() -> None:
        _, bundle = foreign

        def federate(server: Any) -> None:
            server.federated[OTHER] = bundle

        async with agent_in(entry("e1", "/w", federates_with=[OTHER.name]), before=federate) as run:
            message = await run.first("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
            assert dict(message.bundles) == {
                f"spiffe://{TD}": run.server.ca.certificate,
                f"spiffe://{OTHER}": bundle.x509_der(),
            }
            svids = await run.x509_once()
            assert dict(svids.federated_bundles) == {f"spiffe://{OTHER}": bundle.x509_der()}

    run_async(work())


def test_w_14_a_foreign_bundle_is_not_given_to_those_who_do_not_federate(
    agent_in: Any, entry: Any, run_async: Any, foreign: Any
) -> None:
    async def work() -> None:
        def federate(server: Any) -> None:
            server.federated[OTHER] = foreign[1]

        async with agent_in(entry("e1", "/w"), before=federate) as run:
            message = await run.first("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse)
            assert set(message.bundles) == {f"spiffe://{TD}"}

    run_async(work())


def test_w_15_jwt_svids_for_one_or_for_all_identities(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/a", created_at=1), entry("e2", "/b", created_at=2)) as run:
            everything = await run.unary(
                "FetchJWTSVID", pb.JWTSVIDRequest(audience=["x", "y"]), pb.JWTSVIDResponse
            )
            assert [svid.spiffe_id for svid in everything.svids] == [f"spiffe://{TD}/a", f"spiffe://{TD}/b"]
            one = await run.unary(
                "FetchJWTSVID",
                pb.JWTSVIDRequest(audience=["x"], spiffe_id=f"spiffe://{TD}/b"),
                pb.JWTSVIDResponse,
            )
            assert [svid.spiffe_id for svid in one.svids] == [f"spiffe://{TD}/b"]
            with pytest.raises(PermissionDenied):
                await run.unary(
                    "FetchJWTSVID",
                    pb.JWTSVIDRequest(audience=["x"], spiffe_id=f"spiffe://{TD}/c"),
                    pb.JWTSVIDResponse,
                )

    run_async(work())


def test_w_16_jwt_bundles_are_plain_key_sets(agent_in: Any, entry: Any, run_async: Any, foreign: Any) -> None:
    async def work() -> None:
        key, bundle = foreign

        def federate(server: Any) -> None:
            server.federated[OTHER] = bundle

        async with agent_in(entry("e1", "/w", federates_with=[OTHER.name]), before=federate) as run:
            message = await run.first("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse)
            sets = {name: json.loads(text) for name, text in message.bundles.items()}
            assert set(sets) == {f"spiffe://{TD}", f"spiffe://{OTHER}"}
            for found in sets.values():
                assert set(found) == {"keys"}
                assert all("use" not in each and each["kid"] for each in found["keys"])
            assert [each["kid"] for each in sets[f"spiffe://{OTHER}"]["keys"]] == [key.key_id]

    run_async(work())


def test_w_17_a_token_is_validated_and_its_claims_returned(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            answer = await run.unary("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse)
            token = answer.svids[0].svid
            valid = await run.unary(
                "ValidateJWTSVID",
                pb.ValidateJWTSVIDRequest(audience="a", svid=token),
                pb.ValidateJWTSVIDResponse,
            )
            assert valid.spiffe_id == f"spiffe://{TD}/w"
            assert valid.claims["sub"] == f"spiffe://{TD}/w"
            assert list(valid.claims["aud"]) == ["a"] and "iat" in valid.claims
            for audience, text in (("b", token), ("a", token[:-4] + "AAAA"), ("a", "not.a.token")):
                with pytest.raises(InvalidInput) as refused:
                    await run.unary(
                        "ValidateJWTSVID",
                        pb.ValidateJWTSVIDRequest(audience=audience, svid=text),
                        pb.ValidateJWTSVIDResponse,
                    )
                assert token not in str(refused.value)

    run_async(work())


def test_w_17_claims_of_foreign_tokens_are_filtered(
    agent_in: Any, entry: Any, run_async: Any, foreign: Any
) -> None:
    async def work() -> None:
        key, bundle = foreign

        def federate(server: Any) -> None:
            server.federated[OTHER] = bundle

        async with agent_in(entry("e1", "/w", federates_with=[OTHER.name]), before=federate) as run:
            svid = key.token(SpiffeId.parse("spiffe://other.test/x"), ("a",), run.server.now(), 60, jti="z")
            valid = await run.unary(
                "ValidateJWTSVID",
                pb.ValidateJWTSVIDRequest(audience="a", svid=svid.token),
                pb.ValidateJWTSVIDResponse,
            )
            assert set(valid.claims) == {"sub", "aud", "exp"}

    run_async(work())


def test_w_18_a_token_is_judged_by_its_own_trust_domain(
    agent_in: Any, entry: Any, run_async: Any, foreign: Any
) -> None:
    async def work() -> None:
        key, bundle = foreign

        def federate(server: Any) -> None:
            server.federated[OTHER] = bundle

        async with agent_in(entry("e1", "/w", federates_with=[OTHER.name]), before=federate) as run:
            # The foreign key signs a token that says it is of our own trust domain.
            svid = key.token(SpiffeId.parse(f"spiffe://{TD}/w"), ("a",), run.server.now(), 60)
            with pytest.raises(InvalidInput):
                await run.unary(
                    "ValidateJWTSVID",
                    pb.ValidateJWTSVIDRequest(audience="a", svid=svid.token),
                    pb.ValidateJWTSVIDResponse,
                )

    run_async(work())


def test_w_18_a_token_of_an_unknown_trust_domain_is_refused(
    agent_in: Any, entry: Any, run_async: Any, foreign: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            svid = foreign[0].token(SpiffeId.parse("spiffe://other.test/x"), ("a",), run.server.now(), 60)
            with pytest.raises(InvalidInput):
                await run.unary(
                    "ValidateJWTSVID",
                    pb.ValidateJWTSVIDRequest(audience="a", svid=svid.token),
                    pb.ValidateJWTSVIDResponse,
                )

    run_async(work())


def test_w_19_order_is_priority_then_age_then_id(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        entries = [
            entry("aaa", "/young", created_at=30),
            entry("zzz", "/old", created_at=10),
            entry("bbb", "/same-age-b", created_at=20),
            entry("abb", "/same-age-a", created_at=20),
            entry("mmm", "/important", created_at=40, priority=5),
        ]
        async with agent_in(*entries) as run:
            message = await run.x509_once()
            paths = [svid.spiffe_id.rpartition("/")[2] for svid in message.svids]
            assert paths == ["important", "old", "same-age-a", "same-age-b", "young"]

    run_async(work())


def test_w_20_wit_is_unimplemented(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            with pytest.raises(Unimplemented):
                await run.first("FetchWITSVID", pb.WITSVIDRequest(), pb.WITSVIDResponse)
            with pytest.raises(Unimplemented):
                await run.first("FetchWITBundles", pb.WITBundlesRequest(), pb.WITBundlesResponse)

    run_async(work())


def test_w_23_bundles_are_not_mixed(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            jwt = await run.first("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse)
            keys = json.loads(jwt.bundles[f"spiffe://{TD}"])["keys"]
            assert [key["kid"] for key in keys] == [run.server.jwt_key.key_id]
            assert all("x5c" not in key for key in keys)

    run_async(work())


def test_e_01_grpc_on_a_unix_socket_that_everybody_may_open(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            mode = os.lstat(run.settings.socket_path).st_mode
            assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o777
            admin = os.lstat(run.settings.admin_socket_path).st_mode
            assert stat.S_IMODE(admin) == 0o600

    run_async(work())


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("workload.spiffe.io", "True"),),
        (("workload.spiffe.io", "false"),),
        (("workload.spiffe.io", ""),),
        (("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")),
        (("workload.spiffe.io", "true,true"),),
    ],
)
def test_e_03_the_header_is_required_exactly_once(
    agent_in: Any, entry: Any, run_async: Any, metadata: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            for name, request, kind in STREAMS:
                with pytest.raises(InvalidInput, match="security header"):
                    await run.first(name, request, kind, metadata)
            with pytest.raises(InvalidInput, match="security header"):
                await run.unary(
                    "FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse, metadata
                )
            with pytest.raises(InvalidInput, match="security header"):
                await run.unary(
                    "ValidateJWTSVID",
                    pb.ValidateJWTSVIDRequest(audience="a", svid="a.b.c"),
                    pb.ValidateJWTSVIDResponse,
                    metadata,
                )

    run_async(work())


def test_e_05_the_workload_proves_nothing_by_itself(agent_in: Any, entry: Any, run_async: Any) -> None:
    path = Path("/proc/self/exe").readlink()

    async def work() -> None:
        async with agent_in(entry("e1", "/by-path", f"unix:path:{path}", f"unix:gid:{os.getgid()}")) as run:
            message = await run.x509_once()  # no credential was sent; the kernel said who asked
            assert message.svids[0].spiffe_id == f"spiffe://{TD}/by-path"

    run_async(work())


def test_e_07_unavailable_while_the_agent_knows_nothing(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        def refuse(server: Any) -> None:
            server.refuse["AttestAgent"] = Unavailable("starting")

        async with agent_in(entry("e1", "/w"), before=refuse, wait=False) as run:
            for name, request, kind in STREAMS:
                with pytest.raises(Unavailable):
                    await run.first(name, request, kind)
            run.server.refuse.clear()
            await run.until(lambda: not run.agent.ready(), "ready after the server came", 15)
            assert (await run.x509_once()).svids

    run_async(work())


def test_e_07_unknown_methods_are_unimplemented(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            with pytest.raises(Unimplemented):
                await run.unary("FetchEverything", pb.X509SVIDRequest(), pb.X509SVIDResponse)

    run_async(work())


def test_e_08_reflection_is_served(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        from control_plane.proto.grpc.reflection.v1 import reflection_pb2

        async with agent_in(entry("e1", "/w")) as run:
            path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            async with run.channel.stream(path, reflection_pb2.ServerReflectionResponse, timeout=10) as call:
                await call.send(reflection_pb2.ServerReflectionRequest(list_services="*"), end=True)
                names = {each.name for each in (await call.receive()).list_services_response.service}
            assert {"SpiffeWorkloadAPI", "grpc.health.v1.Health"} <= names

    run_async(work())


def test_e_09_the_workload_api_is_always_there(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w"), keep_server=True) as run:
            server = run.server
            await run.x509_once()
            await run.agent.storage.save_workloads()
        await server.stop()
        # The server is away; the agent starts and serves from what it wrote down.
        async with agent_in(server=server, wait=False) as run:
            assert (await run.x509_once()).svids[0].spiffe_id == f"spiffe://{TD}/w"

    run_async(work())


def test_j_07_and_j_09_a_token_carries_audience_and_end(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            answer = await run.unary(
                "FetchJWTSVID", pb.JWTSVIDRequest(audience=["b", "a", "b"]), pb.JWTSVIDResponse
            )
            valid = await run.unary(
                "ValidateJWTSVID",
                pb.ValidateJWTSVIDRequest(audience="a", svid=answer.svids[0].svid),
                pb.ValidateJWTSVIDResponse,
            )
            assert sorted(valid.claims["aud"]) == ["a", "b"]
            assert valid.claims["exp"] > run.server.now()

    run_async(work())


def test_e_04_no_tls_and_no_client_authentication_is_needed(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            _, writer = await asyncio.open_unix_connection(str(run.settings.socket_path))
            assert writer.get_extra_info("ssl_object") is None
            writer.close()
            assert (await run.x509_once()).svids

    run_async(work())


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda head, body, sign: json.dumps({"protected": head, "payload": body, "signature": sign}),
            id="j_01_json_serialisation",
        ),
        pytest.param(
            lambda head, body, sign: f"{_part({'alg': 'none', 'typ': 'JWT'})}.{body}.", id="j_03_none"
        ),
        pytest.param(
            lambda head, body, sign: f"{_part({'alg': 'HS256', 'kid': 'k'})}.{body}.{sign}", id="j_03_hmac"
        ),
        pytest.param(
            lambda head, body, sign: f"{_part({'alg': 'ES256', 'typ': 'wit+jwt', 'kid': 'k'})}.{body}.{sign}",
            id="j_05_other_type",
        ),
        pytest.param(
            lambda head, body, sign: f"{head}.{_part({'sub': f'spiffe://{TD}/w', 'exp': 2**33})}.{sign}",
            id="j_07_no_audience",
        ),
        pytest.param(
            lambda head, body, sign: f"{head}.{_part({'sub': f'spiffe://{TD}/w', 'aud': 'a'})}.{sign}",
            id="j_09_no_end",
        ),
    ],
)
def test_j_01_to_j_09_bad_tokens_are_not_validated(
    agent_in: Any, entry: Any, run_async: Any, make: Any
) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            good = run.server.jwt_key.token(SpiffeId.parse(f"spiffe://{TD}/w"), ("a",), run.server.now(), 60)
            request = pb.ValidateJWTSVIDRequest(audience="a", svid=good.token)
            await run.unary("ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse)
            bad = pb.ValidateJWTSVIDRequest(audience="a", svid=make(*good.token.split(".")))
            with pytest.raises(InvalidInput):
                await run.unary("ValidateJWTSVID", bad, pb.ValidateJWTSVIDResponse)

    run_async(work())


def test_j_09_an_expired_token_is_not_validated(agent_in: Any, entry: Any, run_async: Any) -> None:
    async def work() -> None:
        async with agent_in(entry("e1", "/w")) as run:
            then = run.server.now() - 3600
            old = run.server.jwt_key.token(SpiffeId.parse(f"spiffe://{TD}/w"), ("a",), then, 300)
            request = pb.ValidateJWTSVIDRequest(audience="a", svid=old.token)
            with pytest.raises(InvalidInput, match="expired"):
                await run.unary("ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse)

    run_async(work())
