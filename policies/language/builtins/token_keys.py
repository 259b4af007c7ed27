"""The keys that JSON Web Tokens are verified with: a PEM certificate, a PEM public key, a JWK or a JWK set
(RFC 7517).

Not here: which of them may verify a token, and verifying (`tokens`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from control_plane.core.certificate import UNREADABLE
from policies.language.builtins.documents import json_unmarshal
from policies.language.builtins.encoding import base64url_bytes
from policies.language.builtins.errors import BuiltinError

_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
ALGORITHMS = frozenset(
    f"{family}{size}" for family in ("HS", "RS", "PS", "ES") for size in (256, 384, 512)
) | {"EdDSA"}

_OTHER_ALGORITHMS = frozenset(
    {
        "none",
        "ES256K",
        "Ed25519",
        "dir",
        "RSA1_5",
        "RSA-OAEP",
        "RSA-OAEP-256",
        "RSA-OAEP-384",
        "RSA-OAEP-512",
    }
    | {f"ECDH-ES{wrapped}" for wrapped in ("", "+A128KW", "+A192KW", "+A256KW")}
    | {f"A{size}{kind}" for size in (128, 192, 256) for kind in ("KW", "GCMKW")}
    | {"PBES2-HS256+A128KW", "PBES2-HS384+A192KW", "PBES2-HS512+A256KW"}
)
"""What a JWK may be for besides; such a key is passed over, one for anything else spoils its set."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """A key to verify with. A JWK may say for which algorithm it is, and its name; "" where it doesn't."""

    key: PublicKey | bytes = field(repr=False)
    algorithm: str = ""
    name: str = ""


_PEM = re.compile(r"\s*-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----\s*", re.DOTALL)


@lru_cache(maxsize=256)
def load_keys(text: str) -> tuple[Key, ...]:
    """The keys of a certificate, a PEM key, a JWK or a JWK set; without JWKs for other purposes."""
    if text.lstrip().startswith("-----"):
        return (Key(_pem_key(text)),)
    try:
        document: Any = json_unmarshal(text)
        found = document.get("keys", (document,))
        if not isinstance(found, tuple):
            raise TypeError("keys: must be a list")
        keys = [Key(_jwk(jwk), jwk.get("alg", ""), jwk.get("kid", "")) for jwk in found]
        if unknown := {key.algorithm for key in keys} - ALGORITHMS - _OTHER_ALGORITHMS - {""}:
            raise ValueError(f"unknown algorithms {sorted(unknown)}")
        return tuple(key for key in keys if key.algorithm not in _OTHER_ALGORITHMS)
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


def _jwk(jwk: Any) -> PublicKey | bytes:
    def number(name: str) -> int:
        return int.from_bytes(base64url_bytes(jwk[name]), "big")

    if jwk["kty"] == "RSA":
        return rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
    if jwk["kty"] == "EC":
        return ec.EllipticCurvePublicNumbers(number("x"), number("y"), _CURVES[jwk["crv"]]).public_key()
    if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(base64url_bytes(jwk["x"]))
    if jwk["kty"] == "oct":
        return base64url_bytes(jwk["k"])
    raise ValueError(f"unknown key type {jwk['kty']!r}")
