"""JWT-SVIDs: writing them and deciding whether to believe one (JWT-SVID.md).

Compact JWS only, the nine algorithms of the specification only, keys from the bundle of the subject's own
trust domain only, chosen by `kid`. Everything that other JWT readers got wrong is refused by construction:
the algorithm must fit the key's type, headers other than `alg`, `kid` and `typ` aren't tolerated, a missing
key means no. No key is ever taken from the token.

Signing isn't done here: `encode_jwt` takes a function from bytes to a signature as X.509 has it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from control_plane.core.bundle import Bundle, JwtAuthority
from control_plane.core.errors import InvalidInput, NotFound, Unauthenticated, shown
from control_plane.core.jwk import PublicKey, base64url, from_base64url, load_public_key
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.strict_json import load_object
from control_plane.core.svid import JwtSvid

MAX_TOKEN_BYTES: Final = 64 << 10
MAX_AUDIENCES: Final = 64
MAX_AUDIENCE_CHARACTERS: Final = 4096
LEEWAY_SECONDS: Final = 30  # for clocks that differ a little

_Hash: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_HASHES: Final[dict[str, _Hash]] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVE_OF: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_ALGORITHM_OF: Final = {curve: algorithm for algorithm, curve in _CURVE_OF.items()}
ALGORITHMS: Final = frozenset(family + bits for family in ("RS", "ES", "PS") for bits in _HASHES)


@dataclass(frozen=True, slots=True)
class JwtRequest:
    """What a JWT-SVID is to say. Times in Unix seconds; an empty `token_id` leaves `jti` out."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    issued_at: int
    expires_at: int
    token_id: str = ""

    def __post_init__(self) -> None:
        check_audience(self.audience)
        if not self.spiffe_id.has_path:
            raise InvalidInput(f"JWT-SVID {self.spiffe_id}: has no path")
        if self.expires_at <= self.issued_at:
            raise InvalidInput(f"JWT-SVID {self.spiffe_id}: would end at {self.expires_at}, before it begins")


@dataclass(frozen=True, slots=True)
class JwtClaims:
    """What a verified token says; `claims` are all of them as they came, the SPIFFE ones included."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_at: int
    issued_at: int | None
    key_id: str
    tainted: bool
    claims: Mapping[str, object]


def check_audience(audience: tuple[str, ...]) -> None:
    """Refuses an audience that no token may have. Raises InvalidInput."""
    if not 1 <= len(audience) <= MAX_AUDIENCES:
        raise InvalidInput(f"audience: {len(audience)} values, expected 1 to {MAX_AUDIENCES}")
    for value in audience:
        if not 1 <= len(value) <= MAX_AUDIENCE_CHARACTERS:
            raise InvalidInput(
                f"audience {shown(value)}: {len(value)} characters, expected 1 to {MAX_AUDIENCE_CHARACTERS}"
            )


def jwt_algorithm(key: PublicKey) -> str:
    """The algorithm that we sign with by a key of this kind. Raises InvalidInput for Ed25519 (J-03)."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _ALGORITHM_OF[key.curve.name]
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    raise InvalidInput("JWT key of type Ed25519: JWT-SVIDs are signed by EC or RSA keys only")


def signing_input(request: JwtRequest, key_id: str, key: PublicKey) -> bytes:
    """Header and claims as they are signed: `base64url(header).base64url(claims)`."""
    header = {"alg": jwt_algorithm(key), "kid": key_id, "typ": "JWT"}
    claims: dict[str, object] = {
        "sub": str(request.spiffe_id),
        "aud": list(request.audience),
        "exp": request.expires_at,
        "iat": request.issued_at,
    }
    if request.token_id:
        claims["jti"] = request.token_id
    return f"{_encode(header)}.{_encode(claims)}".encode("ascii")


