"""The part of a certificate that is signed, and how it becomes a certificate.

What leaves and CAs have in common: cryptography's builder used for its encoding only, key identifiers,
serial numbers, signature algorithms. Signing itself is done elsewhere, by whoever holds the key.
"""

import functools
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from control_plane.core import der
from control_plane.core.certificate import Certificate
from control_plane.core.csr import is_p256
from control_plane.core.jwk import PublicKey, load_public_key
from control_plane.core.lifetime import Window

Hash: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_HASHES: Final[dict[int, Hash]] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
SERIAL_BYTES: Final = 17  # a leading 1, so that the 16 random bytes keep all of their 128 bits

KEY_ID_BYTES: Final = 20


def new_serial(random_bytes: Callable[[int], bytes]) -> int:
    """A positive serial number with 128 random bits (RFC 5280 section 4.1.2.2 allows 20 bytes)."""
    return int.from_bytes(b"\x01" + random_bytes(SERIAL_BYTES - 1), "big")


@functools.lru_cache(maxsize=1024)  # asked for by who writes a leaf and by who checks it
def key_id_of(spki: bytes) -> bytes:
    """The key identifier: SHA-1 of the public key's bits (RFC 5280 section 4.2.1.2, method 1).

    SHA-1 names the key here and protects nothing.
    """
    if is_p256(spki):
        return hashlib.sha1(spki[26:], usedforsecurity=False).digest()
    start, end = der.expect(spki, 0, len(spki), der.SEQUENCE)
    _, algorithm_end = der.expect(spki, start, end, der.SEQUENCE)
    bits, bits_end = der.expect(spki, algorithm_end, end, der.BIT_STRING)
    return hashlib.sha1(spki[bits + 1 : bits_end], usedforsecurity=False).digest()


def authority_key_id(issuer: Certificate) -> x509.AuthorityKeyIdentifier:
    """The extension by which a certificate points at its issuer's key."""
    key_id = issuer.subject_key_id or key_id_of(issuer.spki)
    return x509.AuthorityKeyIdentifier(key_id, None, None)


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, spki: bytes, serial: int, window: Window
) -> x509.CertificateBuilder:
    """A builder with the fields that every certificate has; extensions are added by the caller."""
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=load_public_key(spki),
        serial_number=serial,
        not_valid_before=datetime.fromtimestamp(window.not_before, UTC),
        not_valid_after=datetime.fromtimestamp(window.not_after, UTC),
    )


def assemble(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """Puts the signed part, the `signature_algorithm` of the issuer's key and the signature together."""
    bits = der.encode(der.BIT_STRING, b"\x00" + signature)
    return der.encode(der.SEQUENCE, b"".join((tbs, algorithm, bits)))


def signature_algorithm(key: PublicKey) -> bytes:
    """The AlgorithmIdentifier (DER) of signatures by this key."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return bytes.fromhex("300a06082a8648ce3d0403" + {256: "02", 384: "03", 521: "04"}[key.key_size])
    if isinstance(key, rsa.RSAPublicKey):
        return bytes.fromhex("300d06092a864886f70d01010b0500")
    return bytes.fromhex("300506032b6570")


def signature_hash(key: PublicKey) -> Hash | None:
    """The hash that signatures by this key use; None for Ed25519, which brings its own."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _HASHES[key.key_size]
    return hashes.SHA256() if isinstance(key, rsa.RSAPublicKey) else None


def tbs_of(builder: x509.CertificateBuilder, issuer_key: PublicKey) -> bytes:
    """The bytes that an issuer with this kind of key has to sign.

    The builder only gives signed certificates, and our keys may be out of its reach (a key manager), so it
    signs with a key of the same kind that nobody keeps, and only the part to be signed is taken.
    """
    return builder.sign(_throw_away(_kind(issuer_key)), signature_hash(issuer_key)).tbs_certificate_bytes


def _kind(key: PublicKey) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name
    return "rsa" if isinstance(key, rsa.RSAPublicKey) else "ed25519"


@functools.cache
def _throw_away(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {curve.name: curve for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())}
    return ec.generate_private_key(curves[kind])
