"""Certificates and requests that can be taken apart and still not be read: errors, no crashes."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.registry import BUILTINS

P256 = bytes.fromhex("2a8648ce3d030107")
VERSION_3, VERSION_9 = bytes.fromhex("a003020102"), bytes.fromhex("a003020108")
REQUEST_VERSION_1, REQUEST_VERSION_9 = bytes.fromhex("0201003000"), bytes.fromhex("0201083000")
KEY = ec.generate_private_key(ec.SECP256R1())
KEY_TEXT = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def certificate() -> bytes:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 7, start, start + timedelta(days=1))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def request() -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"


def call(name: str, *operands: str) -> object:
    function = BUILTINS[name].function
    assert function is not None
    return function(*operands)


def changed(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der
    return der.replace(old, new)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda der: call("crypto.x509.parse_certificates", pem("CERTIFICATE", der)),
        lambda der: call("crypto.x509.parse_keypair", pem("CERTIFICATE", der), KEY_TEXT),
        lambda der: call("io.jwt.verify_es256", "eyJhbGciOiJFUzI1NiJ9.e30.c2ln", pem("CERTIFICATE", der)),
    ],
    ids=["parse_certificates", "parse_keypair", "verify_es256"],
)
def test_a_version_or_a_curve_that_does_not_exist_is_an_error(attempt: Callable[[bytes], object]) -> None:
    with pytest.raises(BuiltinError):
        attempt(changed(certificate(), VERSION_3, VERSION_9))
    with pytest.raises(BuiltinError):
        attempt(changed(certificate(), P256, P256[:-1] + b"\x63"))


def test_a_request_of_another_version_is_an_error() -> None:
    text = pem("CERTIFICATE REQUEST", changed(request(), REQUEST_VERSION_1, REQUEST_VERSION_9))
    with pytest.raises(BuiltinError):
        call("crypto.x509.parse_certificate_request", text)


def test_private_keys_with_bytes_that_are_no_text_are_an_error() -> None:
    block = b"-----BEGIN PRIVATE KEY-----\n\xff\n-----END PRIVATE KEY-----"
    with pytest.raises(BuiltinError):
        call("crypto.parse_private_keys", base64.b64encode(block).decode())