def finish(request: JwtRequest, signed: bytes, key: PublicKey, signature: bytes) -> JwtSvid:
    """Joins the signed part and its signature (DER for EC keys, as signers give it) to a token."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        width = (key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(signature)
        signature = r.to_bytes(width, "big") + s.to_bytes(width, "big")
    token = f"{signed.decode('ascii')}.{base64url(signature)}"
    return JwtSvid(request.spiffe_id, token, request.audience, request.issued_at, request.expires_at)


def encode_jwt(request: JwtRequest, key_id: str, key: PublicKey, sign: Callable[[bytes], bytes]) -> JwtSvid:
    """One JWT-SVID in one step."""
    signed = signing_input(request, key_id, key)
    return finish(request, signed, key, sign(signed))


def parse_and_verify(token: str, audience: str, bundles: Mapping[TrustDomain, Bundle], now: int) -> JwtClaims:
    """Decides whether to believe a token that was meant for `audience` at `now` (Unix seconds).

    Raises Unauthenticated with the rule that was broken; the message never holds the token. Raises
    InvalidInput if the audience asked for is empty: a token for nobody is a token for everybody.
    """
    if not audience:
        raise InvalidInput("validation of a JWT-SVID: the expected audience is empty")
    if len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated(f"JWT-SVID of {len(token)} bytes: {MAX_TOKEN_BYTES} allowed")
    try:
        return _verify(token, audience, bundles, now)
    except (InvalidInput, NotFound) as error:
        raise Unauthenticated(f"JWT-SVID: {error.message}") from error


def _verify(token: str, audience: str, bundles: Mapping[TrustDomain, Bundle], now: int) -> JwtClaims:
    parts = token.split(".")
    if len(parts) != 3:
        raise Unauthenticated(f"JWT-SVID: {len(parts)} parts, a compact JWS has 3")
    header = load_object(from_base64url(parts[0]), "header", MAX_TOKEN_BYTES)
    algorithm, key_id = _check_header(header)
    claims = load_object(from_base64url(parts[1]), "claims", MAX_TOKEN_BYTES)
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise Unauthenticated("JWT-SVID: has no subject")
    spiffe_id = SpiffeId.parse(subject)
    if not spiffe_id.has_path:
        raise Unauthenticated(f"JWT-SVID {spiffe_id}: has no path")
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or bundle.trust_domain != spiffe_id.trust_domain:
        raise Unauthenticated(f"JWT-SVID {spiffe_id}: no bundle of its trust domain is known here")
    authority = bundle.jwt_authority(key_id)
    _check_signature(algorithm, authority, f"{parts[0]}.{parts[1]}".encode("ascii"), from_base64url(parts[2]))
    audiences = _audiences(claims.get("aud"))
    if audience not in audiences:
        named = ", ".join(shown(one) for one in audiences)
        raise Unauthenticated(f"JWT-SVID {spiffe_id}: is meant for {named}, not {shown(audience)}")
    expires_at, issued_at = _check_times(spiffe_id, claims, now)
    return JwtClaims(spiffe_id, audiences, expires_at, issued_at, key_id, authority.tainted, claims)


def _check_header(header: Mapping[str, object]) -> tuple[str, str]:
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise Unauthenticated(f"JWT-SVID: algorithm {shown(algorithm)} is not allowed")
    foreign = header.keys() - {"alg", "kid", "typ"}
    if foreign:
        raise Unauthenticated(f"JWT-SVID: header {shown(min(foreign))} is not allowed")
    if "typ" in header and header["typ"] not in ("JWT", "JOSE"):
        raise Unauthenticated(f"JWT-SVID: type {shown(header['typ'])}, expected JWT or JOSE")
    if not isinstance(key_id, str) or not key_id:
        raise Unauthenticated("JWT-SVID: names no key (kid)")
    return algorithm, key_id


def _check_signature(algorithm: str, authority: JwtAuthority, signed: bytes, signature: bytes) -> None:
    key = load_public_key(authority.public_key)
    digest = _HASHES[algorithm[2:]]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVE_OF.get(algorithm):
            width = (key.curve.key_size + 7) // 8
            if len(signature) != 2 * width:
                raise Unauthenticated(
                    f"JWT-SVID: signature of {len(signature)} bytes, {algorithm} has {2 * width}"
                )
            r, s = int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.startswith("RS"):
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.startswith("PS"):
            scheme = padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size)
            key.verify(signature, signed, scheme, digest)
        else:
            raise Unauthenticated(
                f"JWT-SVID: algorithm {algorithm} doesn't fit key {shown(authority.key_id)}"
            )
    except InvalidSignature as error:
        raise Unauthenticated(
            f"JWT-SVID: signature doesn't fit key {shown(authority.key_id)} of the bundle"
        ) from error


def _audiences(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise Unauthenticated("JWT-SVID: has no audience")
    if not all(isinstance(one, str) for one in values):
        raise Unauthenticated("JWT-SVID: its audience holds something that isn't text")
    return tuple(values)


def _check_times(spiffe_id: SpiffeId, claims: Mapping[str, object], now: int) -> tuple[int, int | None]:
    expires_at = _numeric_date(claims, "exp")
    if expires_at is None:
        raise Unauthenticated(f"JWT-SVID {spiffe_id}: has no end (exp)")
    if now >= expires_at + LEEWAY_SECONDS:
        raise Unauthenticated(f"JWT-SVID {spiffe_id}: expired at {expires_at}, the time is {now}")
    for name in ("nbf", "iat"):
        begins = _numeric_date(claims, name)
        if begins is not None and begins > now + LEEWAY_SECONDS:
            raise Unauthenticated(f"JWT-SVID {spiffe_id}: {name} is {begins}, the time is {now}")
    return expires_at, _numeric_date(claims, "iat")


def _numeric_date(claims: Mapping[str, object], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise Unauthenticated(f"JWT-SVID: {name} is {shown(value)}, expected seconds since 1970")
    return int(value)


def _encode(document: Mapping[str, object]) -> str:
    return base64url(json.dumps(document, separators=(",", ":")).encode("utf-8"))
