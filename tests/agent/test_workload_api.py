"""The Workload API, rule by rule (SPIFFE_Workload_API.md); endpoint and JWT profile have files of their own.

The client is our own channel here, so that what isn't allowed can be sent; `test_pyspiffe.py` asks with a
client that others wrote.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.cli_client import split
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import (
    InvalidInput,
    PermissionDenied,
    Unimplemented,
)
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto import workloadapi_pb2 as pb

TD = TrustDomain("agents.test")
OTHER = TrustDomain("other.test")
STREAMS = [
    ("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse),
    ("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse),
    ("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse),
]


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
            entry("e3", "/c", hint="é" * 512, created_at=3),  # 1,024 bytes, the most that an entry has
        ]
        async with agent_in(*entries) as run:
            message = await run.x509_once()
            assert [svid.hint for svid in message.svids] == ["db", "", "é" * 512]
            tokens = await run.unary("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse)
            assert [svid.hint for svid in tokens.svids] == ["db", "", "é" * 512]

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
