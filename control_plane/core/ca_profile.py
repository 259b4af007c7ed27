"""What our CA certificates look like: a self-signed root in the bundle, an issuing CA below it.

The root names its trust domain and allows one CA below; the issuing CA allows none, and may be bound to the
URIs of its trust domain, so that a key that is stolen can't speak for another (X509-SVID.md sections 3 and
4). Some verifiers built on rustls refuse any URI constraint; for those the binding can be left out.

A `sign` argument is a function from the bytes to be signed to the signature.
"""

from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from control_plane.core.certificate import Certificate
from control_plane.core.jwk import load_public_key
from control_plane.core.lifetime import Window
from control_plane.core.spiffe_id import TrustDomain
from control_plane.core.tbs import (
    assemble,
    authority_key_id,
    certificate_builder,
    key_id_of,
    signature_algorithm,
    tbs_of,
)

ROOT_PATH_LENGTH: Final = 1
CA_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def build_root(
    trust_domain: TrustDomain, spki: bytes, serial: int, window: Window, sign: Callable[[bytes], bytes]
) -> bytes:
    """A self-signed root for the bundle: path length 1, and itself an SVID without a path (X-05, X-06)."""
    name = _ca_name("Root", serial)
    builder = _ca_builder(trust_domain, name, name, spki, serial, window, ROOT_PATH_LENGTH)
    tbs = tbs_of(builder, load_public_key(spki))
    return assemble(tbs, signature_algorithm(load_public_key(spki)), sign(tbs))


def build_intermediate(
    trust_domain: TrustDomain,
    spki: bytes,
    serial: int,
    window: Window,
    root: Certificate,
    sign: Callable[[bytes], bytes],
    *,
    constrain_uris: bool = True,
) -> bytes:
    """The issuing CA below a root: path length 0, and bound to URIs of the trust domain.

    The constraint is left out for trust domains that aren't host names, which verifiers refuse as
    constraints (`can_be_constrained`).
    """
    builder = _ca_builder(
        trust_domain, _ca_name("Issuing", serial), root.parsed.subject, spki, serial, window, 0
    ).add_extension(authority_key_id(root), critical=False)
    if constrain_uris and can_be_constrained(trust_domain):
        permitted = [x509.UniformResourceIdentifier(trust_domain.name)]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    tbs = tbs_of(builder, root.public_key)
    return assemble(tbs, signature_algorithm(root.public_key), sign(tbs))


def can_be_constrained(trust_domain: TrustDomain) -> bool:
    """Whether URI name constraints can hold this trust domain: whole labels, and no IPv4 look-alike."""
    labels = trust_domain.name.split(".")
    return all(labels) and not labels[-1].isdigit()


def _ca_name(role: str, serial: int) -> x509.Name:
    """Distinct for each CA: a CA named like its leaf looks self-signed to OpenSSL (error 18)."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Gatehouse"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{role} CA"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),
        ]
    )


def _ca_builder(
    trust_domain: TrustDomain,
    subject: x509.Name,
    issuer: x509.Name,
    spki: bytes,
    serial: int,
    window: Window,
    path_length: int,
) -> x509.CertificateBuilder:
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(trust_domain.id))])
    return (
        certificate_builder(subject, issuer, spki, serial, window)
        .add_extension(CA_KEY_USAGE, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id_of(spki)), critical=False)
        .add_extension(san, critical=False)
    )
