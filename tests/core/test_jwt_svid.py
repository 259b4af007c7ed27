"""JWT-SVIDs: the rules of JWT-SVID.md for both sides, and the ways in which JWT readers were fooled."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.bundle import Bundle, JwtAuthority
from control_plane.core.errors import InvalidInput, Unauthenticated
from control_plane.core.jwk import spki_of
from control_plane.core.jwt_svid import ALGORITHMS, JwtRequest, encode_jwt, jwt_algorithm, parse_and_verify
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

NOW = 1_800_000_000
DOMAIN = TrustDomain("example.org")
ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
AUDIENCE = "spiffe://example.org/db"
EC = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, Any] = {
    "ec": EC,
    "ec384": ec.generate_private_key(ec.SECP384R1()),
    "ec521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
BUNDLES = {
    DOMAIN: Bundle(
        DOMAIN,
        jwt_authorities=tuple(JwtAuthority(kid, spki_of(key.public_key())) for kid, key in KEYS.items()),
    )
}


def signer(key: Any) -> Any:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]
        return lambda data: key.sign(data, ec.ECDSA(algorithm))
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def token(key_id: str = "ec", **changes: Any) -> str:
    fields: dict[str, Any] = {
        "spiffe_id": ID,
        "audience": (AUDIENCE,),
        "issued_at": NOW,
        "expires_at": NOW + 300,
        **changes,
    }
    key = KEYS[key_id]
    return encode_jwt(JwtRequest(**fields), key_id, key.public_key(), signer(key)).token


def part(document: Any) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(text: str) -> list[dict[str, Any]]:
    return [json.loads(base64.urlsafe_b64decode(one + "===")) for one in text.split(".")[:2]]


CLAIMS = {"sub": str(ID), "aud": [AUDIENCE], "exp": NOW + 300, "iat": NOW}
HEADER = {"alg": "ES256", "kid": "ec", "typ": "JWT"}


def forged(header: Any = None, claims: Any = None) -> str:
    """A token whose signature by the EC key is right, whatever it says."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    signed = f"{part(HEADER if header is None else header)}.{part(CLAIMS if claims is None else claims)}"
    r, s = decode_dss_signature(EC.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def accepted(text: str, now: int = NOW, audience: str = AUDIENCE) -> Any:
    return parse_and_verify(text, audience, BUNDLES, now)


def refusal_of(text: str, now: int = NOW, audience: str = AUDIENCE, bundles: Any = None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        parse_and_verify(text, audience, BUNDLES if bundles is None else bundles, now)
    assert len(text) < 40 or text not in caught.value.message
    return caught.value.message


def test_j_01_compact_serialisation() -> None:
    assert len(token().split(".")) == 3
    assert accepted(token()).spiffe_id == ID


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: json.dumps(
            {"payload": text.split(".")[1], "protected": text.split(".")[0], "signature": ""}
        ),
        lambda text: ".".join([*text.split("."), "", ""]),
        lambda text: text + ".",
        lambda text: "." + text,
        lambda text: text.rpartition(".")[0],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.replace(".", "=.", 1),
        lambda text: "",
        lambda text: "A" * 70_000,
        lambda text: text.rpartition(".")[0] + ".",
    ],
)
def test_j_01_other_serialisations_are_refused(spoil: Any) -> None:
    assert "JWT-SVID" in refusal_of(spoil(token()))


@pytest.mark.parametrize("key_id", ["ec", "ec384", "ec521", "rsa"])
def test_j_02_the_header_holds_alg_kid_and_typ_only(key_id: str) -> None:
    header, _ = parts(token(key_id))
    assert header == {"alg": jwt_algorithm(KEYS[key_id].public_key()), "kid": key_id, "typ": "JWT"}
    assert accepted(token(key_id)).key_id == key_id


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://evil.example"},
        {"jwk": {"kty": "EC"}},
        {"x5u": "https://evil.example"},
        {"x5c": ["AAAA"]},
        {"crit": ["exp"]},
        {"b64": False},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ],
)
def test_j_02_other_headers_are_refused(extra: dict[str, Any]) -> None:
    assert "header" in refusal_of(forged(HEADER | extra))


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS256", "EdDSA", "ES256K", "RS1", "", None, 7, ["ES256"], "es256"]
)
def test_j_03_only_the_nine_algorithms(algorithm: Any) -> None:
    assert "not allowed" in refusal_of(forged(HEADER | {"alg": algorithm}))
    assert len(ALGORITHMS) == 9


