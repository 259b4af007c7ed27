"""The last look at a leaf before it leaves, whoever signed it and however it was built.

Two ways to the same verdict. The short one walks the encoding and compares each part with what cryptography
writes for it, so that it shares no bytes with the template that may have built the leaf; it takes a tenth of
a signature. If anything differs, the long one reads the certificate field by field and decides; it accepts
what means the same in another order, and names the difference otherwise.
"""

import functools

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control_plane.core import der
from control_plane.core.certificate import UNREADABLE, Certificate, read_certificate
from control_plane.core.errors import Bug, InvalidInput
from control_plane.core.profile import (
    LEAF_BASIC_CONSTRAINTS,
    LEAF_EXTENDED_KEY_USAGE,
    LEAF_KEY_USAGE,
    LEAF_SUBJECT,
    SigningRequest,
)
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.tbs import authority_key_id, key_id_of, signature_algorithm


def check_leaf(certificate: bytes, request: SigningRequest, issuer: Certificate) -> None:
    """Holds a finished leaf against what was asked for. Raises Bug with the first difference.

    The signature isn't verified here; see `check_signature`.
    """
    window = request.window
    if window.not_after > issuer.not_after or window.not_before < issuer.not_before:
        raise Bug(f"leaf for {request.spiffe_id}: lives before or beyond its issuer {issuer.title}")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        found = (
            parsed.serial_number,
            int(parsed.not_valid_before_utc.timestamp()),
            int(parsed.not_valid_after_utc.timestamp()),
        )
        if found != (request.serial, window.not_before, window.not_after):
            raise Bug(f"leaf for {request.spiffe_id}: its serial or validity isn't the one asked for")
        if not _is_as_encoded(certificate, request, issuer):
            _check_fields(certificate, request, issuer)
    except (*UNREADABLE, InvalidInput) as error:
        raise Bug(f"leaf for {request.spiffe_id}: was issued in a form that can't be read back") from error


def check_signature(certificate: bytes, issuer: Certificate) -> None:
    """Verifies the issuer's signature. Raises Bug: a wrong one means a wrong key behind the authority."""
    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, *UNREADABLE) as error:
        raise Bug(f"a leaf of {issuer.title}: its signature doesn't fit the issuer's key") from error


def _is_as_encoded(data: bytes, request: SigningRequest, issuer: Certificate) -> bool:
    """The short way. Serial and validity were compared before; everything else is compared here."""
    size = len(data)
    body, end = der.expect(data, 0, size, der.SEQUENCE)
    tbs, tbs_end = der.expect(data, body, end, der.SEQUENCE)
    _, _, serial = der.read(data, tbs, tbs_end)
    _, _, algorithm = der.read(data, serial, tbs_end)
    _, _, issuer_name = der.read(data, algorithm, tbs_end)
    _, _, validity = der.read(data, issuer_name, tbs_end)
    _, _, subject = der.read(data, validity, tbs_end)
    _, _, spki = der.read(data, subject, tbs_end)
    extensions = spki + len(request.spki)
    frame = _frame(issuer)
    signature, signature_end = der.expect(data, tbs_end + len(frame.algorithm), end, der.BIT_STRING)
    return (
        end == size == signature_end
        and data[tbs:serial] == b"\xa0\x03\x02\x01\x02"  # version 3
        and data[algorithm:validity] == frame.algorithm_and_issuer
        and data[subject:spki] == frame.subject
        and data[spki:extensions] == request.spki
        and data[extensions:tbs_end] == _encoded_extensions(request, frame)
        and data[tbs_end : tbs_end + len(frame.algorithm)] == frame.algorithm
        and data[signature] == 0
    )


