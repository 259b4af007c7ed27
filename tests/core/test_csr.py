"""Signing requests: whose key is believed, and what is refused."""

import os
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.core.csr import MAX_CSR_BYTES, check_csr, check_key
from control_plane.core.errors import InvalidInput

P256 = ec.generate_private_key(ec.SECP256R1())
RSA_2048 = rsa.generate_private_key(public_exponent=65537, key_size=2048)
URI = "spiffe://example.org/ns/shop/sa/cart"


def csr(key: Any = P256, *, names: list[x509.GeneralName] | None = None, algorithm: Any = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "US")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    chosen = None if isinstance(key, ed25519.Ed25519PrivateKey) else algorithm or hashes.SHA256()
    return builder.sign(key, chosen).public_bytes(Encoding.DER)


def uris(*texts: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(text) for text in texts]


def spki(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def refusal_of(data: bytes, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        check_csr(data, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        P256,
        ec.generate_private_key(ec.SECP384R1()),
        RSA_2048,
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_good_keys_and_hashes(key: Any, algorithm: Any) -> None:
    assert check_csr(csr(key, algorithm=algorithm)).spki == spki(key)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(public_exponent=65537, key_size=1024),
        rsa.generate_private_key(public_exponent=3, key_size=2048),
    ],
    ids=["P-224", "P-521", "secp256k1", "RSA-1024", "RSA exponent 3"],
)
def test_weak_and_foreign_keys(key: Any) -> None:
    assert "expected" in refusal_of(csr(key)) or "weak" in refusal_of(csr(key))


def test_an_rsa_key_with_a_small_factor() -> None:
    modulus = 3 * ((1 << 2061) - 1)  # only small factors are looked for
    with pytest.raises(InvalidInput, match="weak"):
        check_key(rsa.RSAPublicNumbers(65537, modulus).public_key())


def test_a_weak_hash() -> None:
    assert "weak hash" in refusal_of(csr(RSA_2048, algorithm=hashes.SHA224()))
    assert "weak hash" in refusal_of(csr(algorithm=hashes.SHA224()))


@pytest.mark.parametrize("key", [P256, RSA_2048, ec.generate_private_key(ec.SECP384R1())])
def test_a_wrong_signature(key: Any) -> None:
    good = csr(key)
    assert "doesn't fit its public key" in refusal_of(good[:-20] + bytes(byte ^ 1 for byte in good[-20:]))


def test_a_request_for_another_key_than_the_one_that_signed() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    forged = csr().replace(spki(P256), spki(stranger))
    assert "doesn't fit its public key" in refusal_of(forged)


def test_a_point_off_the_curve() -> None:
    good = spki(P256)
    assert "point on the curve" in refusal_of(csr().replace(good, good[:-1] + bytes((good[-1] ^ 1,))))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\x00",
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"\x30\x83" + len(data[4:]).to_bytes(3, "big") + data[4:],
        lambda data: b"\x30\x80" + data[4:] + b"\x00\x00",
        lambda data: data.replace(b"\x02\x01\x00", b"\x02\x01\x01", 1),
        lambda data: b"-----BEGIN CERTIFICATE REQUEST-----\n" + data,
        lambda data: b"\x30" * MAX_CSR_BYTES + b"\x30",
    ],
    ids=["trailing", "truncated", "empty", "long length", "indefinite", "version", "PEM", "huge"],
)
def test_forms_that_are_not_der(spoil: Any) -> None:
    assert "CSR" in refusal_of(spoil(csr(RSA_2048)))
    data = csr(names=uris(URI * 3))
    assert data[:2] == b"\x30\x82"
    assert "CSR" in refusal_of(spoil(data))


def test_unused_bits_in_the_signature() -> None:
    data = csr()
    for index in range(len(data) - 75, len(data) - 60):
        if data[index] == 0 and data[index + 1] == 0x30:
            assert "CSR" in refusal_of(data[:index] + b"\x01" + data[index + 1 :])
            return
    pytest.fail("the signature's first byte wasn't found")


def test_names_are_left_alone_unless_asked_for() -> None:
    request = check_csr(csr(names=uris("spiffe://a/b", "spiffe://c/d")))
    assert (request.uri, request.dns_names) == (None, ())


def test_names_are_read_where_the_caller_is_trusted() -> None:
    request = check_csr(csr(names=[*uris(URI), x509.DNSName("a.example.org")]), require_uri=True)
    assert (str(request.uri), request.dns_names) == (URI, ("a.example.org",))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (None, "0 URI names"),
        (uris(URI, "spiffe://example.org/b"), "2 URI names"),
        (uris("spiffe://example.org"), "has no path"),
        (uris("https://example.org/a"), "SPIFFE ID"),
        (uris("spiffe://example.org/../a"), "SPIFFE ID"),
        ([*uris(URI), x509.DNSName("not a name")], "DNS name"),
    ],
)
def test_bad_names_are_refused_where_they_count(names: Any, why: str) -> None:
    assert why in refusal_of(csr(names=names), require_uri=True)


@settings(max_examples=150)
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_never_yields_another_key(position: int, change: int) -> None:
    data = csr(names=uris(URI))
    index = position % len(data)
    try:
        request = check_csr(data[:index] + bytes((data[index] ^ change,)) + data[index + 1 :])
    except InvalidInput:
        return
    assert request.spki == spki(P256)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_calmly(data: bytes) -> None:
    assert "CSR" in refusal_of(data)
    assert "CSR" in refusal_of(b"\x30\x82" + len(data).to_bytes(2, "big") + data)


def test_random_bytes_of_any_size() -> None:
    for size in (1, 100, 1000, MAX_CSR_BYTES):
        assert "CSR" in refusal_of(os.urandom(size))
