"""The SPIFFE bundle format: a JWK Set with two extra members (SPIFFE_Trust_Domain_and_Bundle.md section 4).

Reading is tolerant where the specification wants it (unknown key types, unknown or missing `use`, entries
without a usable certificate are passed over, one by one) and strict where silence would be dangerous:
duplicate member names, numbers that aren't 64-bit integers, text over `MAX_JSON_BYTES`. Writing sets
exactly the members that the specification names, in a fixed order, so that equal bundles give equal text.

The map of several bundles (section 4.4) is read and written here too.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Final

from cryptography import x509

from control_plane.core.bundle import (
    MAX_AUTHORITIES,
    MAX_SEQUENCE,
    Bundle,
    JwtAuthority,
    X509Authority,
    subject_key_id,
)
from control_plane.core.errors import InvalidInput, shown
from control_plane.core.jwk import PublicKey, jwk_of, key_of_jwk, load_public_key, spki_of
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.strict_json import load_object

MAX_JSON_BYTES: Final = 4 << 20
MAX_REFRESH_HINT_SECONDS: Final = 2**31 - 1

_X509_USE: Final = "x509-svid"
_JWT_USE: Final = "jwt-svid"


def parse(trust_domain: TrustDomain, text: str | bytes) -> Bundle:
    """Reads one bundle. Raises InvalidInput when it isn't a JWK Set or says one thing twice."""
    return _bundle(trust_domain, load_object(text, f"bundle of {trust_domain}", MAX_JSON_BYTES))


def dump(bundle: Bundle) -> str:
    """Writes one bundle; a sequence or a hint of 0 is left out."""
    return json.dumps(_document(bundle, with_hint=True), indent=2) + "\n"


def parse_map(text: str | bytes) -> dict[TrustDomain, Bundle]:
    """Reads a bundle map. Raises InvalidInput, also when a trust domain comes twice (B-08)."""
    document = load_object(text, "bundle map", MAX_JSON_BYTES)
    members = document.get("trust_domains")
    if not isinstance(members, dict):
        raise InvalidInput(f"bundle map: member trust_domains is {shown(members)}, expected an object")
    bundles = {}
    for name, member in members.items():
        if not isinstance(member, dict):
            raise InvalidInput(f"bundle map: {shown(name)} is {shown(member)}, expected a bundle")
        trust_domain = TrustDomain(name)
        bundles[trust_domain] = _bundle(trust_domain, member)
    return bundles


def dump_map(bundles: Mapping[TrustDomain, Bundle]) -> str:
    """Writes a bundle map; its members carry no refresh hints (B-09)."""
    members = {td.name: _document(bundles[td], with_hint=False) for td in sorted(bundles)}
    return json.dumps({"trust_domains": members}, indent=2) + "\n"


def jwks(bundle: Bundle) -> bytes:
    """A plain JWK Set of the JWT keys, `kty`, `kid` and the parameters, nothing else."""
    keys = [
        {**jwk_of(load_public_key(authority.public_key)), "kid": authority.key_id}
        for authority in bundle.jwt_authorities
    ]
    return json.dumps({"keys": keys}, separators=(",", ":")).encode()


def _bundle(trust_domain: TrustDomain, document: Mapping[str, object]) -> Bundle:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise InvalidInput(f"bundle of {trust_domain}: member keys is {shown(keys)}, expected an array")
    if len(keys) > MAX_AUTHORITIES:
        raise InvalidInput(f"bundle of {trust_domain}: {len(keys)} keys, {MAX_AUTHORITIES} allowed")
    x509_authorities: dict[bytes, X509Authority] = {}
    jwt_authorities: dict[str, JwtAuthority] = {}
    for key in keys:
        if not isinstance(key, dict) or key.get("kty") not in ("EC", "RSA", "OKP"):
            continue
        if key.get("use") == _X509_USE and (certificate := _first_certificate(key)) is not None:
            x509_authorities.setdefault(certificate, X509Authority(certificate))
        elif key.get("use") == _JWT_USE and (authority := _jwt_authority(key)) is not None:
            if jwt_authorities.get(authority.key_id, authority) != authority:
                raise InvalidInput(
                    f"bundle of {trust_domain}: key ID {shown(authority.key_id)} comes twice",
                    hint="a token names its key by this ID; two keys under one name can't be told apart",
                )
            jwt_authorities[authority.key_id] = authority
    return Bundle(
        trust_domain,
        tuple(x509_authorities.values()),
        tuple(jwt_authorities.values()),
        sequence=_integer(document, "spiffe_sequence", MAX_SEQUENCE),
        refresh_hint_seconds=_integer(document, "spiffe_refresh_hint", MAX_REFRESH_HINT_SECONDS),
    )


def _first_certificate(jwk: Mapping[str, object]) -> bytes | None:
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        return None
    try:
        certificate = base64.b64decode(chain[0].encode("ascii"), validate=True)
        subject_key_id(certificate)
    except (binascii.Error, UnicodeEncodeError, InvalidInput):
        return None
    return certificate


def _jwt_authority(jwk: Mapping[str, object]) -> JwtAuthority | None:
    key_id = jwk.get("kid")
    if not isinstance(key_id, str) or not key_id:
        return None
    try:
        key = key_of_jwk(jwk)
    except InvalidInput:
        return None
    return JwtAuthority(key_id, spki_of(key))


def _document(bundle: Bundle, *, with_hint: bool) -> dict[str, object]:
    keys: list[dict[str, object]] = []
    for x509_authority in bundle.x509_authorities:
        encoded = base64.b64encode(x509_authority.certificate).decode("ascii")
        keys.append({"use": _X509_USE, **jwk_of(_public_key(x509_authority)), "x5c": [encoded]})
    for jwt_authority in bundle.jwt_authorities:
        key = jwk_of(load_public_key(jwt_authority.public_key))
        keys.append({"use": _JWT_USE, "kid": jwt_authority.key_id, **key})
    document: dict[str, object] = {"keys": keys}
    if bundle.sequence:
        document["spiffe_sequence"] = bundle.sequence
    if with_hint and bundle.refresh_hint_seconds:
        document["spiffe_refresh_hint"] = bundle.refresh_hint_seconds
    return document


def _public_key(authority: X509Authority) -> PublicKey:
    certificate = x509.load_der_x509_certificate(authority.certificate)
    return load_public_key(spki_of(certificate.public_key()))  # type: ignore[arg-type]  # any key has an SPKI


def _integer(document: Mapping[str, object], name: str, limit: int) -> int:
    value = document.get(name, 0)
    if type(value) is not int or not 0 <= value <= limit:
        raise InvalidInput(f"bundle: {name} is {shown(value)}, expected an integer from 0 to {limit}")
    return value
