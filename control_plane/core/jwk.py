"""Public keys as JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037), and strict base64url.

Both directions for the key types that SPIFFE bundles use: EC on P-256, P-384 and P-521, RSA, Ed25519.
Private keys never take this form here. Signing and verifying tokens is `jwt_svid`'s work.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from control_plane.core.errors import InvalidInput, shown

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

MAX_RSA_BITS: Final = 8192  # beyond this one verification costs milliseconds
MIN_RSA_BITS: Final = 2048

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CURVE_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}


def load_public_key(spki: bytes) -> PublicKey:
    """Reads a DER SubjectPublicKeyInfo. Raises InvalidInput for other forms, types and sizes."""
    try:
        key = load_der_public_key(spki)
    except Exception as error:  # the library raises ValueError, TypeError and its own kinds
        raise InvalidInput(f"public key of {len(spki)} bytes: not a DER SubjectPublicKeyInfo") from error
    return _known(key)


def spki_of(key: PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo of a key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def jwk_of(key: PublicKey) -> dict[str, str]:
    """The members that say what the key is: `kty` and its parameters. No `use`, no `kid`."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        width = (key.curve.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": _CURVE_NAMES[key.curve.name],
            "x": base64url(numbers.x.to_bytes(width, "big")),
            "y": base64url(numbers.y.to_bytes(width, "big")),
        }
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        return {"kty": "RSA", "n": base64url(_unsigned(public.n)), "e": base64url(_unsigned(public.e))}
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_bytes_raw())}


def key_of_jwk(jwk: Mapping[str, object]) -> PublicKey:
    """Reads the key from a JWK's parameters. Raises InvalidInput for what is unknown or malformed."""
    kty = jwk.get("kty")
    try:
        if kty == "EC":
            curve = _CURVES.get(_text(jwk, "crv"))
            if curve is None:
                raise InvalidInput(f"JWK: curve {shown(jwk.get('crv'))} is not supported")
            width = (curve.key_size + 7) // 8
            x, y = from_base64url(_text(jwk, "x")), from_base64url(_text(jwk, "y"))
            if len(x) != width or len(y) != width:
                raise InvalidInput(f"JWK: coordinates of {len(x)} and {len(y)} bytes, expected {width}")
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
        if kty == "RSA":
            n, e = from_base64url(_text(jwk, "n")), from_base64url(_text(jwk, "e"))
            if len(n) * 8 > MAX_RSA_BITS + 8 or len(e) > 8:
                raise InvalidInput(
                    f"JWK: RSA key of {len(n)} bytes, at most {MAX_RSA_BITS // 8} are supported"
                )
            numbers = rsa.RSAPublicNumbers(int.from_bytes(e, "big"), int.from_bytes(n, "big"))
            return _known(numbers.public_key())
        if kty == "OKP" and jwk.get("crv") == "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(from_base64url(_text(jwk, "x")))
    except ValueError as error:
        raise InvalidInput(f"JWK of type {shown(kty)}: its parameters are no valid key") from error
    raise InvalidInput(f"JWK: key type {shown(kty)} is not supported")


def base64url(data: bytes) -> str:
    """Encodes without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Decodes; refuses padding, foreign characters and left-over bits: each value has one spelling."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidInput(f"base64url text {shown(text, 40)}: not decodable") from error
    if base64url(data) != text:
        raise InvalidInput(f"base64url text {shown(text, 40)}: not in canonical form")
    return data


def _known(key: object) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return key
        raise InvalidInput(f"RSA key of {key.key_size} bits: expected {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise InvalidInput(
        f"public key of type {type(key).__name__}: expected EC P-256/P-384/P-521, RSA or Ed25519"
    )


def _text(jwk: Mapping[str, object], name: str) -> str:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"JWK: member {name} is {shown(value)}, expected a string")
    return value


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
