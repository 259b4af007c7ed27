"""Fuzz targets of identities: IDs, selectors, certificates, tokens, bundles, journal, settings."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fuzz_files import InMemory

from control_plane.authority.vault_intermediate import read_issuer
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.certificate import read_certificate
from control_plane.core.csr import check_csr
from control_plane.core.errors import GatehouseError
from control_plane.core.jwt_svid import JwtRequest, encode_jwt, parse_and_verify
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import X509Svid
from control_plane.core.verify_x509 import verify_x509
from control_plane.identity.journal_file import Segment, marker, read_segment
from control_plane.identity.journal_file import frame as journal_frame
from control_plane.identity.ledger import JwtRecord, X509Intent, decode
from control_plane.settings import load_settings

TD: Final = TrustDomain("example.org")
WEB: Final = SpiffeId.parse("spiffe://example.org/web")
NOW: Final = 1_800_000_000
KEY: Final = ec.generate_private_key(ec.SECP256R1())
SPKI: Final = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
_CA_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])


def _builder(subject: x509.Name, uri: str, *, ca: bool) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=2)
    builder = x509.CertificateBuilder(_CA_NAME, subject, KEY.public_key(), 7)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(hours=1))
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    return builder.add_extension(usage, critical=True).add_extension(names, critical=not ca)


def _authority() -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return _builder(_CA_NAME, str(TD.id), ca=True).add_extension(constraints, critical=True)


def _leaf() -> x509.CertificateBuilder:
    """What an authority would make, but for its key: mutations must never be accepted."""
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return _builder(x509.Name([]), str(WEB), ca=False).add_extension(uses, critical=False)


def _signed(builder: x509.CertificateBuilder) -> bytes:
    """By another key each time."""
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _trusted(builder: x509.CertificateBuilder) -> bytes:
    """By the key that the certificates name."""
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


AUTHORITY: Final = _trusted(_authority())
LEAF: Final = _trusted(_leaf())
BUNDLE: Final = Bundle(
    TD, (X509Authority.parse(_signed(_authority())),), (JwtAuthority("one", SPKI, NOW + 3600),), 1, 300
)


_FILE: Final = InMemory("input")


def fuzz_spiffe_id(data: bytes) -> bool:
    """What parses is written as it was read."""
    text = data.decode("utf-8", "surrogateescape")
    accepted = False
    with contextlib.suppress(GatehouseError):
        assert str(SpiffeId.parse(text)) == text
        accepted = True
    with contextlib.suppress(GatehouseError):
        assert TrustDomain.parse(text).id.trust_domain.name in text
        accepted = True
    return accepted


def fuzz_selector(data: bytes) -> bool:
    """Likewise."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert str(Selector.parse(text)) == text
        return True
    return False


def fuzz_csr(data: bytes) -> bool:
    """Certificate requests, and the walk over their DER."""
    accepted = False
    for require_uri in (False, True):
        with contextlib.suppress(GatehouseError):
            check_csr(data, require_uri=require_uri)
            accepted = True
    return accepted


def fuzz_certificate(data: bytes) -> bool:
    """A chain of one, as a peer would present it: never valid, whatever it says. Accepted means read."""
    with contextlib.suppress(GatehouseError):
        verify_x509([data], BUNDLE, NOW)
        raise AssertionError("a chain was accepted that no authority signed")
    readers: tuple[Callable[[], object], ...] = (
        lambda: X509Authority.parse(data),
        lambda: X509Svid.from_chain([data]),
        lambda: read_issuer((data,), NOW),
        lambda: Bundle.parse_pem(TD, ssl.DER_cert_to_PEM_cert(data)),
    )
    for read in readers:
        with contextlib.suppress(GatehouseError):
            read()
    with contextlib.suppress(GatehouseError):
        read_certificate(data)
        return True
    return False


