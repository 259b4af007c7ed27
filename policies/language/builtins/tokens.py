"""JSON Web Tokens: decoding and verifying (RFC 7515, 7518, 7519). Signing is refused by name in
`registry`.

A key is a PEM certificate, a PEM public key, a JWK or a JWK set; with several keys one must fit.
Secrets and signatures are compared by the cryptographic library, in constant time.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from control_plane.core.certificate import UNREADABLE
from policies.language.builtins.documents import json_unmarshal
from policies.language.builtins.encoding import base64url_bytes, bytes_of, text_of
from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.numbers import Real
from policies.language.values import EMPTY_OBJECT, FALSE, TRUE, Boolean, Object, Value, boolean

if TYPE_CHECKING:
    from policies.language.concrete.world import Run

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_CURVE_OF = {"ES256": 32, "ES384": 48, "ES512": 66}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


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
    return header


def decode(token: str) -> tuple[Value, ...]:
    """Header, payload and signature (hexadecimal) of a token, unverified; a token in a token is unwrapped."""
    for _ in range(16):
        header_text, payload_text, signature_text = _sections(token)
        header = _header(header_text)
        if "enc" in header:
            raise BuiltinError("JWT is a JWE object, which is not supported")
        payload = text_of(_decoded(payload_text, "payload"))
        signature = _decoded(signature_text, "signature")
        content_type = header.get("cty")
        if isinstance(content_type, str) and content_type.upper() == "JWT":
            token = payload.removeprefix('"').removesuffix('"')
            continue
        claims = json_unmarshal(payload)
        if not isinstance(claims, Object):
            raise BuiltinError("JWT payload is no JSON object")
        return header, claims, signature.hex()
    raise HaltError("io.jwt.decode: tokens nested deeper than 16")


# --- keys -----------------------------------------------------------------------------------------

_PEM = re.compile(r"\s*-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----\s*", re.DOTALL)


@lru_cache(maxsize=256)
def load_keys(text: str) -> tuple[PublicKey, ...]:
    """The public keys of a certificate, a PEM key, a JWK or a JWK set."""
    if text.lstrip().startswith("-----"):
        return (_pem_key(text),)
    try:
        document: Any = json_unmarshal(text)
        found = document.get("keys", (document,))
        return tuple(key for jwk in found if (key := _jwk(jwk)) is not None)
    except (BuiltinError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BuiltinError("failed to parse a JWK key (set)") from error


def _pem_key(text: str) -> PublicKey:
    block = _PEM.match(text)
    if block is not None and block.end() < len(text):
        raise BuiltinError("extra data after a PEM certificate block")
    label = block[1] if block is not None else ""
    if label not in ("CERTIFICATE", "PUBLIC KEY"):
        raise BuiltinError("failed to extract a Key from the PEM certificate")
    try:
        if label == "CERTIFICATE":
            key: Any = x509.load_pem_x509_certificate(text.encode()).public_key()
        else:
            key = load_pem_public_key(text.encode())
    except UNREADABLE as error:
        raise BuiltinError(
            f"failed to parse a PEM {'certificate' if label == 'CERTIFICATE' else 'key'}"
        ) from error
    if not isinstance(key, PublicKey):
        raise BuiltinError("the public key's algorithm is not supported")
    return key


def _jwk(jwk: Any) -> PublicKey | None:
    def number(name: str) -> int:
        return int.from_bytes(base64url_bytes(jwk[name]), "big")

    if jwk["kty"] == "RSA":
        return rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
    if jwk["kty"] == "EC":
        return ec.EllipticCurvePublicNumbers(number("x"), number("y"), _CURVES[jwk["crv"]]).public_key()
    if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(base64url_bytes(jwk["x"]))
    if jwk["kty"] == "oct":
        return None
    raise ValueError(f"unknown key type {jwk['kty']!r}")


# --- signatures -----------------------------------------------------------------------------------


def _fits(algorithm: str, key: PublicKey, signed: bytes, signature: bytes) -> bool:
    """Whether the signature is the key's, by one of the algorithms of RFC 7518 and RFC 8037."""
    try:
        if algorithm == "EdDSA":
            if not isinstance(key, ed25519.Ed25519PublicKey):
                return False
            key.verify(signature, signed)
            return True
        digest = _HASHES[algorithm[2:]]
        if algorithm.startswith("ES"):
            return _fits_elliptic(algorithm, key, signed, signature)
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        if algorithm.startswith("PS"):
            scheme = padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
            key.verify(signature, signed, scheme, digest)
        else:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _fits_elliptic(algorithm: str, key: PublicKey, signed: bytes, signature: bytes) -> bool:
    size = _CURVE_OF[algorithm]
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 2 * size:
        return False
    pair = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    key.verify(encode_dss_signature(*pair), signed, ec.ECDSA(_HASHES[algorithm[2:]]))
    return True


