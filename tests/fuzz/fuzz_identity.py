"""Fuzz targets of identities: IDs, selectors, certificates, tokens, bundles, journal, settings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.csr import check_csr
from control_plane.core.errors import GatehouseError
from control_plane.core.jwt_svid import JwtRequest, encode_jwt, parse_and_verify
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.verify_x509 import verify_x509
from control_plane.identity.journal_file import frame as journal_frame
from control_plane.identity.journal_file import marker
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import JwtRecord, X509Intent
from control_plane.settings import load_settings

TD: Final = TrustDomain("example.org")
WEB: Final = SpiffeId.parse("spiffe://example.org/web")
NOW: Final = 1_800_000_000
_KEY: Final = ec.generate_private_key(ec.SECP256R1())
_SPKI: Final = _KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
_CA_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])


def _builder(subject: x509.Name, uri: str, *, ca: bool) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=2)
    builder = x509.CertificateBuilder(_CA_NAME, subject, _KEY.public_key(), 7)
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


_BUNDLE: Final = Bundle(
    TD, (X509Authority.parse(_signed(_authority())),), (JwtAuthority("one", _SPKI, NOW + 3600),), 1, 300
)
_FOLDER: Final = tempfile.TemporaryDirectory(prefix="gh")


def fuzz_spiffe_id(data: bytes) -> None:
    """What parses is written as it was read."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert str(SpiffeId.parse(text)) == text
    with contextlib.suppress(GatehouseError):
        assert TrustDomain.parse(text).id.trust_domain.name in text


def fuzz_selector(data: bytes) -> None:
    """Likewise."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert str(Selector.parse(text)) == text


def fuzz_csr(data: bytes) -> None:
    """Certificate requests, and the walk over their DER."""
    for require_uri in (False, True):
        with contextlib.suppress(GatehouseError):
            check_csr(data, require_uri=require_uri)


def fuzz_certificate(data: bytes) -> None:
    """A chain of one, as a peer would present it: never accepted, whatever it says."""
    with contextlib.suppress(GatehouseError):
        verify_x509([data], _BUNDLE, NOW)
        raise AssertionError("a chain was accepted that no authority signed")


def fuzz_jwt(data: bytes) -> None:
    """Tokens."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert parse_and_verify(text, "them", {TD: _BUNDLE}, NOW).spiffe_id == WEB


def fuzz_bundle(data: bytes) -> None:
    """Bundles as JSON and as PEM; what parses is written to something that parses to the same."""
    with contextlib.suppress(GatehouseError):
        read = Bundle.parse_json(TD, data)
        assert Bundle.parse_json(TD, read.to_json()).same_content(read)
    with contextlib.suppress(GatehouseError):
        Bundle.parse_pem(TD, data)


def fuzz_journal(data: bytes) -> None:
    """A segment of a ledger journal after anything that can happen to a disk: damage is told, not raised."""
    folder = Path(_FOLDER.name) / "ledger"
    folder.mkdir(exist_ok=True)
    (folder / "issuer-1-00000000000000000001.journal").write_bytes(data)
    with contextlib.suppress(GatehouseError):
        for _ in read_journals(folder, on_damage=lambda damage: None):
            pass


def fuzz_settings(data: bytes) -> None:
    """The server's TOML file."""
    path = Path(_FOLDER.name) / "settings.toml"
    path.write_bytes(data)
    with contextlib.suppress(GatehouseError):
        load_settings(file=path, environment={}, flags={})


def _requests() -> list[bytes]:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("w.test")])
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    named = empty.add_extension(names, critical=False)
    keys = (_KEY, ec.generate_private_key(ec.SECP384R1()))
    return [
        one.sign(key, hashes.SHA256()).public_bytes(Encoding.DER) for one in (empty, named) for key in keys
    ]


def _tokens() -> list[bytes]:
    request = JwtRequest(WEB, ("them",), NOW, NOW + 300, "")
    token = encode_jwt(
        request, "one", _KEY.public_key(), lambda data: _KEY.sign(data, ec.ECDSA(hashes.SHA256()))
    )
    return [token.token.encode()]


def _segment() -> bytes:
    data = b""
    intent = X509Intent(NOW, WEB, 7, b"d" * 32, "a" * 40)
    token = JwtRecord(NOW, WEB, ("them",), NOW + 300, "one", "", "e", "", "", b"d" * 32)
    for sequence in (1, 3):
        data += marker(len(data), sequence, NOW)
        data += journal_frame(sequence, intent.encode()) + journal_frame(sequence + 1, token.encode())
    return data


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "spiffe_id": lambda: [b"spiffe://example.org/ns/a/sa/b-c_d.e", b"example.org"],
    "selector": lambda: [b"unix:uid:1000", b"k8s:pod-label:app:web"],
    "csr": _requests,
    "certificate": lambda: [_signed(_leaf()), _signed(_authority()), *_requests()],
    "jwt": _tokens,
    "bundle": lambda: [
        _BUNDLE.to_json().encode(),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
    "journal": lambda: [_segment()],
    "settings": lambda: [
        b'data_dir = "d"\ntrust_domain = "example.org"\nbind = "[::1]:0"\nissuers = 2\nadmin_ids = '
        b'["spiffe://example.org/a"]\n[rate_limits]\nsigning_per_second = 1.5\n'
        b"[authority]\nca_ttl_seconds = 604800\n"
    ],
}
