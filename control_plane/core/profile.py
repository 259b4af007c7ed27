"""What our leaves look like, and building them by cryptography's builder.

That is the general way, for all key types; `template` is the short way for P-256 and gives the same bytes
(X509-SVID.md sections 2 to 4, RFC 5280 section 4). `leaf_check` holds finished ones against the profile.

Signing isn't done here: a `sign` argument is a function from the bytes to be signed to the signature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.core.certificate import Certificate
from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import InvalidInput, shown
from control_plane.core.lifetime import Window
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.tbs import (
    assemble,
    authority_key_id,
    certificate_builder,
    key_id_of,
    signature_algorithm,
    tbs_of,
)

LEAF_SUBJECT: Final = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Gatehouse")])
LEAF_KEY_USAGE: Final = x509.KeyUsage(
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
LEAF_EXTENDED_KEY_USAGE: Final = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)
LEAF_BASIC_CONSTRAINTS: Final = x509.BasicConstraints(ca=False, path_length=None)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """All that decides a leaf, but the issuer: key (canonical SPKI, DER), ID, names, serial, validity.

    `common_name` is for leaves of our own that are shown to somebody who wants one; nobody may take it for an
    identity, so workloads have none.
    """

    spiffe_id: SpiffeId
    spki: bytes
    serial: int
    window: Window
    dns_names: tuple[str, ...] = ()
    common_name: str = ""


def leaf_subject(request: SigningRequest) -> x509.Name:
    """The subject of a leaf. Raises InvalidInput for a common name that can't be one (1 to 64 characters)."""
    if not request.common_name:
        return LEAF_SUBJECT
    try:
        name = x509.NameAttribute(NameOID.COMMON_NAME, request.common_name)
    except ValueError as error:
        raise InvalidInput(
            f"X.509-SVID {request.spiffe_id}: common name {shown(request.common_name)}, expected 1 to 64 "
            "characters"
        ) from error
    return x509.Name([*LEAF_SUBJECT, name])


def build_leaf(request: SigningRequest, issuer: Certificate, sign: Callable[[bytes], bytes]) -> bytes:
    """One leaf, DER, by the general way. Raises InvalidInput if the request can't be certified."""
    tbs = leaf_tbs(request, issuer)
    return assemble(tbs, signature_algorithm(issuer.public_key), sign(tbs))


def leaf_tbs(request: SigningRequest, issuer: Certificate) -> bytes:
    """The bytes of a leaf that are to be signed."""
    if not request.spiffe_id.has_path:
        raise InvalidInput(f"X.509-SVID {request.spiffe_id}: has no path")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(request.spiffe_id))]
    names += [x509.DNSName(check_dns_name(name)) for name in request.dns_names]
    builder = (
        certificate_builder(
            leaf_subject(request), issuer.parsed.subject, request.spki, request.serial, request.window
        )
        .add_extension(LEAF_KEY_USAGE, critical=True)
        .add_extension(LEAF_EXTENDED_KEY_USAGE, critical=False)
        .add_extension(LEAF_BASIC_CONSTRAINTS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id_of(request.spki)), critical=False)
        .add_extension(authority_key_id(issuer), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return tbs_of(builder, issuer.public_key)