def _verify_public(algorithm: str) -> Callable[[str, str], Boolean]:
    def verify(token: str, key_text: str) -> Boolean:
        header, payload, signature = _sections(token)
        keys = load_keys(key_text)
        data = _decoded(signature, "signature")
        signed = f"{header}.{payload}".encode()
        _header(header)
        return boolean(any(_fits(algorithm, key, signed, data) for key in keys))

    return verify


def _secret_fits(algorithm: str, secret: str, signed: bytes, signature: bytes) -> bool:
    made = hmac.new(bytes_of(secret), signed, f"sha{algorithm[2:]}").digest()
    return hmac.compare_digest(made, signature)


def _verify_secret(algorithm: str) -> Callable[[str, str], Boolean]:
    def verify(token: str, secret: str) -> Boolean:
        header, payload, signature = _sections(token)
        data = _decoded(signature, "signature")
        return boolean(_secret_fits(algorithm, secret, f"{header}.{payload}".encode(), data))

    return verify


# --- io.jwt.decode_verify -------------------------------------------------------------------------

_ALGORITHMS = frozenset(
    f"{family}{size}" for family in ("HS", "RS", "PS", "ES") for size in (256, 384, 512)
) | {"EdDSA"}
_CONSTRAINTS = frozenset({"cert", "secret", "alg", "iss", "aud", "time"})
_FAILED: tuple[Value, ...] = (FALSE, EMPTY_OBJECT, EMPTY_OBJECT)


def decode_verify(run: Run, token: str, constraints: Object) -> tuple[Value, ...]:
    """`[true, header, claims]` when signature and claims meet the constraints, else `[false, {}, {}]`."""
    _check_constraints(constraints)
    for _ in range(16):
        header_text, payload_text, signature_text = _sections(token)
        header = _header(header_text)
        data = _decoded(signature_text, "signature")
        if not _signature_holds(constraints, header, f"{header_text}.{payload_text}".encode(), data):
            return _FAILED
        payload = text_of(_decoded(payload_text, "payload"))
        content_type = header.get("cty")
        if isinstance(content_type, str) and content_type.upper() == "JWT":
            token = payload.removeprefix('"').removesuffix('"')
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
            if not isinstance(value, int | Real):
                raise OperandError("token time constraint: must be a number")
        elif name == "aud":
            continue
        elif not isinstance(value, str):
            raise OperandError(f"token constraint {name}: must be a string")
    if ("cert" in constraints) == ("secret" in constraints):
        raise BuiltinError("exactly one of the constraints cert and secret is needed")


def _signature_holds(constraints: Object, header: Object, signed: bytes, signature: bytes) -> bool:
    algorithm = header.get("alg")
    if algorithm not in _ALGORITHMS or "crit" in header or "enc" in header:
        return False
    if "alg" in constraints and constraints["alg"] != algorithm:
        return False
    name = str(algorithm)
    if "secret" in constraints:
        return name.startswith("HS") and _secret_fits(name, str(constraints["secret"]), signed, signature)
    keys = load_keys(str(constraints["cert"]))
    return not name.startswith("HS") and any(_fits(name, key, signed, signature) for key in keys)


def _claims_hold(run: Run, constraints: Object, claims: Object) -> bool:
    if "iss" in constraints and claims.get("iss") != constraints["iss"]:
        return False
    if not _audience_holds(constraints.get("aud"), claims.get("aud")):
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
        ns = moment * 1_000_000_000
        if (now >= ns) if name == "exp" else (now < ns):
            return False
    return True


def _audience_holds(wanted: Value, given: Value) -> bool:
    if given is None:
        return wanted is None
    if not isinstance(wanted, str):
        return False
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
