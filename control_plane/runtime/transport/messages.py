"""The gRPC wire format around messages: length prefix, timeouts, percent-encoding, metadata.

Pure functions over bytes and text (grpc/doc/PROTOCOL-HTTP2.md). Compression is not spoken.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, unquote

from control_plane.core.errors import InvalidInput, ResourceExhausted, Unimplemented, shown

PREFIX_BYTES = 5
CONTENT_TYPE = "application/grpc"

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")
_REQUIRED = frozenset({":method", ":scheme", ":path"})
_PSEUDO = _REQUIRED | {":authority"}
_CONNECTION_SPECIFIC = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
_RESERVED = frozenset({"te", "content-type", "user-agent"})


def frame(payload: bytes) -> bytes:
    """One message as it goes into DATA frames: an uncompressed flag, four bytes of length, the payload."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def payload_length(prefix: bytes, limit: int) -> int:
    """Length announced by a message's five-byte prefix.

    Raises:
        Unimplemented: the message is compressed.
        ResourceExhausted: the message is larger than `limit` bytes.
    """
    length = int.from_bytes(prefix[1:], "big")
    if prefix[0] != 0:
        raise Unimplemented("a compressed message came", hint="send messages with grpc-encoding identity")
    if length > limit:
        raise ResourceExhausted(f"a message of {length} bytes came, at most {limit} are taken")
    return length


def parse_timeout(value: str) -> float:
    """Seconds from a grpc-timeout header. Raises InvalidInput if it hasn't the form of one."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise InvalidInput(f"grpc-timeout: {shown(value)} is not up to 8 digits and a unit of H M S m u n")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def format_timeout(seconds: float) -> str:
    """A grpc-timeout header in the finest unit whose digits fit; rounded down, at least 1 ns."""
    for unit in "num":
        count = int(seconds / _UNIT_SECONDS[unit])
        if count < 100_000_000:
            return f"{max(count, 1)}{unit}" if unit == "n" else f"{count}{unit}"
    return f"{min(int(seconds), 99_999_999)}S"


def encode_message(text: str) -> str:
    """Percent-encodes text for grpc-message: printable ASCII but the percent sign stays as it is."""
    return quote(text, safe=_MESSAGE_SAFE, errors="replace")


def decode_message(text: str) -> str:
    """Undoes `encode_message`; what is no UTF-8 becomes the replacement character, nothing raises."""
    return unquote(text, errors="replace")


def encode_binary(value: bytes) -> str:
    """The value of a `-bin` header: base64 without padding."""
    return base64.b64encode(value).decode("ascii").rstrip("=")


def decode_binary(value: str) -> bytes:
    """Bytes of a `-bin` header, padded or not. Raises InvalidInput if it is no base64."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"binary metadata: {shown(value)} is no base64") from error


def is_well_formed(headers: Sequence[tuple[str, str]]) -> bool:
    """Whether request headers obey RFC 9113, section 8.2 and 8.3; a request whose don't is malformed.

    h2 can check this too, at several times the cost and with more than gRPC needs.
    """
    seen: set[str] = set()
    regular = False
    for name, value in headers:
        if name.startswith(":"):
            if regular or name in seen or name not in _PSEUDO or not value:
                return False
            seen.add(name)
        else:
            regular = True
            if name in _CONNECTION_SPECIFIC or not _KEY.fullmatch(name):
                return False
            if name == "te" and value != "trailers":
                return False
    return seen >= _REQUIRED


def read_metadata(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Custom metadata: what is neither HTTP/2's nor gRPC's own; values of `-bin` names stay encoded."""
    metadata: dict[str, list[str]] = {}
    for key, value in headers:
        if not key.startswith((":", "grpc-")) and key not in _RESERVED:
            metadata.setdefault(key, []).append(value)
    return metadata


def write_metadata(metadata: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers for custom metadata. Raises InvalidInput for a key or value that can't be sent."""
    items = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    for key, value in items:
        if not _KEY.fullmatch(key) or key.startswith("grpc-") or key in _RESERVED:
            raise InvalidInput(
                f"metadata: {shown(key)} can't be a key; use a-z 0-9 _ . - and no reserved name"
            )
        if not _VALUE.fullmatch(value):
            raise InvalidInput(
                f"metadata {key}: the value isn't printable ASCII", hint="use a key ending in -bin"
            )
    return items
