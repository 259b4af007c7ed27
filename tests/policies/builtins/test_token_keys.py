"""Which key of a set verifies a token, and what a header and the constraints may say, as OPA 1.19 has it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.registry import BUILTINS
from policies.language.concrete.world import Limits, Run
from policies.language.serial import parse_json
from policies.language.values import FALSE, TRUE

ONE, TWO = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
WIDE = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65_537, 2_048)
SECRET = "a secret of thirty-two characters"
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: Private, **more: str) -> dict[str, str]:
    def number(value: int) -> str:
        return encoded(value.to_bytes((value.bit_length() + 7) // 8))

    if isinstance(key, rsa.RSAPrivateKey):
        modulus = key.public_key().public_numbers()
        return {"kty": "RSA", "n": number(modulus.n), "e": number(modulus.e), **more}
    point = key.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": f"P-{key.curve.key_size}",
        "x": number(point.x),
        "y": number(point.y),
        **more,
    }


def token(key: Private, header: dict[str, Any], claims: object = None, *, salt: int = 32) -> str:
    """A token signed with SHA-256 whatever the header says."""
    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims or {}))
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        return f"{text}.{encoded(key.sign(text.encode(), scheme, hashes.SHA256()))}"
    size = (key.curve.key_size + 7) // 8
    pair = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{encoded(b''.join(number.to_bytes(size) for number in pair))}"


def keys(*jwks: dict[str, str]) -> str:
    return json.dumps({"keys": jwks})


def verified(text: str, key: str, name: str = "es256") -> bool:
    function = BUILTINS[f"io.jwt.verify_{name}"].function
    assert function is not None
    return function(text, key) is TRUE


def decided(text: str, **constraints: object) -> bool:
    function = BUILTINS["io.jwt.decode_verify"].function
    assert function is not None
    said = function(RUN, text, parse_json(json.dumps(constraints)))
    assert said[0] in (TRUE, FALSE)
    return said[0] is TRUE


RUN = Run(Limits(), strict=False, now_ns=0, observer=None)
HEADER = {"alg": "ES256"}


def test_a_header_that_names_a_key_is_verified_with_that_key_alone() -> None:
    both = keys(jwk(ONE, kid="one"), jwk(TWO, kid="two"))
    for text, wanted in (
        (token(ONE, {**HEADER, "kid": "one"}), True),
        (token(TWO, {**HEADER, "kid": "one"}), False),
        (token(TWO, {**HEADER, "kid": "unknown"}), True),
        (token(TWO, HEADER), True),
    ):
        assert verified(text, both) is wanted
        assert decided(text, cert=both) is wanted


def test_a_key_for_another_algorithm_does_not_verify_unless_it_is_named() -> None:
    other = keys(jwk(ONE, alg="ES384", kid="one"))
    assert not verified(token(ONE, HEADER), other)
    assert not decided(token(ONE, HEADER), cert=other)
    assert verified(token(ONE, {**HEADER, "kid": "one"}), other)
    assert decided(token(ONE, {**HEADER, "kid": "one"}), cert=other)


def test_keys_for_encryption_are_passed_over_and_unknown_ones_spoil_the_set() -> None:
    assert verified(token(ONE, HEADER), keys(jwk(RSA, alg="RSA-OAEP"), jwk(ONE)))
    for spoilt in (keys(jwk(ONE), jwk(TWO, alg="foo")), '{"keys": {}}'):
        with pytest.raises(BuiltinError):
            verified(token(ONE, HEADER), spoilt)


def test_a_wide_curve_may_sign_a_short_digest() -> None:
    text = token(WIDE, HEADER)
    assert verified(text, keys(jwk(WIDE)))
    assert decided(text, cert=keys(jwk(WIDE)))


def test_a_salt_of_another_length_is_taken_by_verify_alone() -> None:
    header = {"alg": "PS256"}
    assert decided(token(RSA, header), cert=keys(jwk(RSA)))
    odd = token(RSA, header, salt=20)
    assert verified(odd, keys(jwk(RSA)), "ps256")
    assert not decided(odd, cert=keys(jwk(RSA)))


def signed(header: dict[str, Any], claims: object) -> str:
    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{encoded(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ({"crit": ["exp"]}, True),
        ({"crit": ["b64"], "b64": False}, False),
        ({"crit": ["alg"]}, True),
        ({"crit": []}, None),
        ({"crit": "x"}, None),
        ({"kid": 5}, None),
        ({"enc": "x"}, None),
        ({"alg": ""}, False),
        ({"alg": "none"}, False),
        ({"alg": 5}, None),
    ],
)
def test_headers(header: dict[str, Any], wanted: bool | None) -> None:
    text = signed({"alg": "HS256", **header}, {})
    if wanted is None:
        with pytest.raises(BuiltinError):
            decided(text, secret=SECRET)
    else:
        assert decided(text, secret=SECRET) is wanted


@pytest.mark.parametrize(
    ("constraints", "claims", "wanted"),
    [
        ({"iss": ""}, {"iss": "anybody"}, True),
        ({"alg": ""}, {}, True),
        ({"aud": ""}, {}, True),
        ({"aud": 5}, {}, None),
        ({}, {"aud": None}, False),
        ({"time": -1}, {}, None),
        ({"secret": ""}, {}, None),
        # A moment is a float of 64 bits: a nanosecond before 2,000,000,000 s is that second.
        ({"time": 1_999_999_999_999_999_999}, {"exp": 2_000_000_000}, False),
        ({"time": 1_999_999_999_999_999_999}, {"nbf": 2_000_000_000}, True),
        ({"time": 1_999_999_999_000_000_000}, {"exp": 2_000_000_000}, True),
    ],
)
def test_constraints(constraints: dict[str, Any], claims: object, wanted: bool | None) -> None:
    text = signed({"alg": "HS256"}, claims)
    constraints = {"secret": SECRET, **constraints}
    if wanted is None:
        with pytest.raises(BuiltinError):
            decided(text, **constraints)
    else:
        assert decided(text, **constraints) is wanted


@pytest.mark.parametrize("text", ["YWJj\n", "YW Jj", "YWJjZ", "YWI=="])
def test_url_safe_base64_is_padded_before_line_breaks_are_dropped(text: str) -> None:
    function = BUILTINS["base64url.decode"].function
    assert function is not None
    with pytest.raises(BuiltinError):
        function(text)
    assert function("YW\n\nI=") == "ab"
