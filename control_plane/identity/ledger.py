"""What the ledger says: values, and their compact binary form.

Every certificate and token has a record here before it leaves; certificates have an intent before they are
signed, so that even one that was signed and lost in a crash is known. Where and how records become durable
is `journal`'s business.

The form of one record (all integers big-endian): one byte that tells the kind, then the fields in the order
of the class. Numbers of seconds are eight bytes; text and bytes are two bytes of length and the content;
serial numbers are such bytes; a list is two bytes of count and its items. Fields are only ever added at
the end, in a new kind. A record of 500 bytes costs about two microseconds to write, which JSON wouldn't.
"""

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias

from control_plane.core.errors import Bug, Corrupt, InvalidInput
from control_plane.core.spiffe_id import SpiffeId

_SECONDS = struct.Struct(">Q")
_LENGTH = struct.Struct(">H")
MAX_FIELD_BYTES: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class X509Intent:
    """An X.509-SVID is about to be signed. `digest` is the SHA-256 of the bytes to be signed."""

    kind: ClassVar[str] = "x509-intent"
    at: int
    spiffe_id: SpiffeId
    serial: int
    digest: bytes
    authority_id: str

    def encode(self) -> bytes:
        """The binary form."""
        serial = _serial_bytes(self.serial)
        return b"".join(
            (
                b"\x01",
                _SECONDS.pack(self.at),
                _texts(str(self.spiffe_id)),
                _length(serial),
                serial,
                _length(self.digest),
                self.digest,
                _texts(self.authority_id),
            )
        )


@dataclass(frozen=True, slots=True)
class X509Record:
    """An X.509-SVID was issued. The certificate is the leaf, DER.

    `requested_by` is the ID that asked (an agent, an administrator), empty for local calls; `entry_id` the
    registration entry it was issued for, empty where there is none; `mark` sets signatures of a standby
    authority apart.
    """

    kind: ClassVar[str] = "x509"
    at: int
    spiffe_id: SpiffeId
    serial: int
    not_after: int
    authority_id: str
    entry_id: str
    requested_by: str
    mark: str
    certificate: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The binary form."""
        serial = _serial_bytes(self.serial)
        return b"".join(
            (
                b"\x02",
                _SECONDS.pack(self.at),
                _texts(str(self.spiffe_id)),
                _length(serial),
                serial,
                _SECONDS.pack(self.not_after),
                _texts(self.authority_id, self.entry_id, self.requested_by, self.mark),
                _length(self.certificate),
                self.certificate,
            )
        )


@dataclass(frozen=True, slots=True)
class JwtRecord:
    """A JWT-SVID was issued. The token is a secret, so only its SHA-256 is kept."""

    kind: ClassVar[str] = "jwt"
    at: int
    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    expires_at: int
    authority_id: str
    token_id: str
    entry_id: str
    requested_by: str
    mark: str
    digest: bytes

    def encode(self) -> bytes:
        """The binary form."""
        return b"".join(
            (
                b"\x03",
                _SECONDS.pack(self.at),
                _prefixed(str(self.spiffe_id).encode()),
                _LENGTH.pack(len(self.audience)),
                _prefixed(*(value.encode() for value in self.audience)),
                _SECONDS.pack(self.expires_at),
                _prefixed(
                    self.authority_id.encode(),
                    self.token_id.encode(),
                    self.entry_id.encode(),
                    self.requested_by.encode(),
                    self.mark.encode(),
                    self.digest,
                ),
            )
        )


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """An authority took a step: prepared, issuing-ca, activated, tainted, quarantined, withheld,
    released, revoked or forgotten (`event`).

    `certificate` is the root (DER) for X.509, the public key (SPKI, DER) for JWT, or the new issuing CA.
    """

    kind: ClassVar[str] = "authority"
    at: int
    authority_kind: str
    authority_id: str
    event: str
    reason: str
    certificate: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The binary form."""
        return (
            b"\x04"
            + _SECONDS.pack(self.at)
            + _prefixed(
                self.authority_kind.encode(),
                self.authority_id.encode(),
                self.event.encode(),
                self.reason.encode(),
                self.certificate,
            )
        )


@dataclass(frozen=True, slots=True)
class AuthorityMark:
    """From here on signatures are by a stand-in (`mark` says which), or, with an empty mark, no longer."""

    kind: ClassVar[str] = "authority-mark"
    at: int
    authority_id: str
    mark: str
    reason: str

    def encode(self) -> bytes:
        """The binary form."""
        return (
            b"\x05"
            + _SECONDS.pack(self.at)
            + _prefixed(self.authority_id.encode(), self.mark.encode(), self.reason.encode())
        )


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """Somebody changes something (`action`) by the management API, or the change took effect.

    `by` is the authenticated subject, `resource` what is changed, `request_id` ties together what one request
    left in ledger and logs; `detail` is JSON, or empty. Written before the change: what a crash prevented is
    here too, what isn't here didn't happen.
    """

    kind: ClassVar[str] = "change"
    at: int
    action: str
    by: str
    resource: str
    reason: str
    request_id: str
    detail: str

    def encode(self) -> bytes:
        """The binary form."""
        fields = (self.action, self.by, self.resource, self.reason, self.request_id, self.detail)
        return b"\x06" + _SECONDS.pack(self.at) + _prefixed(*(text.encode() for text in fields))


