"""Certificate signing requests (PKCS #10, RFC 2986): proof that the asker holds the key.

Only the public key is believed. Names in a request are a wish: the registry decides names, so they are read
only where the caller is trusted to name them (`require_uri`). Accepted keys are P-256, P-384, RSA of 2,048
to 8,192 bits and Ed25519; accepted hashes SHA-256 and better.

P-256 with SHA-256, nearly all requests, takes a short way: structure by cryptography's strict parser, the
slices by our own walk, one verification. Everything else is verified by cryptography alone.
"""

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import SignatureAlgorithmOID

from control_plane.core import der
from control_plane.core.certificate import UNREADABLE
from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import InvalidInput
from control_plane.core.jwk import PublicKey, load_public_key, spki_of
from control_plane.core.spiffe_id import SpiffeId

MAX_CSR_BYTES: Final = 16 << 10
P256_SPKI_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
P256_SPKI_BYTES: Final = len(P256_SPKI_PREFIX) + 65
ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")

_VERSION_1 = bytes.fromhex("020100")
_SMALL_PRIMES = math.prod(p for p in range(3, 752, 2) if all(p % q for q in range(3, int(p**0.5) + 1, 2)))
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ES256_DIGEST = ec.ECDSA(Prehashed(hashes.SHA256()))  # hashlib's digest costs 1 µs less than the library's


@dataclass(frozen=True, slots=True)
class Csr:
    """A request whose signature was right. `spki` is the public key, DER, in canonical form."""

    spki: bytes
    uri: SpiffeId | None = None
    dns_names: tuple[str, ...] = ()

    @property
    def is_p256(self) -> bool:
        """Whether the key is on P-256: such requests can be issued from the template."""
        return is_p256(self.spki)


def is_p256(spki: bytes) -> bool:
    """Whether a canonical SubjectPublicKeyInfo holds an uncompressed point of P-256."""
    return len(spki) == P256_SPKI_BYTES and spki.startswith(P256_SPKI_PREFIX)


def check_csr(data: bytes, *, require_uri: bool = False) -> Csr:
    """Reads a DER request, checks its key and its self-signature.

    With `require_uri` the request must hold exactly one URI name, a SPIFFE ID with a path, and its DNS names
    are read too; without, names are left alone. Raises InvalidInput with what is wrong.
    """
    request = _read(data)
    spki = _check_p256(data) or _check_other(request)
    if not require_uri:
        return Csr(spki)
    return _with_names(request, spki)


def proven_key(data: bytes) -> bytes:
    """What `check_csr` says of the key alone: its SPKI, DER. Raises InvalidInput with what is wrong."""
    request = _read(data)
    return _check_p256(data) or _check_other(request)


def check_key(key: PublicKey) -> None:
    """Whether a leaf may have this key. Raises InvalidInput with what is accepted."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size > 384:
        raise InvalidInput(f"CSR: key on {key.curve.name}, expected P-256 or P-384, RSA or Ed25519")
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if numbers.e < 65537 or numbers.n % 2 == 0 or math.gcd(numbers.n, _SMALL_PRIMES) != 1:
            raise InvalidInput(
                f"CSR: RSA key of {key.key_size} bits is weak: exponent below 65,537 or small factor"
            )


def _read(data: bytes) -> x509.CertificateSigningRequest:
    if not data or len(data) > MAX_CSR_BYTES:
        raise InvalidInput(f"CSR of {len(data)} bytes: expected 1 to {MAX_CSR_BYTES} bytes of DER")
    try:
        return x509.load_der_x509_csr(data)
    except UNREADABLE as error:
        raise InvalidInput(f"CSR of {len(data)} bytes: not readable as DER PKCS #10") from error


def _check_p256(data: bytes) -> bytes | None:
    """The short way: gives the key, or None if the request isn't P-256 with SHA-256."""
    start, end = der.expect(data, 0, len(data), der.SEQUENCE)
    if end != len(data):
        raise InvalidInput(f"CSR of {len(data)} bytes: {len(data) - end} bytes follow its end")
    body, body_end = der.expect(data, start, end, der.SEQUENCE)
    if not data.startswith(_VERSION_1, body):
        raise InvalidInput("CSR: expected version 1 (PKCS #10)")
    _, subject_end = der.expect(data, body + len(_VERSION_1), body_end, der.SEQUENCE)
    if not (data.startswith(P256_SPKI_PREFIX, subject_end) and data.startswith(ECDSA_SHA256, body_end)):
        return None
    spki = data[subject_end : subject_end + P256_SPKI_BYTES]
    signature, signature_end = der.expect(data, body_end + len(ECDSA_SHA256), end, der.BIT_STRING)
    if signature_end != end or signature == end or data[signature] != 0:
        raise InvalidInput("CSR: the signature isn't a bit string of whole bytes at its end")
    try:
        key: ec.EllipticCurvePublicKey = load_der_public_key(spki)  # type: ignore[assignment]  # so it begins
        key.verify(data[signature + 1 : end], sha256(data[start:body_end]).digest(), _ES256_DIGEST)
    except ValueError as error:
        raise InvalidInput("CSR: its P-256 key isn't a point on the curve") from error
    except InvalidSignature as error:
        raise InvalidInput(_WRONG_SIGNATURE, hint=_WRONG_SIGNATURE_HINT) from error
    return spki


def _check_other(request: x509.CertificateSigningRequest) -> bytes:
    try:
        key = load_public_key(spki_of(request.public_key()))  # type: ignore[arg-type]  # judged by the loader
        check_key(key)
        ed25519 = request.signature_algorithm_oid == SignatureAlgorithmOID.ED25519
        if not ed25519 and not isinstance(request.signature_hash_algorithm, _HASHES):
            raise InvalidInput("CSR: signed with a weak hash, expected SHA-256 or better")
        if not request.is_signature_valid:
            raise InvalidInput(_WRONG_SIGNATURE, hint=_WRONG_SIGNATURE_HINT)
    except UNREADABLE as error:
        raise InvalidInput("CSR: its key or signature is of a kind that isn't accepted") from error
    return spki_of(key)


def _with_names(request: x509.CertificateSigningRequest, spki: bytes) -> Csr:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        dns_names = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        uris, dns_names = [], []
    except UNREADABLE as error:
        raise InvalidInput("CSR: its extensions can't be read") from error
    if len(uris) != 1:
        raise InvalidInput(f"CSR: {len(uris)} URI names, expected exactly one, the SPIFFE ID")
    spiffe_id = SpiffeId.parse(uris[0])
    if not spiffe_id.has_path:
        raise InvalidInput(f"CSR: SPIFFE ID {spiffe_id} has no path")
    return Csr(spki, spiffe_id, tuple(check_dns_name(name) for name in dns_names))


_WRONG_SIGNATURE = "CSR: its signature doesn't fit its public key"
_WRONG_SIGNATURE_HINT = "the request must be signed by the key that it asks a certificate for"
