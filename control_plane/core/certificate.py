"""One X.509 certificate read strictly: the facts that path validation and the profile check ask for.

Whatever can't be read exactly is refused with InvalidInput: not DER, trailing bytes, not version 3, an
extension twice or malformed, a key or signature outside the accepted kinds. Nothing is verified here;
`x509_path` does that.
"""

import enum
import functools
import ipaddress
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from control_plane.core.der import BIT_STRING, encode
from control_plane.core.errors import InvalidInput
from control_plane.core.jwk import PublicKey, load_public_key, spki_of

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)

MAX_CERTIFICATE_BYTES: Final = 32 << 10

# What we process. Any other extension that is marked critical makes a certificate unusable
# (RFC 5280 section 4.2); certificate policies are among those others: we don't evaluate them.
PROCESSED_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
    }
)

# What cryptography raises for bytes that it can't read, at whichever access finds out.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class Purpose(enum.StrEnum):
    """What a leaf is presented for; the value is the extended key usage that it must then allow."""

    SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH.dotted_string
    CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """The three bits that matter to SVIDs, and whether the extension was critical."""

    digital_signature: bool
    key_cert_sign: bool
    crl_sign: bool
    critical: bool


@dataclass(frozen=True, slots=True)
class Names:
    """The alternative names by form; `others` names the forms present that we don't read."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...] = ()
    others: frozenset[str] = frozenset()
    critical: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """The facts of one certificate. Times are in Unix seconds; a path length of None means no limit."""

    der: bytes
    parsed: x509.Certificate
    subject: bytes
    issuer: bytes
    spki: bytes
    public_key: PublicKey
    serial: int
    not_before: int
    not_after: int
    has_basic_constraints: bool
    is_ca: bool
    path_length: int | None
    key_usage: KeyUsage | None
    extended_key_usages: frozenset[str] | None
    names: Names
    name_constraints: x509.NameConstraints | None
    subject_key_id: bytes | None
    authority_key_id: bytes | None
    unprocessed_critical: frozenset[str]

    def __repr__(self) -> str:
        return f"Certificate({self.title})"

    @property
    def title(self) -> str:
        """How messages name this certificate: short, ASCII, telling."""
        name = self.names.uris[0] if len(self.names.uris) == 1 else self.parsed.subject.rfc4514_string()
        return f"{ascii(name[:100])[1:-1]} serial {self.serial:x}"

    def allows(self, purpose: Purpose) -> bool:
        """Whether the extended key usages admit the purpose; a certificate without any admits all."""
        if self.extended_key_usages is None:
            return True
        return bool(
            {purpose.value, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE.dotted_string}
            & self.extended_key_usages
        )


def read_certificate(der: bytes) -> Certificate:
    """Reads one DER certificate, and no byte more. Raises InvalidInput with what is wrong."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise InvalidInput(f"certificate of {len(der)} bytes: {MAX_CERTIFICATE_BYTES} allowed")
    try:
        return _read(der)
    except UNREADABLE as error:
        # cryptography parses lazily, so any access may be the one that finds a fault.
        raise InvalidInput(f"certificate of {len(der)} bytes: not readable as DER X.509") from error


def _read(der: bytes) -> Certificate:
    parsed = x509.load_der_x509_certificate(der)
    extensions = parsed.extensions
    serial = parsed.serial_number
    if serial <= 0:
        raise InvalidInput("certificate: its serial number isn't positive (RFC 5280 section 4.1.2.2)")
    if not der.endswith(encode(BIT_STRING, b"\x00" + parsed.signature)):
        # The library ignores the count of unused bits, which would give one certificate two encodings.
        raise InvalidInput(f"certificate serial {serial:x}: its signature isn't in canonical form")
    if parsed.version is not x509.Version.v3:
        raise InvalidInput(f"certificate serial {serial:x}: version 1, expected version 3")
    if not (
        isinstance(parsed.signature_hash_algorithm, _STRONG_HASHES)
        or parsed.signature_algorithm_oid == SignatureAlgorithmOID.ED25519
    ):
        raise InvalidInput(
            f"certificate serial {serial:x}: signed by {parsed.signature_algorithm_oid.dotted_string}, "
            "expected SHA-256 or better, or Ed25519"
        )
    spki = spki_of(parsed.public_key())  # type: ignore[arg-type]  # the loader judges the type
    basic = _value(extensions, x509.BasicConstraints)
    usages = _value(extensions, x509.ExtendedKeyUsage)
    key_id = _value(extensions, x509.SubjectKeyIdentifier)
    issuer_key_id = _value(extensions, x509.AuthorityKeyIdentifier)
    return Certificate(
        der=der,
        parsed=parsed,
        subject=parsed.subject.public_bytes(),
        issuer=parsed.issuer.public_bytes(),
        spki=spki,
        public_key=load_public_key(spki),
        serial=serial,
        not_before=int(parsed.not_valid_before_utc.timestamp()),
        not_after=int(parsed.not_valid_after_utc.timestamp()),
        has_basic_constraints=basic is not None,
        is_ca=basic is not None and basic.ca,
        path_length=basic.path_length if basic is not None else None,
        key_usage=_key_usage(extensions),
        extended_key_usages=None if usages is None else frozenset(oid.dotted_string for oid in usages),
        names=_names(extensions),
        name_constraints=_value(extensions, x509.NameConstraints),
        subject_key_id=None if key_id is None else key_id.digest,
        authority_key_id=None if issuer_key_id is None else issuer_key_id.key_identifier,
        unprocessed_critical=frozenset(
            extension.oid.dotted_string
            for extension in extensions
            if extension.critical and extension.oid not in PROCESSED_EXTENSIONS
        ),
    )


# Only certificates of our own bundles go through this one: strangers must not be able to fill a cache.
read_authority = functools.lru_cache(maxsize=256)(read_certificate)


def _value(extensions: x509.Extensions, kind: type[ExtensionT]) -> ExtensionT | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _key_usage(extensions: x509.Extensions) -> KeyUsage | None:
    try:
        extension = extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return None
    usage = extension.value
    return KeyUsage(usage.digital_signature, usage.key_cert_sign, usage.crl_sign, extension.critical)


def _names(extensions: x509.Extensions) -> Names:
    try:
        extension = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return Names()
    uris, dns, addresses, others = [], [], [], set()
    for name in extension.value:
        if isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
        elif isinstance(name, x509.DNSName):
            dns.append(name.value)
        elif isinstance(name, x509.IPAddress) and isinstance(
            name.value, ipaddress.IPv4Address | ipaddress.IPv6Address
        ):
            addresses.append(name.value)
        else:
            others.add(type(name).__name__)
    return Names(tuple(uris), tuple(dns), tuple(addresses), frozenset(others), extension.critical)
