"""What our leaves look like: building them by cryptography's builder, and checking each one.

`check_leaf` runs on every leaf before it leaves, whoever signed it and however it was built; it reads the
certificate with another parser than the one that wrote it. The builder here is the general way, for all key
types; `template` is the short way for P-256 and gives the same bytes (X509-SVID.md sections 2 to 4,
RFC 5280 section 4).

Signing isn't done here: a `sign` argument is a function from the bytes to be signed to the signature.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.core import der
from control_plane.core.certificate import Certificate
from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import Bug, InvalidInput
from control_plane.core.lifetime import Window
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.tbs import assemble, authority_key_id, certificate_builder, key_id_of, tbs_of

LEAF_SUBJECT: Final = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Gatehouse")])


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """All that decides a leaf, but the issuer: key (canonical SPKI, DER), ID, names, serial, validity."""

    spiffe_id: SpiffeId
    spki: bytes
    serial: int
    window: Window
    dns_names: tuple[str, ...] = ()


def build_leaf(request: SigningRequest, issuer: Certificate, sign: Callable[[bytes], bytes]) -> bytes:
    """One leaf, DER, by the general way. Raises InvalidInput if the request can't be certified."""
    tbs = leaf_tbs(request, issuer)
    return assemble(tbs, issuer.public_key, sign(tbs))


def leaf_tbs(request: SigningRequest, issuer: Certificate) -> bytes:
    """The bytes of a leaf that are to be signed."""
    if not request.spiffe_id.has_path:
        raise InvalidInput(f"X.509-SVID {request.spiffe_id}: has no path")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(request.spiffe_id))]
    names += [x509.DNSName(check_dns_name(name)) for name in request.dns_names]
    builder = (
        certificate_builder(LEAF_SUBJECT, issuer.parsed.subject, request.spki, request.serial, request.window)
        .add_extension(_LEAF_KEY_USAGE, critical=True)
        .add_extension(_LEAF_EXTENDED_KEY_USAGE, critical=False)
        .add_extension(_LEAF_BASIC_CONSTRAINTS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id_of(request.spki)), critical=False)
        .add_extension(authority_key_id(issuer), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return tbs_of(builder, issuer.public_key)


def check_leaf(certificate: bytes, request: SigningRequest, issuer: Certificate) -> None:
    """Holds a finished leaf against what was asked for, field by field. Raises Bug with the first difference.

    The signature isn't verified here; see `check_signature`.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extensions = {extension.oid: extension for extension in parsed.extensions}
        found = (
            parsed.serial_number,
            int(parsed.not_valid_before_utc.timestamp()),
            int(parsed.not_valid_after_utc.timestamp()),
            parsed.subject.public_bytes(),
            parsed.issuer.public_bytes(),
            parsed.signature_algorithm_oid,
            _spki_in(certificate),
        )
    except (ValueError, InvalidInput, x509.DuplicateExtension) as error:
        raise Bug(f"leaf for {request.spiffe_id}: was issued in a form that can't be read back") from error
    wanted = (
        request.serial,
        request.window.not_before,
        request.window.not_after,
        _LEAF_SUBJECT_BYTES,
        issuer.subject,
        _signature_oid(issuer),
        request.spki,
    )
    if found != wanted:
        index = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        raise Bug(f"leaf for {request.spiffe_id}: its {_FIELDS[index]} isn't the one that was asked for")
    if extensions != _expected_extensions(request, issuer):
        raise Bug(f"leaf for {request.spiffe_id}: its extensions aren't exactly those of the profile")
    if request.window.not_after > issuer.not_after or request.window.not_before < issuer.not_before:
        raise Bug(f"leaf for {request.spiffe_id}: lives before or beyond its issuer {issuer.title}")


def check_signature(certificate: bytes, issuer: Certificate) -> None:
    """Verifies the issuer's signature. Raises Bug: a wrong one means a wrong key behind the authority."""
    from cryptography.exceptions import InvalidSignature

    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise Bug(f"a leaf of {issuer.title}: its signature doesn't fit the issuer's key") from error


_LEAF_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_LEAF_EXTENDED_KEY_USAGE = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)
_LEAF_BASIC_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)
_LEAF_SUBJECT_BYTES = LEAF_SUBJECT.public_bytes()
_FIELDS = ("serial", "NotBefore", "NotAfter", "subject", "issuer", "signature algorithm", "public key")


def _extension(value: x509.ExtensionType, critical: bool) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


_LEAF_STATIC = {
    extension.oid: extension
    for extension in (
        _extension(_LEAF_KEY_USAGE, True),
        _extension(_LEAF_EXTENDED_KEY_USAGE, False),
        _extension(_LEAF_BASIC_CONSTRAINTS, True),
    )
}


def _expected_extensions(
    request: SigningRequest, issuer: Certificate
) -> dict[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]:
    varying = (
        _extension(x509.SubjectKeyIdentifier(key_id_of(request.spki)), False),
        _extension(authority_key_id(issuer), False),
        _alternative_names(request.spiffe_id, request.dns_names),
    )
    return {**_LEAF_STATIC, **{extension.oid: extension for extension in varying}}


@functools.lru_cache(maxsize=8192)
def _alternative_names(spiffe_id: SpiffeId, dns_names: Sequence[str]) -> x509.Extension[x509.ExtensionType]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns_names]
    return _extension(x509.SubjectAlternativeName(names), False)


@functools.lru_cache(maxsize=64)
def _signature_oid(issuer: Certificate) -> x509.ObjectIdentifier:
    key = issuer.public_key
    if isinstance(key, ec.EllipticCurvePublicKey):
        return x509.ObjectIdentifier("1.2.840.10045.4.3." + {256: "2", 384: "3", 521: "4"}[key.key_size])
    return x509.ObjectIdentifier(
        "1.2.840.113549.1.1.11" if isinstance(key, rsa.RSAPublicKey) else "1.3.101.112"
    )


def _spki_in(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo as it stands in a certificate: the sixth field after the version."""
    start, end = der.expect(certificate, 0, len(certificate), der.SEQUENCE)
    position, end = der.expect(certificate, start, end, der.SEQUENCE)
    for _ in range(6):  # version, serial, algorithm, issuer, validity, subject
        _, _, position = der.read(certificate, position, end)
    _, _, after = der.read(certificate, position, end)
    return certificate[position:after]
