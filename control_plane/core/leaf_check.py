"""The last look at a leaf before it leaves, whoever signed it and however it was built.

Each part is compared with what the request and the profile make it: extensions with what cryptography writes
for them, so that the check shares no bytes with the template that may have built the leaf. A leaf that isn't
what we would write ourselves is walked: its extensions may come in any order, each exactly once and in
canonical form.

Cryptography parses leaves as well: every one that isn't as we would write it, and of those that are the first
of each length below an issuer, where all but the contents of the fields is the same, and every 256th after
that. More often would be dear: code that runs seldom has left the processor's caches, and such a parse then
costs 150 µs instead of 18, twice as much as OpenSSL's part in a leaf.
"""

import functools
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from control_plane.core import der
from control_plane.core.certificate import UNREADABLE, Certificate
from control_plane.core.errors import Bug, InvalidInput
from control_plane.core.jwk import spki_of
from control_plane.core.profile import (
    LEAF_BASIC_CONSTRAINTS,
    LEAF_EXTENDED_KEY_USAGE,
    LEAF_KEY_USAGE,
    LEAF_SUBJECT,
    SigningRequest,
    leaf_subject,
)
from control_plane.core.spiffe_id import SpiffeId
from control_plane.core.tbs import KEY_ID_BYTES, authority_key_id, key_id_of, signature_algorithm

PARSE_SAMPLE: Final = 256

_EXTENSIONS: Final = 0xA3
_EXTENSION_COUNT: Final = 6
_LENGTHS_KEPT: Final = 1024
_FIELD_DIFFERENCES: Final = (
    "it isn't of version 3",
    "its serial number isn't the one that was drawn",
    "its signature algorithm or issuer isn't that of the CA",
    "its validity isn't the one that was asked for",
    "its subject isn't that of the profile",
    "its public key isn't the one that was asked for",
)


def check_leaf(certificate: bytes, request: SigningRequest, issuer: Certificate) -> None:
    """Holds a finished leaf against what was asked for. Raises Bug with the first difference.

    The signature isn't verified here; see `check_signature`.
    """
    window = request.window
    if window.not_after > issuer.not_after or window.not_before < issuer.not_before:
        raise Bug(f"leaf for {request.spiffe_id}: lives before or beyond its issuer {issuer.title}")
    try:
        difference = _difference(certificate, request, _frame(issuer))
    except (*UNREADABLE, InvalidInput) as error:
        raise Bug(f"leaf for {request.spiffe_id}: was issued in a form that can't be read back") from error
    if difference:
        raise Bug(f"leaf for {request.spiffe_id} by {issuer.title}: {difference}")


def check_signature(certificate: bytes, issuer: Certificate) -> None:
    """Verifies the issuer's signature. Raises Bug: a wrong one means a wrong key behind the authority."""
    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, *UNREADABLE) as error:
        raise Bug(f"a leaf of {issuer.title}: its signature doesn't fit the issuer's key") from error


def _difference(data: bytes, request: SigningRequest, frame: "_Frame") -> str:
    """What differs from the request and the profile; empty if nothing does."""
    body, end = der.expect(data, 0, len(data), der.SEQUENCE)
    expected = _expected(request, frame)
    as_ours = data.startswith(expected, body)
    tbs_end = body + len(expected)
    if not as_ours:
        position, tbs_end = der.expect(data, body, end, der.SEQUENCE)
        difference = _signed_difference(data, position, tbs_end, request, frame)
        if difference:
            return difference
    after = tbs_end + len(frame.algorithm)
    signature, signature_end = der.expect(data, after, end, der.BIT_STRING)
    if data[tbs_end:after] != frame.algorithm or data[signature : signature + 1] != b"\x00":
        return "its signature isn't of the CA's kind"
    if not end == len(data) == signature_end:
        return "something follows its end"
    if as_ours and len(expected) in frame.parsed_lengths and request.serial % PARSE_SAMPLE:
        return ""
    difference = _parsed_difference(data, request)
    if as_ours and not difference:
        frame.keep_length(len(expected))
    return difference


def _expected(request: SigningRequest, frame: "_Frame") -> bytes:
    """The signed part, its extensions in the order in which we write them ourselves."""
    names = _encoded_names(request.spiffe_id, request.dns_names)
    body = b"".join(
        (
            *_expected_fields(request, frame),
            frame.before_key_id(len(names)),
            key_id_of(request.spki),
            frame.authority_key_id,
            names,
        )
    )
    return der.header(der.SEQUENCE, len(body)) + body


def _signed_difference(
    data: bytes, position: int, limit: int, request: SigningRequest, frame: "_Frame"
) -> str:
    """What differs in the signed part, field by field; the extensions may come in any order."""
    fields = _expected_fields(request, frame)
    for content, difference in zip(fields, _FIELD_DIFFERENCES, strict=True):
        if not data.startswith(content, position):
            return difference
        position += len(content)
    found, expected = _extensions_in(data, position, limit), _expected_extensions(request, frame)
    if sorted(found) == sorted(expected):
        return ""
    wrong = sorted({one[4:7].hex() for one in set(found) ^ set(expected)})
    return f"its extensions aren't those of the profile (object identifiers {', '.join(wrong)})"