def test_j_03_no_signature_with_alg_none() -> None:
    assert "JWT-SVID" in refusal_of(f"{part({'alg': 'none'})}.{part(CLAIMS)}.")


def test_j_03_a_public_key_is_no_shared_secret() -> None:
    pem = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{part(HEADER | {'alg': 'HS256'})}.{part(CLAIMS)}"
    assert "JWT-SVID" in refusal_of(
        f"{signed}.{part(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"
    )


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES384", "ES512"])
def test_j_03_the_algorithm_must_fit_the_key(algorithm: str) -> None:
    assert "doesn't fit" in refusal_of(forged(HEADER | {"alg": algorithm}))


def test_j_03_an_ed25519_key_in_the_bundle_verifies_nothing() -> None:
    assert "doesn't fit" in refusal_of(forged(HEADER | {"kid": "ed"}))
    with pytest.raises(InvalidInput):
        jwt_algorithm(KEYS["ed"].public_key())


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_j_03_tokens_of_another_library_verify(algorithm: str) -> None:
    import jwt as pyjwt

    key_id = {"ES256": "ec", "ES384": "ec384", "ES512": "ec521"}.get(algorithm, "rsa")
    pem = KEYS[key_id].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made = pyjwt.encode(CLAIMS, pem, algorithm=algorithm, headers={"kid": key_id})
    assert accepted(made).audience == (AUDIENCE,)


def test_our_tokens_verify_in_another_library() -> None:
    from joserfc import jwt
    from joserfc.jwk import ECKey

    pem = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert jwt.decode(token(), ECKey.import_key(pem)).claims == CLAIMS


@pytest.mark.parametrize("kid", [None, "", 7, ["ec"], "other", "../ec", "ec\x00"])
def test_j_04_the_key_is_named_and_known(kid: Any) -> None:
    assert "JWT-SVID" in refusal_of(forged(HEADER | {"kid": kid}))
    assert "JWT-SVID" in refusal_of(forged({"alg": "ES256"}))


@pytest.mark.parametrize("typ", ["JWT", "JOSE"])
def test_j_05_typ_may_be_jwt_or_jose_or_absent(typ: str) -> None:
    assert accepted(forged(HEADER | {"typ": typ}))
    assert accepted(forged({"alg": "ES256", "kid": "ec"}))


@pytest.mark.parametrize("typ", ["jwt", "at+jwt", "", None, 7])
def test_j_05_other_types_are_refused(typ: Any) -> None:
    assert "type" in refusal_of(forged(HEADER | {"typ": typ}))


def test_j_06_the_subject_is_the_spiffe_id() -> None:
    _, claims = parts(token())
    assert claims["sub"] == str(ID)


@pytest.mark.parametrize(
    "subject", [None, 7, "", "cart", "spiffe://example.org", "spiffe://example.org/a/../b", [str(ID)]]
)
def test_j_06_other_subjects_are_refused(subject: Any) -> None:
    assert "JWT-SVID" in refusal_of(forged(claims=CLAIMS | {"sub": subject}))


@pytest.mark.parametrize(
    "audience", [None, [], "", 7, {}, [7], [AUDIENCE, 7], ["spiffe://example.org/other"]]
)
def test_j_07_the_audience_must_be_there_and_hold_ours(audience: Any) -> None:
    assert "JWT-SVID" in refusal_of(forged(claims=CLAIMS | {"aud": audience}))


def test_a_refusal_names_whom_a_token_is_meant_for() -> None:
    told = refusal_of(forged(claims=CLAIMS | {"aud": ["x", "y"]}))
    assert f"is meant for 'x', 'y', not '{AUDIENCE}'" in told


def test_j_07_no_audience_at_all() -> None:
    assert "JWT-SVID" in refusal_of(
        forged(claims={name: value for name, value in CLAIMS.items() if name != "aud"})
    )


def test_j_07_an_issuer_needs_an_audience_and_a_validator_too() -> None:
    for audience in ((), ("",), ("a" * 5000,), ("a",) * 65):
        with pytest.raises(InvalidInput):
            token(audience=audience)
    with pytest.raises(InvalidInput):
        accepted(token(), audience="")


def test_j_08_the_audience_is_held_exactly() -> None:
    for almost in (AUDIENCE + "/", AUDIENCE.upper(), AUDIENCE[:-1], AUDIENCE + "\n"):
        assert "JWT-SVID" in refusal_of(token(), audience=almost)


