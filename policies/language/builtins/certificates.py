"""X.509 in policies: certificates, requests and keys out of text, and chains verified.

Text is PEM, base64 of PEM, or base64 of DER. A chain is verified from its first certificate (the root)
to its last (the leaf) at the moment of the evaluation: signatures, validity, CA flags, path lengths and
server use. A chain with name constraints is refused rather than half checked.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from control_plane.core.certificate import UNREADABLE
from policies.language.builtins.certificate_fields import (
    certificate_object,
    public_key,
    request_object,
    text64,
)
from policies.language.builtins.encoding import base64_bytes
from policies.language.builtins.errors import BuiltinError, HaltError
from policies.language.values import Object, Value, boolean, from_python

if TYPE_CHECKING:
    from policies.language.concrete.world import Run

MAX_CERTIFICATES = 1_000

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


def _blocks(text: str) -> list[tuple[str, bytes]]:
    """Label and DER of each PEM block; one without label when the text is base64 of DER."""
    data = (
        text.encode("utf-8", "surrogateescape") if text.lstrip().startswith("-----") else base64_bytes(text)
    )
    if not data.lstrip().startswith(b"-----BEGIN"):
        return [("", data)]
    found = []
    for label, body in _BLOCK.findall(data):
        found.append((label.decode(), base64_bytes(re.sub(rb"\s+", b"", body).decode("ascii", "replace"))))
        if len(found) > MAX_CERTIFICATES:
            raise HaltError(f"crypto.x509: more than {MAX_CERTIFICATES} PEM blocks")
    return found


def load_certificates(text: str) -> list[x509.Certificate]:
    """All certificates in a text, in order."""
    certificates = []
    for label, der in _blocks(text):
        if label not in ("", "CERTIFICATE"):
            raise BuiltinError(f"PEM-encoded certificate block has wrong type: {label}")
        certificates.extend(_certificates(der))
    return certificates


def _certificates(der: bytes) -> list[x509.Certificate]:
    """One or more certificates one behind another."""
    found = []
    while der:
        size = _der_size(der)
        try:
            found.append(x509.load_der_x509_certificate(der[:size]))
        except UNREADABLE as error:
            raise BuiltinError(f"x509: malformed certificate: {error}") from error
        der = der[size:]
    return found


def _der_size(der: bytes) -> int:
    if len(der) < 2 or der[0] != 0x30:
        raise BuiltinError("x509: malformed certificate")
    if der[1] < 0x80:
        return 2 + der[1]
    width = der[1] & 0x7F
    return 2 + width + int.from_bytes(der[2 : 2 + width], "big")


def _object(certificate: x509.Certificate, *, uri_strings: bool = True) -> Object:
    try:
        return certificate_object(certificate, uri_strings=uri_strings)
    except UNREADABLE as error:
        raise BuiltinError(f"x509: malformed certificate: {error}") from error


def parse_certificates(text: str) -> Value:
    """The certificates as objects."""
    return tuple(map(_object, load_certificates(text))) if text else None


def parse_certificate_request(text: str) -> Object:
    """A PKCS #10 request as an object."""
    blocks = _blocks(text)
    if len(blocks) != 1 or blocks[0][0] not in ("", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"):
        raise BuiltinError("invalid PEM-encoded certificate signing request")
    try:
        return request_object(x509.load_der_x509_csr(blocks[0][1]))
    except UNREADABLE as error:
        raise BuiltinError(f"asn1: the certificate request can't be read: {error}") from error


def parse_and_verify(run: Run, text: str) -> tuple[Value, ...]:
    """`[true, chain from leaf to root]`, or `[false, []]` when the chain does not hold."""
    try:
        certificates = load_certificates(text)
    except BuiltinError:
        return boolean(False), ()
    if len(certificates) < 2:
        return boolean(False), ()
    if run.now_ns is None:
        raise HaltError("this evaluation was given no present moment")
    chain = certificates[::-1]
    now = datetime.fromtimestamp(run.now_ns // 1_000_000_000, UTC)
    if not _holds(chain, now):
        return boolean(False), ()
    return boolean(True), tuple(map(_object, chain))


def _holds(chain: list[x509.Certificate], now: datetime) -> bool:
    try:
        for depth, certificate in enumerate(chain):
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                return False
            if depth and not _may_sign(certificate, depth - 1):
                return False
            if any(isinstance(one.value, x509.NameConstraints) for one in certificate.extensions):
                raise HaltError("crypto.x509: chains with name constraints are not supported")
        for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
            certificate.verify_directly_issued_by(issuer)
        return _serves(chain[0])
    except (*UNREADABLE, InvalidSignature):
        return False


def _may_sign(certificate: x509.Certificate, below: int) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and (constraints.path_length is None or constraints.path_length >= below)


def _serves(leaf: x509.Certificate) -> bool:
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


# --- private keys: a policy may look at one that it was given --------------------------------------


def _load(data: bytes) -> Any:
    # The key is only shown, never used, so its primes are not tested (0.8 s for 4,096 bits).
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    return load(data, None, unsafe_skip_rsa_key_validation=True)


def _private_key(text: str) -> Any:
    data = text.encode() if text.lstrip().startswith("-----") else base64_bytes(text)
    try:
        return _load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BuiltinError("the private key can't be read") from error


def _url64(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return text64(data).rstrip("=").replace("+", "-").replace("/", "_")


def parse_rsa_private_key(text: str) -> Object:
    """The key as a JWK."""
    key = _private_key(text)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BuiltinError("the private key is not an RSA key")
    numbers = key.private_numbers()
    parts = {
        "n": numbers.public_numbers.n,
        "e": numbers.public_numbers.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "qi": numbers.iqmp,
    }
    return Object({"kty": "RSA", **{name: _url64(number) for name, number in parts.items()}})


def _private_fields(key: object) -> dict[str, Any]:
    if not isinstance(key, rsa.RSAPrivateKey):
        raise HaltError("crypto.x509: only RSA private keys are supported here")
    numbers = key.private_numbers()
    _, public = public_key(key.public_key())
    return {
        **public,
        "D": numbers.d,
        "Primes": [numbers.p, numbers.q],
        "Precomputed": {"Dp": numbers.dmp1, "Dq": numbers.dmq1, "Qinv": numbers.iqmp, "CRTValues": []},
    }


def _belongs(key: Any, certificate: x509.Certificate) -> bool:
    try:
        return public_key(certificate.public_key()) == public_key(key.public_key())
    except UNREADABLE as error:
        raise BuiltinError(f"x509: the certificate's key can't be read: {error}") from error


def parse_keypair(certificate_text: str, key_text: str) -> Object:
    """A certificate chain and its key, when they belong together."""
    certificates = load_certificates(certificate_text)
    key = _private_key(key_text)
    if not certificates or not _belongs(key, certificates[0]):
        raise BuiltinError("tls: private key does not match public key")
    fields: dict[str, Any] = {
        "Certificate": [text64(certificate.public_bytes(Encoding.DER)) for certificate in certificates],
        "PrivateKey": _private_fields(key),
        "Leaf": _object(certificates[0], uri_strings=False),
        "OCSPStaple": None,
        "SignedCertificateTimestamps": None,
        "SupportedSignatureAlgorithms": None,
    }
    made = from_python(fields)
    assert isinstance(made, Object)  # a dict becomes an object
    return made


def parse_private_keys(text: str) -> Value:
    """The private keys in PEM blocks."""
    if not text:
        return None
    data = text.encode() if text.lstrip().startswith("-----") else base64_bytes(text)
    keys = [match[0] for match in _BLOCK.finditer(data)]
    return from_python([_private_fields(_private_key(block.decode("utf-8", "replace"))) for block in keys])


CONTEXTUAL = frozenset({"crypto.x509.parse_and_verify_certificates"})
FUNCTIONS = {
    "crypto.x509.parse_certificates": parse_certificates,
    "crypto.x509.parse_certificate_request": parse_certificate_request,
    "crypto.x509.parse_and_verify_certificates": parse_and_verify,
    "crypto.x509.parse_keypair": parse_keypair,
    "crypto.x509.parse_rsa_private_key": parse_rsa_private_key,
    "crypto.parse_private_keys": parse_private_keys,
}
