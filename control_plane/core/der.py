"""The little DER (X.690) that issuing needs: writing values, and reading them back strictly.

The reader takes definite, minimal lengths only and never looks beyond the value it was given. It knows
nothing of X.509; `template` and `csr` do. Full parsing is left to cryptography.
"""

import functools
from datetime import UTC, datetime
from typing import Final

from control_plane.core.errors import InvalidInput

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30


def encode(tag: int, content: bytes) -> bytes:
    """One value: tag, minimal length, content."""
    return header(tag, len(content)) + content


@functools.lru_cache(maxsize=1024)
def header(tag: int, length: int) -> bytes:
    """What stands before `length` bytes of content: the tag, and the length in its shortest form."""
    if length < 0x80:
        return bytes((tag, length))
    width = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | width)) + length.to_bytes(width, "big")


def read(data: bytes, offset: int, limit: int) -> tuple[int, int, int]:
    """Reads the header at `offset`; gives tag, start of the content, and its end, which is at most `limit`.

    Raises InvalidInput for a truncated value, an indefinite or non-minimal length, or a multi-byte tag.
    """
    start = offset + 2
    if start > limit:
        raise InvalidInput(f"DER at byte {offset}: truncated")
    tag, length = data[offset], data[offset + 1]
    if tag & 0x1F == 0x1F:
        raise InvalidInput(f"DER at byte {offset}: multi-byte tag")
    if length >= 0x80:
        width = length & 0x7F
        start += width
        if not 1 <= width <= 3 or start > limit:
            raise InvalidInput(f"DER at byte {offset}: length is indefinite, too large or truncated")
        length = int.from_bytes(data[offset + 2 : start], "big")
        if length < 0x80 or length >> (8 * (width - 1)) == 0:
            raise InvalidInput(f"DER at byte {offset}: length isn't written in its shortest form")
    end = start + length
    if end > limit:
        raise InvalidInput(f"DER at byte {offset}: reaches beyond its container")
    return tag, start, end


def expect(data: bytes, offset: int, limit: int, tag: int) -> tuple[int, int]:
    """Reads a header whose tag must be `tag`; gives start and end of the content. Raises InvalidInput."""
    start = offset + 2
    if start + 2 <= limit and data[offset] == tag:  # the plain cases, without another call
        first = data[offset + 1]
        if first < 0x80:
            end = start + first
        elif first == 0x82 and data[start]:
            end = start + 2 + (data[start] << 8 | data[start + 1])
            start += 2
        elif first == 0x81 and data[start] >= 0x80:
            end = start + 1 + data[start]
            start += 1
        else:
            end = limit + 1
        if end <= limit:
            return start, end
    found, start, end = read(data, offset, limit)
    if found != tag:
        raise InvalidInput(f"DER at byte {offset}: tag {found:#04x}, expected {tag:#04x}")
    return start, end


@functools.lru_cache(maxsize=4096)  # asked for by who writes a leaf and by who checks it
def encode_validity(not_before: int, not_after: int) -> bytes:
    """The validity of a certificate, in Unix seconds (RFC 5280 section 4.1.2.5)."""
    return encode(SEQUENCE, encode_time(not_before) + encode_time(not_after))


@functools.lru_cache(maxsize=64)  # what is issued in one second begins in the same second
def encode_time(unix_seconds: int) -> bytes:
    """UTCTime through 2049, GeneralizedTime from 2050 on (RFC 5280 section 4.1.2.5)."""
    day, seconds = divmod(unix_seconds, 86400)
    return _date(day) + b"%02d%02d%02dZ" % (seconds // 3600, seconds // 60 % 60, seconds % 60)


@functools.lru_cache(maxsize=64)
def _date(day: int) -> bytes:
    """Tag, length and date of the times of one day since 1970: the part that seldom changes."""
    moment = datetime.fromtimestamp(day * 86400, UTC)
    if moment.year < 2050:
        return bytes((UTC_TIME, 13)) + moment.strftime("%y%m%d").encode("ascii")
    return bytes((GENERALIZED_TIME, 15)) + moment.strftime("%Y%m%d").encode("ascii")
