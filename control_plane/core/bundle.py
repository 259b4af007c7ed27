"""Trust bundles: the keys by which SVIDs of one trust domain are judged.

Values only; the JSON form of the SPIFFE bundle format is in `bundle_json`, reached through
`Bundle.to_json` and `Bundle.parse_json`. A bundle belongs to one trust domain and is never merged with
another's. Fetching, storing and ordering bundles is not done here.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509

from control_plane.core.certificate import UNREADABLE
from control_plane.core.errors import InvalidInput, NotFound, shown
from control_plane.core.spiffe_id import TrustDomain

DEFAULT_REFRESH_HINT_SECONDS: Final = 300  # SPIFFE_Trust_Domain_and_Bundle.md: about five minutes
MAX_SEQUENCE: Final = 2**64 - 1
MAX_AUTHORITIES: Final = 1000
MAX_PEM_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class X509Authority:
    """One CA certificate (DER). A tainted one still verifies; what it signed should be replaced."""

    certificate: bytes = field(repr=False)
    tainted: bool = False

    @classmethod
    def parse(cls, certificate: bytes, *, tainted: bool = False) -> "X509Authority":
        """Takes one DER certificate, no more bytes. Raises InvalidInput if it can't be read."""
        subject_key_id(certificate)
        return cls(certificate, tainted)

    @property
    def subject_key_id(self) -> str:
        """The subject key identifier in hex: the name of the authority."""
        return subject_key_id(self.certificate)


@dataclass(frozen=True, slots=True)
class JwtAuthority:
    """One key that signs JWT-SVIDs: SubjectPublicKeyInfo (DER), and its end (Unix seconds, 0 = unknown)."""

    key_id: str
    public_key: bytes
    expires_at: int = 0
    tainted: bool = False


@dataclass(frozen=True, slots=True)
class Bundle:
    """All authorities of one trust domain. `sequence` grows with each change; a hint of 0 means none."""

    trust_domain: TrustDomain
    x509_authorities: tuple[X509Authority, ...] = ()
    jwt_authorities: tuple[JwtAuthority, ...] = ()
    sequence: int = 0
    refresh_hint_seconds: int = 0

    @classmethod
    def parse_json(cls, trust_domain: TrustDomain, text: str | bytes) -> "Bundle":
        """Reads a SPIFFE bundle (JWK Set). Raises InvalidInput; see `bundle_json` for the rules."""
        from control_plane.core import bundle_json  # the format imports these values

        return bundle_json.parse(trust_domain, text)

    @classmethod
    def parse_pem(cls, trust_domain: TrustDomain, pem: str | bytes) -> "Bundle":
        """Reads X.509 authorities from PEM text. Raises InvalidInput if it holds none or a broken one."""
        data = pem.encode("utf-8", "replace") if isinstance(pem, str) else pem
        if len(data) > MAX_PEM_BYTES:
            raise InvalidInput(f"PEM bundle of {trust_domain}: {len(data)} bytes, {MAX_PEM_BYTES} allowed")
        try:
            certificates = x509.load_pem_x509_certificates(data)
        except UNREADABLE as error:
            raise InvalidInput(f"PEM bundle of {trust_domain}: holds no readable certificate") from error
        return cls(trust_domain, _distinct(X509Authority(_der(certificate)) for certificate in certificates))

    def to_json(self) -> str:
        """The SPIFFE bundle format, which has no place for taint and key expiry."""
        from control_plane.core import bundle_json  # the format imports these values

        return bundle_json.dump(self)

    def jwks(self) -> bytes:
        """A plain JWK Set of the JWT keys for the Workload API: no `use`, no SPIFFE members (W-16)."""
        from control_plane.core import bundle_json  # the format imports these values

        return bundle_json.jwks(self)

    def x509_der(self) -> bytes:
        """All CA certificates, DER, one after another: the Workload API's form."""
        return b"".join(authority.certificate for authority in self.x509_authorities)

    def to_pem(self) -> str:
        """All CA certificates as PEM text."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return "".join(
            x509.load_der_x509_certificate(authority.certificate).public_bytes(Encoding.PEM).decode("ascii")
            for authority in self.x509_authorities
        )

    def jwt_authority(self, key_id: str) -> JwtAuthority:
        """The JWT key with this ID. Raises NotFound."""
        for authority in self.jwt_authorities:
            if authority.key_id == key_id:
                return authority
        raise NotFound(f"bundle of {self.trust_domain}: has no JWT key {shown(key_id)}")

    def same_content(self, other: "Bundle") -> bool:
        """True if only the sequence numbers differ: nothing that a reader would have to learn."""
        return replace(self, sequence=0) == replace(other, sequence=0)


@functools.lru_cache(maxsize=1024)
def subject_key_id(certificate: bytes) -> str:
    """The subject key identifier of a DER certificate in hex; SHA-1 of its key where it has none (RFC 5280
    section 4.2.1.2, method 1). Raises InvalidInput if the certificate can't be read."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        try:
            extension = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
            return extension.value.digest.hex()
        except x509.ExtensionNotFound:
            key_identifier = x509.SubjectKeyIdentifier.from_public_key(parsed.public_key())
            return key_identifier.digest.hex()
    except Exception as error:  # a parser of hostile bytes raises many kinds; all mean the same to us
        digest = hashlib.sha256(certificate).hexdigest()
        raise InvalidInput(
            f"X.509 authority of {len(certificate)} bytes (SHA-256 {digest}): not a readable DER certificate"
        ) from error


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _distinct(authorities: Iterable[X509Authority]) -> tuple[X509Authority, ...]:
    return tuple(dict.fromkeys(authorities))
