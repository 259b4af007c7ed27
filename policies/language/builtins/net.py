"""Address blocks: containment, intersection, merging.

Read as Go's net package reads them: host bits of a block are dropped, an IPv4-mapped IPv6 address is
the IPv4 address, a prefix length may have leading zeros, an address may not; zones and ports are
errors.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.values import Boolean, Set, Value, boolean, members, type_name

MAX_EXPANSION = 1 << 20
"""Most addresses that net.cidr_expand lists."""

_PREFIX_LENGTH = re.compile(r"[0-9]{1,8}")


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """All addresses of `bits` bits (32 or 128) from first to last."""

    bits: int
    first: int
    last: int

    def contains(self, other: Block) -> bool:
        return self.bits == other.bits and self.first <= other.first and other.last <= self.last

    def __str__(self) -> str:
        length = self.bits - (self.last - self.first).bit_length()
        return f"{address_text(self.bits, self.first)}/{length}"


def address_text(bits: int, number: int) -> str:
    """The usual notation of an address."""
    return str(ipaddress.IPv4Address(number) if bits == 32 else ipaddress.IPv6Address(number))


def _address(text: str) -> tuple[int, int, bool] | None:
    """Bits and number of an address, and whether it was written with colons; None when it is none."""
    if "%" in text or not text.isascii():
        return None
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return 32, int(parsed), False
    return 128, int(parsed), True


_MAPPED = 0xFFFF << 32


@lru_cache(maxsize=4_096)
def parse_block(text: str) -> Block | None:
    """A block in CIDR notation, or None."""
    address, slash, length_text = text.partition("/")
    found = _address(address)
    if not slash or found is None or not _PREFIX_LENGTH.fullmatch(length_text):
        return None
    bits, number, _ = found
    length = int(length_text)
    if length > bits:
        return None
    if bits == 128 and number >> 32 == 0xFFFF and length >= 96:
        bits, number, length = 32, number - _MAPPED, length - 96
    host = (1 << (bits - length)) - 1
    return Block(bits, number & ~host, number | host)


@lru_cache(maxsize=4_096)
def parse_address(text: str) -> Block | None:
    """A single address as a block of one, or None; IPv4-mapped addresses are IPv4."""
    found = _address(text)
    if found is None:
        return None
    bits, number, _ = found
    if bits == 128 and number >> 32 == 0xFFFF:
        bits, number = 32, number - _MAPPED
    return Block(bits, number, number)


def _block(text: str) -> Block:
    block = parse_block(text)
    if block is None:
        raise BuiltinError(f"invalid CIDR address: {text}")
    return block


def _block_or_address(text: str) -> Block:
    block = parse_address(text) or parse_block(text)
    if block is None:
        raise BuiltinError(f"not a valid textual representation of an IP address or CIDR: {text}")
    return block


def contains(block: str, other: str) -> Boolean:
    """Whether the block contains an address or all of another block."""
    return boolean(_block(block).contains(_block_or_address(other)))


def intersects(left: str, right: str) -> Boolean:
    """Whether two blocks share an address."""
    first, second = _block(left), _block(right)
    return boolean(first.bits == second.bits and first.first <= second.last and second.first <= first.last)


def is_valid(block: str) -> Boolean:
    return boolean(parse_block(block) is not None)


def expand(block: str) -> Set:
    """All addresses of a block; an error when they are too many to list."""
    found = _block(block)
    if found.last - found.first >= MAX_EXPANSION:
        raise HaltError(f"net.cidr_expand: {block} has more than {MAX_EXPANSION} addresses")
    return Set(address_text(found.bits, number) for number in range(found.first, found.last + 1))


def merge(collection: Value) -> Set:
    """The fewest blocks that hold the same addresses. A bare IPv4 address stands for its class A, B or C
    network.
    """
    items = collection.ordered_members() if isinstance(collection, Set) else collection
    blocks = []
    for item in items:  # type: ignore[union-attr] # array or set by signature
        if not isinstance(item, str):
            raise OperandError(f"operand 1 must be {type_name(collection)} of strings")
        blocks.append(_mergeable(item))
    _check_families([block for block, _ in blocks])
    return Set(_merged(blocks))


def _check_families(blocks: list[Block]) -> None:
    """HaltError where OPA would join an IPv4 block and an IPv6 block, because their bytes sort together."""
    for one, other in itertools.product(blocks, blocks):
        if one.bits == other.bits:
            continue
        before, last = _bytes(other, max(0, other.first - 1)), _bytes(one, one.last)
        if before <= last <= _bytes(other, other.last):
            raise HaltError(f"OPA 1.19 takes {one} and {other} for neighbours; merge each kind alone")


def _bytes(block: Block, address: int) -> bytes:
    return address.to_bytes(block.bits // 8)


def _mergeable(text: str) -> tuple[Block, str]:
    """The block of an element, and how it is written when it stands for itself ("" for a plain block)."""
    block = parse_block(text)
    if block is not None:
        return block, ""
    address = parse_address(text)
    if address is None:
        raise BuiltinError(f"net.cidr_merge: invalid IP address or CIDR: {text}")
    if address.bits == 128:
        raise BuiltinError("net.cidr_merge: IPv6 invalid: needs prefix length")
    top = address.first >> 24
    length = 8 if top < 128 else 16 if top < 192 else 24
    host = (1 << (32 - length)) - 1
    written = f"{address_text(32, address.first)}/{length}"
    return Block(32, address.first & ~host, address.first | host), written


def _merged(blocks: list[tuple[Block, str]]) -> list[str]:
    """Runs of adjoining addresses, each cut into aligned blocks."""
    runs: list[list[int]] = []
    alone: dict[int, str] = {}
    for block, written in sorted(blocks):
        if runs and runs[-1][0] == block.bits and block.first <= runs[-1][2] + 1:
            runs[-1][2] = max(runs[-1][2], block.last)
            alone.pop(len(runs) - 1, None)
        else:
            alone[len(runs)] = written
            runs.append([block.bits, block.first, block.last])
    result = []
    for position, (bits, first, last) in enumerate(runs):
        if alone.get(position):
            result.append(
                alone[position]
            )  # a bare address that nothing adjoins keeps its host bits, as in OPA
            continue
        while first <= last:
            size = first & -first if first else 1 << bits
            while first + size - 1 > last:
                size >>= 1
            result.append(str(Block(bits, first, first + size - 1)))
            first += size
    return result


def contains_matches(blocks: Value, addresses: Value) -> Set:
    """Pairs of the keys under which a block and an address or block inside it stand."""
    keyed_blocks = _keyed(blocks, 1)
    # Where one side is empty, nothing of the other is read as a block or an address.
    others = [(key, _block_or_address(text)) for key, text in _keyed(addresses, 2)] if keyed_blocks else []
    found: list[Value] = []
    for key, text in keyed_blocks if others else []:
        block = _block(text)
        found.extend((key, other_key) for other_key, other in others if block.contains(other))
    return Set(found)


def _keyed(operand: Value, position: int) -> list[tuple[Value, str]]:
    """The strings of an operand with their keys; an array in place of a string counts by its first
    element.
    """
    pairs = [(operand, operand)] if isinstance(operand, str) else members(operand)
    keyed: list[tuple[Value, str]] = []
    for key, item in pairs:
        if isinstance(operand, Set):
            key = item
        if isinstance(item, tuple) and item:
            item = item[0]
        if not isinstance(item, str):
            raise BuiltinError(f"operand {position}: element must be string or non-empty array")
        keyed.append((key, item))
    return keyed


FUNCTIONS = {
    "net.cidr_contains": contains,
    "net.cidr_overlap": contains,
    "net.cidr_intersects": intersects,
    "net.cidr_is_valid": is_valid,
    "net.cidr_expand": expand,
    "net.cidr_merge": merge,
    "net.cidr_contains_matches": contains_matches,
}
