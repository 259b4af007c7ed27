"""JWT-SVIDs over the Workload API, rule by rule (SPIFFE_Workload_API.md 6, JWT-SVID.md)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from control_plane.core.errors import (
    InvalidInput,
    PermissionDenied,
)
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto import workloadapi_pb2 as pb

TD = TrustDomain("agents.test")
OTHER = TrustDomain("other.test")


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