def fuzz_jwt(data: bytes) -> bool:
    """Tokens: accepted only if it is the one that was signed."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert parse_and_verify(text, "them", {TD: BUNDLE}, NOW).spiffe_id == WEB
        return True
    return False


def fuzz_jwt_claims(data: bytes) -> bool:
    """Header and claims, a line each, with a signature that holds: accepted for nobody but whom they name."""
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in data.split(b"\n", 1))
    numbers = decode_dss_signature(KEY.sign(signed, ec.ECDSA(hashes.SHA256())))
    signature = b"".join(number.to_bytes(32, "big") for number in numbers)
    token = signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
    with contextlib.suppress(GatehouseError):
        claims = parse_and_verify(token.decode("ascii"), "them", {TD: BUNDLE}, NOW)
        assert str(claims.spiffe_id).encode() in data or b"\\" in data
        return True
    return False


def fuzz_bundle(data: bytes) -> bool:
    """Bundles as JSON and as PEM; what parses is written to something that parses to the same."""
    accepted = False
    with contextlib.suppress(GatehouseError):
        read = Bundle.parse_json(TD, data)
        assert Bundle.parse_json(TD, read.to_json()).same_content(read)
        accepted = True
    with contextlib.suppress(GatehouseError):
        Bundle.parse_pem(TD, data)
        accepted = True
    return accepted


def fuzz_journal(data: bytes) -> bool:
    """A segment of a ledger journal after anything that can happen to a disk: damage is told, not raised."""
    InMemory.content = data
    accepted = False
    with contextlib.suppress(GatehouseError):
        for _, payload in read_segment(Segment(1, 1, _FILE)).payloads:
            decode(payload)
            accepted = True
    return accepted


def fuzz_record(data: bytes) -> bool:
    """One record of a journal, behind a checksum that holds."""
    with contextlib.suppress(GatehouseError):
        decode(data)
        return True
    return False


def fuzz_settings(data: bytes) -> bool:
    """The server's TOML file."""
    InMemory.content = data
    with contextlib.suppress(GatehouseError):
        load_settings(file=_FILE, environment={}, flags={})
        return True
    return False


def _requests() -> list[bytes]:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("w.test")])
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    named = empty.add_extension(names, critical=False)
    keys = (KEY, ec.generate_private_key(ec.SECP384R1()))
    return [
        one.sign(key, hashes.SHA256()).public_bytes(Encoding.DER) for one in (empty, named) for key in keys
    ]


def _tokens() -> list[bytes]:
    request = JwtRequest(WEB, ("them",), NOW, NOW + 300, "")
    token = encode_jwt(
        request, "one", KEY.public_key(), lambda data: KEY.sign(data, ec.ECDSA(hashes.SHA256()))
    )
    return [token.token.encode()]


def _claims() -> list[bytes]:
    (token,) = _tokens()
    header, claims, _ = token.split(b".")
    return [b"\n".join(base64.urlsafe_b64decode(part + b"==") for part in (header, claims))]


def _records() -> list[bytes]:
    intent = X509Intent(NOW, WEB, 7, b"d" * 32, "a" * 40)
    token = JwtRecord(NOW, WEB, ("them",), NOW + 300, "one", "", "e", "", "", b"d" * 32)
    return [intent.encode(), token.encode()]


def _segment() -> bytes:
    data = b""
    intent, token = _records()
    for sequence in (1, 3):
        data += marker(len(data), sequence, NOW)
        data += journal_frame(sequence, intent) + journal_frame(sequence + 1, token)
    return data


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "spiffe_id": lambda: [b"spiffe://example.org/ns/a/sa/b-c_d.e", b"example.org"],
    "selector": lambda: [b"unix:uid:1000", b"k8s:pod-label:app:web"],
    "csr": _requests,
    "certificate": lambda: [_signed(_leaf()), _signed(_authority()), *_requests()],
    "jwt": _tokens,
    "jwt_claims": _claims,
    "bundle": lambda: [
        BUNDLE.to_json().encode(),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        BUNDLE.to_pem().encode(),
    ],
    "journal": lambda: [_segment()],
    "record": _records,
    "settings": lambda: [
        b'data_dir = "d"\ntrust_domain = "example.org"\nbind = "[::1]:0"\nissuers = 2\nadmin_ids = '
        b'["spiffe://example.org/a"]\n[rate_limits]\nsigning_per_second = 1.5\n'
        b"[authority]\nca_ttl_seconds = 604800\n"
    ],
}
