"""Certificates for TLS in tests: a CA of their own, leaves for servers and for SVIDs, and their files."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.core.secret import Secret
from control_plane.runtime.tls import TlsIdentity


@dataclass
class CertificateAuthority:
    """A CA for a test: it makes server certificates and SVIDs."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path, name: str) -> CertificateAuthority:
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(name, key.public_key(), name, key, x509.BasicConstraints(True, None))
        (folder / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
        return cls(folder, key, made)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, *names: x509.GeneralName, common_name: str = "leaf") -> TlsIdentity:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.rfc4514_string().removeprefix("CN=")
        usage = x509.BasicConstraints(False, None)
        made = _certificate(common_name, key.public_key(), issuer, self.key, usage, names)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return TlsIdentity((made.public_bytes(Encoding.DER),), Secret(private))

    def write(self, name: str, identity: TlsIdentity) -> tuple[Path, Path]:
        leaf = x509.load_der_x509_certificate(identity.chain[0])
        (self.folder / f"{name}.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
        (self.folder / f"{name}.key").write_bytes(identity.key.reveal())
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"


def _certificate(
    subject: str, public: Any, issuer: str, key: Any, basic: x509.BasicConstraints, names: Any = ()
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)] if text else [])

    now = datetime.datetime.now(datetime.UTC)
    signing = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    ) | dict.fromkeys(("encipher_only", "decipher_only"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(basic, True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=basic.ca, crl_sign=basic.ca, **signing),
            True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    )
    if names:
        both = [x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), False)
    return builder.sign(key, hashes.SHA256())
