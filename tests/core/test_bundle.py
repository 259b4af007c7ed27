"""Trust bundles: SPIFFE_Trust_Domain_and_Bundle.md, and the forms that the Workload API wants."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import bundle_json
from control_plane.core.bundle import (
    DEFAULT_REFRESH_HINT_SECONDS,
    Bundle,
    JwtAuthority,
    X509Authority,
)
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.core.jwk import base64url, from_base64url, jwk_of, key_of_jwk, load_public_key, spki_of
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.strict_json import load_object

DOMAIN = TrustDomain("example.org")
EC_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()


@pytest.fixture
def bundle(pki: Any) -> Bundle:
    return Bundle(
        DOMAIN,
        (X509Authority(pki.ca().der), X509Authority(pki.ca().der)),
        (JwtAuthority("key-1", spki_of(EC_KEY)), JwtAuthority("key-2", spki_of(RSA_KEY))),
        sequence=2**63 + 1,
        refresh_hint_seconds=300,
    )


def keys_of(bundle: Bundle) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = json.loads(bundle.to_json())["keys"]
    return keys


def test_a_bundle_reads_back_from_its_json(bundle: Bundle) -> None:
    assert Bundle.parse_json(DOMAIN, bundle.to_json()) == bundle
    assert Bundle.parse_json(DOMAIN, bundle.to_json().encode()) == bundle


def test_a_bundle_reads_back_from_pem(bundle: Bundle) -> None:
    assert Bundle.parse_pem(DOMAIN, bundle.to_pem()).x509_authorities == bundle.x509_authorities
    twice = Bundle.parse_pem(DOMAIN, bundle.to_pem() + "some text between\n" + bundle.to_pem())
    assert twice.x509_authorities == bundle.x509_authorities


@pytest.mark.parametrize(
    "pem", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff" * 100]
)
def test_broken_pem_is_refused(pem: Any) -> None:
    with pytest.raises(InvalidInput):
        Bundle.parse_pem(DOMAIN, pem)


def test_x_17_one_key_per_authority_without_kid_and_with_one_certificate(bundle: Bundle) -> None:
    entries = [key for key in keys_of(bundle) if key["use"] == "x509-svid"]
    assert len(entries) == 2
    for entry, authority in zip(entries, bundle.x509_authorities, strict=True):
        assert "kid" not in entry
        assert [base64.b64decode(text) for text in entry["x5c"]] == [authority.certificate]


@pytest.mark.parametrize(
    "x5c", [None, [], "text", [7], ["!!"], ["AAAA"], [base64.b64encode(b"\x30\x00").decode()]]
)
def test_x_18_entries_without_a_usable_certificate_are_passed_over(bundle: Bundle, x5c: Any) -> None:
    document = json.loads(bundle.to_json())
    document["keys"][0]["x5c"] = x5c
    parsed = Bundle.parse_json(DOMAIN, json.dumps(document))
    assert parsed.x509_authorities == bundle.x509_authorities[1:]


def test_x_18_only_the_first_certificate_of_an_entry_counts(bundle: Bundle) -> None:
    document = json.loads(bundle.to_json())
    first, second = document["keys"][0], document["keys"][1]
    first["x5c"] += second["x5c"]
    document["keys"] = [first]
    assert Bundle.parse_json(DOMAIN, json.dumps(document)).x509_authorities == bundle.x509_authorities[:1]


def test_j_11_jwt_entries_have_use_and_kid(bundle: Bundle) -> None:
    entries = [key for key in keys_of(bundle) if key["use"] == "jwt-svid"]
    assert [entry["kid"] for entry in entries] == ["key-1", "key-2"]


@pytest.mark.parametrize("kid", [None, "", 7])
def test_j_11_jwt_entries_without_kid_are_passed_over(bundle: Bundle, kid: Any) -> None:
    document = json.loads(bundle.to_json())
    document["keys"][2]["kid"] = kid
    assert [a.key_id for a in Bundle.parse_json(DOMAIN, json.dumps(document)).jwt_authorities] == ["key-2"]


@pytest.mark.parametrize(
    "text", ["{}", '{"keys":null}', '{"keys":{}}', "[]", "null", "7", '"x"', "", "{", "\ufeff{}"]
)
def test_b_01_a_bundle_is_a_jwk_set_with_keys(text: str) -> None:
    with pytest.raises(InvalidInput):
        Bundle.parse_json(DOMAIN, text)


def test_b_01_keys_may_be_empty() -> None:
    assert Bundle.parse_json(DOMAIN, '{"keys":[]}') == Bundle(DOMAIN)


def test_b_02_further_members_are_allowed(bundle: Bundle) -> None:
    document = json.loads(bundle.to_json()) | {"spiffe_future": {"a": [1, 2.5, None]}}
    for key in document["keys"]:
        key["alg"] = "whatever"
    assert Bundle.parse_json(DOMAIN, json.dumps(document)) == bundle


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None, 2**64, 1e3])
def test_b_03_the_sequence_is_a_64_bit_integer(value: Any) -> None:
    with pytest.raises(InvalidInput, match="spiffe_sequence"):
        Bundle.parse_json(DOMAIN, json.dumps({"keys": [], "spiffe_sequence": value}))


@pytest.mark.parametrize("value", [0, 1, 2**53 + 1, 2**64 - 1])
def test_b_03_the_sequence_keeps_all_of_its_bits(value: int) -> None:
    parsed = Bundle.parse_json(DOMAIN, json.dumps({"keys": [], "spiffe_sequence": value}))
    assert parsed.sequence == value
    assert Bundle.parse_json(DOMAIN, parsed.to_json()).sequence == value


@pytest.mark.parametrize("value", [-1, 1.5, "300", True, 2**31])
def test_b_04_the_refresh_hint_is_in_whole_seconds(value: Any) -> None:
    with pytest.raises(InvalidInput, match="spiffe_refresh_hint"):
        Bundle.parse_json(DOMAIN, json.dumps({"keys": [], "spiffe_refresh_hint": value}))


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "oct"},
        {"kty": "ec"},
        {"kty": None},
        {"use": "X509-SVID"},
        {"use": "sig"},
        {"use": None},
        {"use": ["x509-svid"]},
    ],
)
def test_b_05_unknown_entries_are_passed_over_one_by_one(bundle: Bundle, change: dict[str, Any]) -> None:
    document = json.loads(bundle.to_json())
    document["keys"][0].update(change)
    document["keys"][2].update(change)
    document["keys"] += [None, 7, "x", [], {}]
    parsed = Bundle.parse_json(DOMAIN, json.dumps(document))
    assert parsed.x509_authorities == bundle.x509_authorities[1:]
    assert parsed.jwt_authorities == bundle.jwt_authorities[1:]


def test_b_07_every_entry_has_kty_and_use_and_nothing_undefined(bundle: Bundle) -> None:
    allowed = {"kty", "use", "kid", "x5c", "crv", "x", "y", "n", "e"}
    for key in keys_of(bundle):
        assert {"kty", "use"} <= key.keys() <= allowed


def test_b_08_a_bundle_map_has_trust_domains(bundle: Bundle) -> None:
    other = Bundle(TrustDomain("other.org"), bundle.x509_authorities[:1], sequence=3)
    text = bundle_json.dump_map({bundle.trust_domain: bundle, other.trust_domain: other})
    parsed = bundle_json.parse_map(text)
    assert parsed[other.trust_domain] == other
    assert parsed[DOMAIN].x509_authorities == bundle.x509_authorities
    for broken in (
        "{}",
        '{"trust_domains":[]}',
        '{"trust_domains":{"A":{"keys":[]}}}',
        '{"trust_domains":{"a":7}}',
    ):
        with pytest.raises(InvalidInput):
            bundle_json.parse_map(broken)


def test_b_08_a_trust_domain_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        bundle_json.parse_map('{"trust_domains":{"a.org":{"keys":[]},"a.org":{"keys":[]}}}')


@pytest.mark.parametrize(
    "text", ['{"keys":[],"keys":[]}', '{"keys":[{"kty":"EC","kty":"RSA"}]}', '{"a":[{"b":1,"b":1}]}']
)
def test_b_08_a_member_twice_is_refused_at_every_depth(text: str) -> None:
    with pytest.raises(InvalidInput, match="twice"):
        Bundle.parse_json(DOMAIN, text)


def test_b_09_members_of_a_map_carry_no_refresh_hint(bundle: Bundle) -> None:
    document = json.loads(bundle_json.dump_map({DOMAIN: bundle}))
    assert "spiffe_refresh_hint" not in document["trust_domains"]["example.org"]
    assert "spiffe_refresh_hint" in bundle.to_json()


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 100_000, "9" * 10_000, '{"keys":NaN}', '{"keys":[Infinity]}']
)
def test_hostile_json_is_refused_calmly(text: str) -> None:
    with pytest.raises(InvalidInput):
        Bundle.parse_json(DOMAIN, text)


def test_b_10_without_a_hint_the_refresh_is_every_five_minutes() -> None:
    assert Bundle.parse_json(DOMAIN, '{"keys":[]}').refresh_hint_seconds == 0
    assert DEFAULT_REFRESH_HINT_SECONDS == 300


def test_oversized_json_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidInput, match="allowed"):
        Bundle.parse_json(DOMAIN, " " * (bundle_json.MAX_JSON_BYTES + 1))
    with pytest.raises(InvalidInput, match="1000 allowed"):
        Bundle.parse_json(DOMAIN, json.dumps({"keys": [{}] * 1001}))


@pytest.mark.parametrize("text", ['{"a":"\\ud800"}', '{"\\uDfff":1}'])
def test_half_characters_and_other_encodings_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        load_object(text, "text", 100)
    with pytest.raises(InvalidInput):
        load_object('{"a":1}'.encode("utf-16"), "text", 100)
    assert load_object('{"a":"\\ud83d\\ude00"}', "text", 100) == {"a": "😀"}


def test_two_keys_under_one_id_are_refused(bundle: Bundle) -> None:
    document = json.loads(bundle.to_json())
    document["keys"][3]["kid"] = "key-1"
    with pytest.raises(InvalidInput, match="comes twice"):
        Bundle.parse_json(DOMAIN, json.dumps(document))
    document["keys"][3] = document["keys"][2]
    assert len(Bundle.parse_json(DOMAIN, json.dumps(document)).jwt_authorities) == 1


def test_the_workload_api_gets_a_plain_key_set(bundle: Bundle) -> None:
    document = json.loads(bundle.jwks())
    assert document.keys() == {"keys"}
    assert [key["kid"] for key in document["keys"]] == ["key-1", "key-2"]
    assert all("use" not in key for key in document["keys"])
    assert bundle.x509_der() == b"".join(a.certificate for a in bundle.x509_authorities)


def test_authorities_are_found_by_their_names(bundle: Bundle, pki: Any) -> None:
    assert bundle.jwt_authority("key-2").public_key == spki_of(RSA_KEY)
    with pytest.raises(NotFound):
        bundle.jwt_authority("key-3")
    root = pki.ca()
    assert (
        X509Authority.parse(root.der).subject_key_id == X509Authority(pki.ca(key=root.key).der).subject_key_id
    )
    assert (
        X509Authority(pki.ca(key=root.key, key_ids=False).der).subject_key_id
        == X509Authority(root.der).subject_key_id
    )
    with pytest.raises(InvalidInput):
        X509Authority.parse(root.der + b"\x00")


def test_same_content_ignores_the_sequence(bundle: Bundle) -> None:
    from dataclasses import replace

    assert bundle.same_content(replace(bundle, sequence=1))
    assert not bundle.same_content(replace(bundle, refresh_hint_seconds=1))


@pytest.mark.parametrize(
    "key",
    [
        EC_KEY,
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        RSA_KEY,
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ],
)
def test_keys_read_back_from_their_jwk(key: Any) -> None:
    assert spki_of(key_of_jwk(jwk_of(key))) == spki_of(load_public_key(spki_of(key)))


@pytest.mark.parametrize(
    "change",
    [
        {"x": ""},
        {"x": "A" * 42},
        {"x": "A" * 43},
        {"y": None},
        {"crv": "P-224"},
        {"crv": "secp256k1"},
        {"kty": "OKP"},
        {"x": "="},
    ],
)
def test_bad_ec_keys_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        key_of_jwk({**jwk_of(EC_KEY), **change})


def test_rsa_keys_outside_the_limits_are_refused() -> None:
    for bits in (1024, 9000):
        modulus = base64url(((1 << (bits - 1)) + 1).to_bytes((bits + 7) // 8, "big"))
        with pytest.raises(InvalidInput):
            key_of_jwk({"kty": "RSA", "n": modulus, "e": "AQAB"})


@given(st.binary(max_size=40))
def test_base64url_has_one_spelling(data: bytes) -> None:
    text = base64url(data)
    assert from_base64url(text) == data
    for other in (text + "=", text + "\n", " " + text, text + "A" * (5 if len(text) % 4 == 0 else 4) + "*"):
        with pytest.raises(InvalidInput):
            from_base64url(other)


def test_base64url_left_over_bits_are_refused() -> None:
    assert from_base64url("AA") == b"\x00"
    with pytest.raises(InvalidInput):
        from_base64url("AB")