def _check_fields(certificate: bytes, request: SigningRequest, issuer: Certificate) -> None:
    """The long way, for leaves that don't look exactly like ours but may mean the same."""
    leaf = read_certificate(certificate)
    if leaf.spki != request.spki:
        raise Bug(f"leaf for {request.spiffe_id}: holds another public key than the request")
    if leaf.issuer != issuer.subject or leaf.subject != _SUBJECT:
        raise Bug(f"leaf for {request.spiffe_id}: its issuer or subject isn't the one of the profile")
    outer = signature_algorithm(issuer.public_key)
    outer += der.encode(der.BIT_STRING, b"\x00" + leaf.parsed.signature)
    if leaf.parsed.signature_algorithm_oid != _signature_oid(issuer) or not certificate.endswith(outer):
        raise Bug(f"leaf for {request.spiffe_id}: its signature algorithm isn't that of {issuer.title}")
    extensions = {extension.oid: extension for extension in leaf.parsed.extensions}
    expected = {extension.oid: extension for extension in _expected(request, issuer)}
    if extensions != expected:
        wrong = [
            oid.dotted_string for oid in extensions | expected if extensions.get(oid) != expected.get(oid)
        ]
        raise Bug(f"leaf for {request.spiffe_id}: extension {min(wrong)} isn't that of the profile")


def _expected(request: SigningRequest, issuer: Certificate) -> list[x509.Extension[x509.ExtensionType]]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(request.spiffe_id))]
    names += [x509.DNSName(name) for name in request.dns_names]
    return [
        _extension(LEAF_KEY_USAGE, True),
        _extension(LEAF_EXTENDED_KEY_USAGE, False),
        _extension(LEAF_BASIC_CONSTRAINTS, True),
        _extension(x509.SubjectKeyIdentifier(key_id_of(request.spki)), False),
        _extension(authority_key_id(issuer), False),
        _extension(x509.SubjectAlternativeName(names), False),
    ]


def _extension(value: x509.ExtensionType, critical: bool) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


class _Frame:
    """What all leaves of one issuer have in common, as cryptography encodes it."""

    __slots__ = ("algorithm", "algorithm_and_issuer", "authority_key_id", "static", "subject")

    def __init__(self, issuer: Certificate) -> None:
        self.algorithm = signature_algorithm(issuer.public_key)
        self.algorithm_and_issuer = self.algorithm + issuer.subject
        self.subject = _SUBJECT
        self.static = (
            _encoded(LEAF_KEY_USAGE, True)
            + _encoded(LEAF_EXTENDED_KEY_USAGE, False)
            + _encoded(LEAF_BASIC_CONSTRAINTS, True)
        )
        self.authority_key_id = _encoded(authority_key_id(issuer), False)


@functools.lru_cache(maxsize=64)
def _frame(issuer: Certificate) -> _Frame:
    return _Frame(issuer)


def _encoded_extensions(request: SigningRequest, frame: _Frame) -> bytes:
    content = (
        frame.static
        + _SUBJECT_KEY_ID_HEAD
        + key_id_of(request.spki)
        + frame.authority_key_id
        + _encoded_names(request.spiffe_id, request.dns_names)
    )
    return der.encode(0xA3, der.encode(der.SEQUENCE, content))


@functools.lru_cache(maxsize=8192)
def _encoded_names(spiffe_id: SpiffeId, dns_names: tuple[str, ...]) -> bytes:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns_names]
    return _encoded(x509.SubjectAlternativeName(names), False)


def _encoded(value: x509.ExtensionType, critical: bool) -> bytes:
    oid = value.oid.dotted_string
    if not oid.startswith("2.5.29."):
        raise Bug(f"extension {oid}: isn't one of X.509's own")
    content = bytes((0x06, 3, 0x55, 0x1D, int(oid.rpartition(".")[2])))
    content += b"\x01\x01\xff" if critical else b""
    return der.encode(der.SEQUENCE, content + der.encode(der.OCTET_STRING, value.public_bytes()))


@functools.lru_cache(maxsize=64)
def _signature_oid(issuer: Certificate) -> x509.ObjectIdentifier:
    key = issuer.public_key
    if isinstance(key, ec.EllipticCurvePublicKey):
        return x509.ObjectIdentifier("1.2.840.10045.4.3." + {256: "2", 384: "3", 521: "4"}[key.key_size])
    return x509.ObjectIdentifier(
        "1.2.840.113549.1.1.11" if isinstance(key, rsa.RSAPublicKey) else "1.3.101.112"
    )


_SUBJECT = LEAF_SUBJECT.public_bytes()
_SUBJECT_KEY_ID_HEAD = _encoded(x509.SubjectKeyIdentifier(b"\x00" * 20), False)[:-20]
