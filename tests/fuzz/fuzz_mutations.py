"""Inputs made from seeds: bits flipped, parts cut, doubled, crossed, and replaced by troublesome words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

MAX_SIZE: Final = 65_536
_WORDS: Final = (
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x80", b"\x7f", b"\n", b"..", b"//", b"%2e", b":", b".", b"="),
    *(
        b"{",
        b"[",
        b'"',
        b"'",
        b"null",
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 40,
        b"\xed\xa0\x80",
        b"\\ud800",
        b"&a *a",
    ),
    *(b"inf", b"nan", b"1979-05-27", b"true", b"\x30\x80", b"\x02\x01", b"!!python/object", b"\xc2\xa0"),
)
_LONG: Final = (
    *(b"[" * 3000, b"(" * 3000, b'{"a":' * 1500, b"{a=" * 1500, b"- " * 1500, b"!" * 3000),
    *(b"9" * 5000, b"0x" + b"f" * 5000),
    *(b"[" * depth + b"]" * depth for depth in (200, 800, 900, 950)),
    *(b'{"a":' * depth + b"1" + b"}" * depth for depth in (200, 800, 900, 950)),
)
"""Nested deeper than a reader that calls itself can go, or about as deep, so that what comes after it fails;
and more digits than Python reads. Single bytes that turn hardly ever come to that. Put where values begin."""
_BEFORE_VALUES: Final = frozenset(b':=[,({ \n"')


def mutations(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` inputs from `seeds`, the seeds first; the same for the same `seed`."""
    yield from seeds
    dice = random.Random(seed)
    for _ in range(count - len(seeds)):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 2, 3, 8))):
            at = dice.randrange(len(data) + 1)
            end = min(len(data), at + dice.choice((0, 0, 1, 1, 2, 4, 16, 100)))
            if dice.randrange(20) == 0:
                at = dice.choice(
                    [0, *(place + 1 for place, byte in enumerate(data) if byte in _BEFORE_VALUES)]
                )
                data[at:end] = dice.choice(_LONG)
                continue
            what = dice.randrange(6)
            if what == 0 and data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            elif what == 1:
                data[at:end] = b""
            elif what == 2:
                data[at:end] = dice.choice(_WORDS)
            elif what == 3:
                data[at:end] = dice.randbytes(end - at + 1)
            elif what == 4:
                data[at:at] = data[at:end] * dice.choice((1, 2, 30))
            else:
                other = dice.choice(seeds)
                data[at:] = other[dice.randrange(len(other) + 1) :]
        yield bytes(data[:MAX_SIZE])