def _expected_fields(request: SigningRequest, frame: "_Frame") -> tuple[bytes, ...]:
    """What comes before the extensions; `_FIELD_DIFFERENCES` says what each of them is."""
    serial, window = request.serial, request.window
    return (
        _VERSION_3,
        der.encode(der.INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
        frame.algorithm_and_issuer,
        der.encode_validity(window.not_before, window.not_after),
        _SUBJECT if not request.common_name else leaf_subject(request).public_bytes(),
        request.spki,
    )


def _parsed_difference(certificate: bytes, request: SigningRequest) -> str:
    parsed = x509.load_der_x509_certificate(certificate)
    found = (
        parsed.serial_number,
        int(parsed.not_valid_before_utc.timestamp()),
        int(parsed.not_valid_after_utc.timestamp()),
        spki_of(parsed.public_key()),  # type: ignore[arg-type]  # any key has an SPKI
        len(list(parsed.extensions)),
    )
    window = request.window
    wanted = (request.serial, window.not_before, window.not_after, request.spki, _EXTENSION_COUNT)
    return "" if found == wanted else "another parser reads something else in it"


def _extensions_in(data: bytes, position: int, limit: int) -> list[bytes]:
    start, end = der.expect(data, position, limit, _EXTENSIONS)
    at, inner_end = der.expect(data, start, end, der.SEQUENCE)
    if not inner_end == end == limit:
        raise InvalidInput("certificate: something follows its extensions")
    found = []
    while at < end:
        _, after = der.expect(data, at, end, der.SEQUENCE)
        found.append(data[at:after])
        at = after
    return found


class _Frame:
    """What all leaves of one issuer have in common, as cryptography encodes it."""

    __slots__ = (
        "algorithm",
        "algorithm_and_issuer",
        "authority_key_id",
        "before_key_id",
        "parsed_lengths",
        "static",
    )

    def __init__(self, issuer: Certificate) -> None:
        self.algorithm = signature_algorithm(issuer.public_key)
        self.algorithm_and_issuer = self.algorithm + issuer.subject
        self.static = (
            _encoded(LEAF_KEY_USAGE, True),
            _encoded(LEAF_EXTENDED_KEY_USAGE, False),
            _encoded(LEAF_BASIC_CONSTRAINTS, True),
        )
        self.authority_key_id = _encoded(authority_key_id(issuer), False)
        self.before_key_id = functools.lru_cache(maxsize=256)(self._before_key_id)
        self.parsed_lengths: set[int] = set()

    def keep_length(self, signed_bytes: int) -> None:
        """Another parser has read a leaf of this length, written as we would, as we do."""
        if len(self.parsed_lengths) >= _LENGTHS_KEPT:
            self.parsed_lengths.clear()
        self.parsed_lengths.add(signed_bytes)

    def _before_key_id(self, name_bytes: int) -> bytes:
        """What stands between a leaf's key and its key identifier, by the length of its alternative names."""
        content = b"".join((*self.static, _SUBJECT_KEY_ID_HEAD))
        length = len(content) + KEY_ID_BYTES + len(self.authority_key_id) + name_bytes
        inner = der.header(der.SEQUENCE, length)
        return der.header(_EXTENSIONS, len(inner) + length) + inner + content


@functools.lru_cache(maxsize=64)
def _frame(issuer: Certificate) -> _Frame:
    return _Frame(issuer)


def _expected_extensions(request: SigningRequest, frame: _Frame) -> list[bytes]:
    return [
        *frame.static,
        _SUBJECT_KEY_ID_HEAD + key_id_of(request.spki),
        frame.authority_key_id,
        _encoded_names(request.spiffe_id, request.dns_names),
    ]


@functools.lru_cache(maxsize=8192)
def _encoded_names(spiffe_id: SpiffeId, dns_names: tuple[str, ...]) -> bytes:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns_names]
    return _encoded(x509.SubjectAlternativeName(names), False)


def _encoded(value: x509.ExtensionType, critical: bool) -> bytes:
    oid = value.oid.dotted_string
    if not oid.startswith("2.5.29."):
        raise Bug(f"extension {oid}: isn't one of X.509's own")
    content = bytes((0x06, 3, 0x55, 0x1D, int(oid.rpartition(".")[2])))
    content += b"\x01\x01\xff" if critical else b""
    return der.encode(der.SEQUENCE, content + der.encode(der.OCTET_STRING, value.public_bytes()))


_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_SUBJECT = LEAF_SUBJECT.public_bytes()
_SUBJECT_KEY_ID_HEAD = _encoded(x509.SubjectKeyIdentifier(b"\x00" * 20), False)[:-20]
