"""JSON Web Tokens: decoding and verifying (RFC 7515, 7518, 7519). Signing is refused by name in
`registry`.

With several keys (`token_keys`) one that may verify the token must fit. Secrets and signatures are compared
by the cryptographic library, in constant time.
"""

from __future__ import annotations

import hmac
import itertools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from policies.language.builtins.documents import json_unmarshal
from policies.language.builtins.encoding import base64url_bytes, bytes_of, text_of
from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.builtins.token_keys import ALGORITHMS, Key, PublicKey, load_keys
from policies.language.numbers import Number, Real
from policies.language.values import EMPTY_OBJECT, FALSE, TRUE, Boolean, Object, Value, boolean

if TYPE_CHECKING:
    from policies.language.concrete.world import Run

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}


def _sections(token: str) -> tuple[str, str, str]:
    parts = token.split(".")
    if len(parts) != 3:
        raise BuiltinError(f"encoded JWT must have 3 sections, found {len(parts)}")
    return parts[0], parts[1], parts[2]


def _decoded(section: str, what: str) -> bytes:
    try:
        return base64url_bytes(section)
    except BuiltinError as error:
        raise BuiltinError(f"JWT {what} had invalid encoding: {error}") from error


def _header(section: str) -> Object:
    header = json_unmarshal(text_of(_decoded(section, "header")))
    if not isinstance(header, Object):
        raise BuiltinError("JWT header is no JSON object")
    if "enc" in header:
        raise BuiltinError("JWT is a JWE object, which is not supported")
    return header


_TEXT_PARAMETERS = frozenset({"alg", "kid", "typ", "cty"})


def _checked_header(section: str) -> Object:
    """The header of a token to verify; its parameters have the types of RFC 7515 (4.1)."""
    header = _header(section)
    for name in _TEXT_PARAMETERS:
        if not isinstance(header.get(name, ""), str):
            raise BuiltinError(f"{name}: must be a string")
    critical = header.get("crit", ("",))
    if not isinstance(critical, tuple) or not critical or not isinstance(critical[0], str):
        raise BuiltinError("crit: must be a nonempty list of strings")
    return header


def decode(token: str) -> tuple[Value, ...]:
    """Header, payload and signature (hexadecimal) of a token, unverified; a token in a token is unwrapped."""
    for _ in range(16):
        header_text, payload_text, signature_text = _sections(token)
        header = _header(header_text)
        payload = text_of(_decoded(payload_text, "payload"))
        if header.get("cty") == "JWT":
            token = payload.strip("\"'")
            continue
        claims = json_unmarshal(payload)
        if not isinstance(claims, Object):
            raise BuiltinError("JWT payload is no JSON object")
        return header, claims, _decoded(signature_text, "signature").hex()
    raise HaltError("io.jwt.decode: tokens nested deeper than 16")


# --- signatures -----------------------------------------------------------------------------------


def _candidates(keys: tuple[Key, ...], header: Object) -> tuple[Key, ...]:
    """The keys that may verify a token: the one its header names, else all for any or its algorithm."""
    name = header.get("kid", "")
    named = next((key for key in keys if name and key.name == name), None)
    if named is not None:
        return (named,)
    return tuple(key for key in keys if key.algorithm in ("", header.get("alg", "")))


