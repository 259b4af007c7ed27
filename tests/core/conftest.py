"""A small PKI that makes good certificates, and any kind of bad one, with a builder that isn't ours."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.spiffe_id import TrustDomain

NOW = 1_800_000_000


def at(unix_seconds: int) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)


def key_usage(*names: str) -> x509.KeyUsage:
    every = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{name: name in names for name in every})


@dataclass
class Party:
    """A certificate and the key that belongs to it."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Pki:
    """Everything has a default that is right; tests change the one thing that they are about."""

    now: int = NOW
    count: int = 0
    extras: dict[str, Any] = field(default_factory=dict)

    def make(
        self,
        issuer: Party | None,
        *,
        name: str | None = None,
        uris: Iterable[str] = (),
        dns: Iterable[str] = (),
        other_names: Iterable[x509.GeneralName] = (),
        ca: bool | None = False,
        path_length: int | None = None,
        usage: x509.KeyUsage | None = None,
        usages: Iterable[x509.ObjectIdentifier] | None = None,
        not_before: int | None = None,
        not_after: int | None = None,
        constraints: x509.NameConstraints | None = None,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
        key: Any = None,
        hash_algorithm: Any = None,
        key_ids: bool = True,
        issuer_name: x509.Name | None = None,
        serial: int | None = None,
    ) -> Party:
        self.count += 1
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [] if name == "" else [x509.NameAttribute(NameOID.COMMON_NAME, name or f"party {self.count}")]
        )
        signing_key = key if issuer is None else issuer.key
        issued_by = issuer_name or (subject if issuer is None else issuer.certificate.subject)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issued_by)
            .public_key(key.public_key())
            .serial_number(serial or int.from_bytes(b"\x01" + os.urandom(15), "big"))
            .not_valid_before(at(self.now - 3600 if not_before is None else not_before))
            .not_valid_after(at(self.now + 86400 if not_after is None else not_after))
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), True)
        if usage is not None:
            builder = builder.add_extension(usage, True)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), False)
        names = [
            *(x509.UniformResourceIdentifier(uri) for uri in uris),
            *(x509.DNSName(one) for one in dns),
            *other_names,
        ]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), name == "")
        if constraints is not None:
            builder = builder.add_extension(constraints, True)
        if key_ids:
            builder = builder.add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
            )
            if issuer is not None:
                public = issuer.key.public_key()
                builder = builder.add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False
                )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        algorithm = (
            None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hash_algorithm or hashes.SHA256()
        )
        return Party(key, builder.sign(signing_key, algorithm))

    def ca(self, issuer: Party | None = None, **changes: Any) -> Party:
        defaults: dict[str, Any] = {"ca": True, "usage": key_usage("key_cert_sign", "crl_sign")}
        return self.make(issuer, **{**defaults, **changes})

    def leaf(self, issuer: Party, uri: str = "spiffe://example.org/workload", **changes: Any) -> Party:
        defaults: dict[str, Any] = {
            "uris": [uri],
            "usage": key_usage("digital_signature"),
            "usages": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        }
        return self.make(issuer, **{**defaults, **changes})

    def bundle(self, *authorities: Party, trust_domain: str = "example.org", tainted: bool = False) -> Bundle:
        return Bundle(
            TrustDomain(trust_domain), tuple(X509Authority(party.der, tainted) for party in authorities)
        )

    @staticmethod
    def usage(*names: str) -> x509.KeyUsage:
        return key_usage(*names)


@pytest.fixture
def pki() -> Pki:
    return Pki()