@pytest.mark.parametrize("expiry", [None, "never", True, -1, NOW - 31, 0, 1e300])
def test_j_09_the_end_must_be_there_and_ahead(expiry: Any) -> None:
    assert "JWT-SVID" in refusal_of(forged(claims=CLAIMS | {"exp": expiry}))


def test_j_09_a_small_leeway_and_no_more() -> None:
    assert accepted(token(), NOW + 300 + 29)
    assert "expired" in refusal_of(token(), NOW + 300 + 30)
    assert accepted(forged(claims=CLAIMS | {"exp": NOW + 0.5}))


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_j_09_tokens_of_the_future_are_refused(claim: str) -> None:
    assert accepted(forged(claims=CLAIMS | {claim: NOW + 30}))
    assert "JWT-SVID" in refusal_of(forged(claims=CLAIMS | {claim: NOW + 31}))


def test_j_09_no_token_ends_before_it_begins() -> None:
    with pytest.raises(InvalidInput):
        token(expires_at=NOW)


def test_j_12_the_bundle_is_chosen_by_the_trust_domain_of_the_subject() -> None:
    foreign = forged(claims=CLAIMS | {"sub": "spiffe://other.org/a"})
    assert "no bundle" in refusal_of(foreign)
    other = Bundle(
        TrustDomain("other.org"), jwt_authorities=(JwtAuthority("ec", spki_of(KEYS["ec384"].public_key())),)
    )
    assert "JWT-SVID" in refusal_of(foreign, bundles={**BUNDLES, other.trust_domain: other})
    assert "JWT-SVID" in refusal_of(token(), bundles={DOMAIN: other})


def test_j_12_without_keys_the_answer_is_no() -> None:
    assert "JWT-SVID" in refusal_of(token(), bundles={})
    assert "JWT-SVID" in refusal_of(token(), bundles={DOMAIN: Bundle(DOMAIN)})


def test_j_13_a_single_audience_may_be_text_and_ours_is_an_array() -> None:
    assert accepted(forged(claims=CLAIMS | {"aud": AUDIENCE})).audience == (AUDIENCE,)
    assert parts(token())[1]["aud"] == [AUDIENCE]


def test_id_13_the_id_is_inside_of_what_is_signed() -> None:
    head, _, signature = token().split(".")
    other = part(parts(token())[1] | {"sub": "spiffe://example.org/admin"})
    assert "signature" in refusal_of(f"{head}.{other}.{signature}")


@pytest.mark.parametrize("typ", ["wit+jwt", "wimse-id+jwt", "at+jwt"])
def test_id_14_other_documents_are_no_svids(typ: str) -> None:
    assert "expected JWT or JOSE" in refusal_of(forged(HEADER | {"typ": typ}))


def test_taint_is_visible() -> None:
    tainted = Bundle(DOMAIN, jwt_authorities=(JwtAuthority("ec", spki_of(EC.public_key()), tainted=True),))
    assert parse_and_verify(token(), AUDIENCE, {DOMAIN: tainted}, NOW).tainted
    assert not accepted(token()).tainted


def test_ids_of_tokens_are_optional() -> None:
    assert "jti" not in parts(token())[1]
    assert parts(token(token_id="abc"))[1]["jti"] == "abc"


def test_claims_come_as_they_are() -> None:
    claims = CLAIMS | {"extra": {"a": [1, None]}}
    assert accepted(forged(claims=claims)).claims == claims


@pytest.mark.parametrize(
    "claims", [b"[]", b"null", b"{", b'{"sub":"a","sub":"b"}', b'{"exp":NaN}', b"\xff\xfe{}", b"[" * 40_000]
)
def test_hostile_claims(claims: bytes) -> None:
    assert "JWT-SVID" in refusal_of(forged(claims=claims))
    assert "JWT-SVID" in refusal_of(forged(header=claims))


def test_a_changed_signature() -> None:
    good = token()
    head, _, signature = good.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    zeros = b"\x00" * 64
    for bad in (
        raw[:-1],
        raw + b"\x00",
        zeros,
        raw[32:] + raw[:32],
        EC.sign(head.encode(), ec.ECDSA(hashes.SHA256())),
    ):
        assert "JWT-SVID" in refusal_of(f"{head}.{part(bad)}")


@given(st.text(max_size=60))
def test_arbitrary_text_is_refused_calmly(text: str) -> None:
    assert "JWT-SVID" in refusal_of(text)


def test_tokens_do_not_show() -> None:
    made = encode_jwt(JwtRequest(ID, (AUDIENCE,), NOW, NOW + 300), "ec", EC.public_key(), signer(EC))
    assert made.token not in repr(made)
