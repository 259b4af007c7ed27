"""Dimensions of a request and the questions that can be asked about one of them.

A dimension is one thing a proxy can look at; a probe is a question about its value, false where it is absent.
Addresses are numbers on one line: IPv4 first, IPv6 above, IPv4-mapped IPv6 counted as IPv4.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

from policies.proof.language import expression_language


class _Absent:
    """The value of a dimension that isn't there."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True, order=True)
class Dimension:
    """One thing that can be looked at. `rank` orders the cuts: few classes and sharp tests first.

    `domain` is an RE2 expression of the texts that can occur, `head` a text that all of them start with;
    `always` says that the dimension is never absent.
    """

    rank: int
    name: str
    kind: str
    key: tuple[str, ...] = ()
    domain: str = "(?s:.)*"
    head: str = ""
    always: bool = False

    def __hash__(self) -> int:
        return hash((self.name, self.key))  # the rest follows from these within one proof


@dataclass(frozen=True, slots=True)
class Probe:
    """A question about one dimension; false where the dimension is absent."""

    dimension: Dimension

    def holds(self, value: object) -> bool:
        """Presence itself."""
        return value is not ABSENT


@dataclass(frozen=True, slots=True)
class Within(Probe):
    """The text is one of these."""

    values: frozenset[str]

    def __hash__(self) -> int:
        return hash(self.values)  # probes of two dimensions seldom say the same

    def holds(self, value: object) -> bool:
        """Exact membership."""
        return value in self.values if isinstance(value, str) else False


@dataclass(frozen=True, slots=True)
class Starts(Probe):
    """The text starts so."""

    text: str

    def __hash__(self) -> int:
        return hash(self.text)  # probes of two dimensions seldom say the same

    def holds(self, value: object) -> bool:
        """Prefix."""
        return isinstance(value, str) and value.startswith(self.text)


@dataclass(frozen=True, slots=True)
class Ends(Probe):
    """The text ends so."""

    text: str

    def __hash__(self) -> int:
        return hash(self.text)  # probes of two dimensions seldom say the same

    def holds(self, value: object) -> bool:
        """Suffix."""
        return isinstance(value, str) and value.endswith(self.text)


@dataclass(frozen=True, slots=True)
class Matches(Probe):
    """The text belongs to a language, given as an RE2 expression under full match."""

    expression: str

    def __hash__(self) -> int:
        return hash(self.expression)  # probes of two dimensions seldom say the same

    def holds(self, value: object) -> bool:
        """Membership."""
        return isinstance(value, str) and expression_language(self.expression).has(value)


@dataclass(frozen=True, slots=True)
class Element(Probe):
    """The value is a list with an element that passes `inner`."""

    inner: Probe

    def holds(self, value: object) -> bool:
        """Some element."""
        return isinstance(value, tuple) and any(self.inner.holds(one) for one in value)


@dataclass(frozen=True, slots=True)
class Constant(Probe):
    """The claim is this number or truth value, written as JSON."""

    json: str

    def holds(self, value: object) -> bool:
        """Equality with the constant."""
        return isinstance(value, Other) and value.json == self.json


@dataclass(frozen=True, slots=True)
class Interval(Probe):
    """The number lies in one of these closed intervals (ports, or addresses as numbers)."""

    spans: tuple[tuple[int, int], ...]

    def __hash__(self) -> int:
        return hash(self.spans)  # probes of two dimensions seldom say the same

    def holds(self, value: object) -> bool:
        """Membership; addresses given as text count as their number."""
        if isinstance(value, str):
            value = address_number(value)
        return type(value) is int and any(low <= value <= high for low, high in self.spans)


@dataclass(frozen=True, slots=True)
class Other:
    """A claim that is neither text nor list of texts, as JSON."""

    json: str

    def __repr__(self) -> str:
        return self.json


FIRST_IPV6: Final = 1 << 32  # addresses are one line of numbers: IPv4 first, IPv6 above
MAPPED_IPV4: Final = (0xFFFF << 32) + FIRST_IPV6


def address_number(text: str) -> int:
    """The place of an address on the line; -1 for a text that is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return -1
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return int(mapped) if mapped is not None else int(address) + FIRST_IPV6
    return int(address)


def network_span(text: str) -> tuple[int, int]:
    """First and last place of a network (a bare address is one place). Raises ValueError where it is none."""
    network = ipaddress.ip_network(text, strict=False)
    shift = FIRST_IPV6 if network.version == 6 else 0
    return int(network.network_address) + shift, int(network.broadcast_address) + shift


def quote(literal: str) -> str:
    """A text as an expression that matches just it."""
    return "".join(f"\\{one}" if one in "\\.+*?()|[]{}^$" else one for one in literal)