@dataclass(frozen=True, slots=True)
class X509Withheld:
    """A signer gave something else than what it was asked for, and it was given to nobody.

    `digest` is the SHA-256 of what came, `certificate` its first 65,535 bytes, which may be anything.
    """

    kind: ClassVar[str] = "x509-withheld"
    at: int
    spiffe_id: SpiffeId
    authority_id: str
    entry_id: str
    mark: str
    reason: str
    digest: bytes
    certificate: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The binary form."""
        fields = (str(self.spiffe_id), self.authority_id, self.entry_id, self.mark, self.reason)
        contents = (*(text.encode() for text in fields), self.digest, self.certificate)
        return b"\x07" + _SECONDS.pack(self.at) + _prefixed(*contents)


Record: TypeAlias = (
    X509Intent | X509Record | JwtRecord | AuthorityRecord | AuthorityMark | ChangeRecord | X509Withheld
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A record in its place: which issuer's journal, and which number there."""

    issuer: int
    sequence: int
    record: Record

    @property
    def id(self) -> str:
        """The entry's name: `<issuer>-<sequence>`."""
        return f"{self.issuer}-{self.sequence}"


def parse_entry_id(text: str) -> tuple[int, int]:
    """Reads an entry's name: issuer and sequence. Raises InvalidInput."""
    issuer, dash, sequence = text.partition("-")
    if not (dash and issuer.isdecimal() and sequence.isdecimal() and len(text) <= 40 and text.isascii()):
        raise InvalidInput(f"ledger entry {text[:60]!a}: expected <issuer>-<sequence>, such as 0-123")
    return int(issuer), int(sequence)


def decode(data: bytes) -> Record:
    """Reads one record. Raises Corrupt for anything but exactly one whole record of a known kind."""
    reader = _Reader(data)
    try:
        read = _READERS[reader.byte()]
        record = read(reader)
    except (KeyError, IndexError, struct.error, UnicodeDecodeError, InvalidInput) as error:
        raise Corrupt(f"ledger record of {len(data)} bytes: can't be read") from error
    if reader.position != len(data):
        raise Corrupt(
            f"ledger record of {len(data)} bytes: holds {len(data) - reader.position} bytes too many"
        )
    return record


class _Reader:
    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def seconds(self) -> int:
        (value,) = _SECONDS.unpack_from(self.data, self.position)
        self.position += _SECONDS.size
        return int(value)

    def length(self) -> int:
        (value,) = _LENGTH.unpack_from(self.data, self.position)
        self.position += _LENGTH.size
        return int(value)

    def bytes(self) -> bytes:
        length = self.length()
        content = self.data[self.position : self.position + length]
        if len(content) != length:
            raise IndexError(length)
        self.position += length
        return content

    def text(self) -> str:
        return self.bytes().decode("utf-8")

    def spiffe_id(self) -> SpiffeId:
        return SpiffeId.parse(self.text())

    def serial(self) -> int:
        return int.from_bytes(self.bytes(), "big")


# Arguments are evaluated in order, which is the order of the fields.
_READERS: Final[dict[int, Callable[[_Reader], Record]]] = {
    1: lambda r: X509Intent(r.seconds(), r.spiffe_id(), r.serial(), r.bytes(), r.text()),
    2: lambda r: X509Record(
        r.seconds(), r.spiffe_id(), r.serial(), r.seconds(), r.text(), r.text(), r.text(), r.text(), r.bytes()
    ),
    3: lambda r: JwtRecord(
        r.seconds(),
        r.spiffe_id(),
        tuple(r.text() for _ in range(r.length())),
        r.seconds(),
        r.text(),
        r.text(),
        r.text(),
        r.text(),
        r.text(),
        r.bytes(),
    ),
    4: lambda r: AuthorityRecord(r.seconds(), r.text(), r.text(), r.text(), r.text(), r.bytes()),
    5: lambda r: AuthorityMark(r.seconds(), r.text(), r.text(), r.text()),
    7: lambda r: X509Withheld(
        r.seconds(), r.spiffe_id(), r.text(), r.text(), r.text(), r.text(), r.bytes(), r.bytes()
    ),
    6: lambda r: ChangeRecord(r.seconds(), r.text(), r.text(), r.text(), r.text(), r.text(), r.text()),
}


def _serial_bytes(serial: int) -> bytes:
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


@functools.lru_cache(maxsize=4096)
def _texts(*texts: str) -> bytes:
    """Fields of text that come again with every renewal: who it is for, who asked, who signs."""
    return _prefixed(*(text.encode() for text in texts))


def _prefixed(*contents: bytes) -> bytes:
    """Each content after its length."""
    return b"".join([piece for content in contents for piece in (_length(content), content)])


def _length(content: bytes) -> bytes:
    """What stands before a content: its length in two bytes."""
    if len(content) > MAX_FIELD_BYTES:
        raise Bug(f"ledger record: a field of {len(content)} bytes, {MAX_FIELD_BYTES} fit")
    return _LENGTH.pack(len(content))