def _fits(algorithm: str, key: PublicKey | bytes, signed: bytes, signature: bytes, *, exact: bool) -> bool:
    """Whether the signature is the key's, by one of the algorithms of RFC 7518 and RFC 8037.

    `exact` is how `io.jwt.decode_verify` looks: a salt and the two numbers of an elliptic signature must have
    their one right length. `io.jwt.verify_…` takes any.
    """
    try:
        if algorithm == "EdDSA":
            if not isinstance(key, ed25519.Ed25519PublicKey):
                return False
            key.verify(signature, signed)
            return True
        digest = _HASHES[algorithm[2:]]
        if algorithm.startswith("ES"):
            return _fits_elliptic(digest, key, signed, signature, exact=exact)
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        if algorithm.startswith("PS"):
            salt = padding.PSS.DIGEST_LENGTH if exact else padding.PSS.AUTO
            key.verify(signature, signed, padding.PSS(padding.MGF1(digest), salt), digest)
        else:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _fits_elliptic(
    digest: hashes.HashAlgorithm, key: PublicKey | bytes, signed: bytes, signature: bytes, *, exact: bool
) -> bool:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    if exact and len(signature) != 2 * -(-key.curve.key_size // 8):
        return False
    half = len(signature) // 2
    pair = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    key.verify(encode_dss_signature(*pair), signed, ec.ECDSA(digest))
    return True


def _verify_public(algorithm: str) -> Callable[[str, str], Boolean]:
    def verify(token: str, key_text: str) -> Boolean:
        header_text, payload, signature = _sections(token)
        keys = load_keys(key_text)
        data = _decoded(signature, "signature")
        signed = f"{header_text}.{payload}".encode()
        able = _candidates(keys, _checked_header(header_text))
        return boolean(any(_fits(algorithm, key.key, signed, data, exact=False) for key in able))

    return verify


def _secret_fits(algorithm: str, secret: bytes, signed: bytes, signature: bytes) -> bool:
    made = hmac.new(secret, signed, f"sha{algorithm[2:]}").digest()
    return hmac.compare_digest(made, signature)


def _verify_secret(algorithm: str) -> Callable[[str, str], Boolean]:
    def verify(token: str, secret: str) -> Boolean:
        header, payload, signature = _sections(token)
        data = _decoded(signature, "signature")
        return boolean(_secret_fits(algorithm, bytes_of(secret), f"{header}.{payload}".encode(), data))

    return verify


# --- io.jwt.decode_verify -------------------------------------------------------------------------

_CONSTRAINTS = frozenset({"cert", "secret", "alg", "iss", "aud", "time"})
_FAILED: tuple[Value, ...] = (FALSE, EMPTY_OBJECT, EMPTY_OBJECT)


def decode_verify(run: Run, token: str, constraints: Object) -> tuple[Value, ...]:
    """`[true, header, claims]` when signature and claims meet the constraints, else `[false, {}, {}]`."""
    _check_constraints(constraints)
    for _ in range(16):
        header_text, payload_text, signature_text = _sections(token)
        header = _checked_header(header_text)
        if not _header_holds(constraints, header):
            return _FAILED
        data = _decoded(signature_text, "signature")
        if not _signature_holds(constraints, header, f"{header_text}.{payload_text}".encode(), data):
            return _FAILED
        payload = text_of(_decoded(payload_text, "payload"))
        content_type = header.get("cty")
        if isinstance(content_type, str) and content_type.upper() == "JWT":
            token = payload
            continue
        claims = json_unmarshal(payload)
        if not isinstance(claims, Object):
            raise BuiltinError("JWT payload is no JSON object")
        return (TRUE, header, claims) if _claims_hold(run, constraints, claims) else _FAILED
    raise HaltError("io.jwt.decode_verify: tokens nested deeper than 16")


def _check_constraints(constraints: Object) -> None:
    for name, value in constraints.items():
        if name not in _CONSTRAINTS:
            raise BuiltinError(f"unknown token validation constraint: {name}")
        if name == "time":
            if not isinstance(value, int | Real) or value < 0 or math.isinf(_float(value)):
                raise OperandError("token time constraint: must be a number that is not negative")
        elif not isinstance(value, str):
            raise OperandError(f"token constraint {name}: must be a string")
        elif name == "cert":
            load_keys(value)
    if ("cert" in constraints) == bool(constraints.get("secret")):
        raise BuiltinError("exactly one of the constraints cert and secret is needed")


def _float(number: Number) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _header_holds(constraints: Object, header: Object) -> bool:
    """Whether the header names an algorithm, the one asked for, and nothing critical that is unknown."""
    algorithm = header.get("alg", "")
    critical = itertools.takewhile(lambda name: isinstance(name, str), header.get("crit", ()))  # type: ignore[arg-type] # checked
    unknown = header.keys() - _TEXT_PARAMETERS - {"crit"}
    return bool(algorithm) and not unknown & set(critical) and constraints.get("alg") in (None, "", algorithm)


def _signature_holds(constraints: Object, header: Object, signed: bytes, signature: bytes) -> bool:
    algorithm = str(header["alg"])
    if algorithm not in ALGORITHMS:
        return False
    keys = (
        _candidates(load_keys(str(constraints["cert"])), header)
        if "cert" in constraints
        else (Key(bytes_of(str(constraints["secret"]))),)
    )
    if algorithm.startswith("HS"):
        secrets = [key.key for key in keys if isinstance(key.key, bytes)]
        return any(_secret_fits(algorithm, secret, signed, signature) for secret in secrets)
    return any(_fits(algorithm, key.key, signed, signature, exact=True) for key in keys)


def _claims_hold(run: Run, constraints: Object, claims: Object) -> bool:
    if constraints.get("iss") and claims.get("iss") != constraints["iss"]:
        return False
    if not _audience_holds(constraints.get("aud", ""), claims):
        return False
    now = constraints.get("time", run.now_ns)
    for name in ("exp", "nbf"):
        if name not in claims:
            continue
        moment = claims[name]
        if not isinstance(moment, int | Real):
            raise BuiltinError(f"{name} value must be a number")
        if not isinstance(now, int | Real):
            raise HaltError("this evaluation was given no present moment")
        seconds = Decimal(repr(_float(now) / 1_000_000_000))  # OPA divides floats of 64 bits
        if (seconds >= moment) if name == "exp" else (seconds < moment):
            return False
    return True


def _audience_holds(wanted: Value, claims: Object) -> bool:
    if "aud" not in claims:
        return wanted == ""
    given = claims["aud"]
    return wanted in given if isinstance(given, tuple) else wanted == given


CONTEXTUAL = frozenset({"io.jwt.decode_verify"})
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "io.jwt.decode": decode,
    "io.jwt.decode_verify": decode_verify,
    **{
        f"io.jwt.verify_{family}{size}": _verify_public(f"{family.upper()}{size}")
        for family in ("rs", "ps", "es")
        for size in (256, 384, 512)
    },
    **{f"io.jwt.verify_hs{size}": _verify_secret(f"HS{size}") for size in (256, 384, 512)},
    "io.jwt.verify_eddsa": _verify_public("EdDSA"),
}
