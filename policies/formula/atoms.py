"""The atoms of a formula: one question about one attribute.

An atom on an absent attribute is false, so its negation is true there; `Present` is how presence itself is
asked about. That is the whole treatment of Rego's undefined: the evaluator that produces formulas decides
where a negation includes absence, by adding `Present` or not.

Atoms compare texts by code point and never fold case. Attributes with a canonical case (host, SNI, header
names) are lowered by the input schema, not here.
"""

import functools
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import re2

from control_plane.core.errors import InvalidInput, shown
from policies.formula.attributes import Attribute, Value
from policies.formula.glob import glob_expression

MAX_TEXT_LENGTH: Final = 8192


@dataclass(frozen=True, slots=True)
class Present:
    """The attribute has a value, whatever it is (an empty text counts)."""

    attribute: Attribute

    def holds(self, value: Value) -> bool:
        """Whether a present `value` satisfies the atom; so for every class here."""
        return True

    def parts(self) -> tuple[object, ...]:
        """What tells two atoms of this class and attribute apart, in JSON's types."""
        return ()


@dataclass(frozen=True, slots=True)
class Equal:
    """The value is exactly this one; a text never equals a number, a list never a text."""

    attribute: Attribute
    value: str | int | bool

    def holds(self, value: Value) -> bool:
        """Exact comparison of type and value."""
        return type(value) is type(self.value) and value == self.value

    def parts(self) -> tuple[object, ...]:
        """The value."""
        return (self.value,)


@dataclass(frozen=True, slots=True)
class In:
    """The value is one of several; built sorted and without duplicates by `one_of`."""

    attribute: Attribute
    values: tuple[str | int | bool, ...]

    def holds(self, value: Value) -> bool:
        """Exact comparison with each."""
        return any(type(value) is type(one) and value == one for one in self.values)

    def parts(self) -> tuple[object, ...]:
        """The values."""
        return self.values


@dataclass(frozen=True, slots=True)
class Prefix:
    """The value is a text that starts with `text`."""

    attribute: Attribute
    text: str

    def holds(self, value: Value) -> bool:
        """Plain prefix test."""
        return isinstance(value, str) and value.startswith(self.text)

    def parts(self) -> tuple[object, ...]:
        """The prefix."""
        return (self.text,)


@dataclass(frozen=True, slots=True)
class Suffix:
    """The value is a text that ends with `text`."""

    attribute: Attribute
    text: str

    def holds(self, value: Value) -> bool:
        """Plain suffix test."""
        return isinstance(value, str) and value.endswith(self.text)

    def parts(self) -> tuple[object, ...]:
        """The suffix."""
        return (self.text,)


@dataclass(frozen=True, slots=True)
class Contains:
    """The value is a text with `text` somewhere in it."""

    attribute: Attribute
    text: str

    def holds(self, value: Value) -> bool:
        """Plain substring test."""
        return isinstance(value, str) and self.text in value

    def parts(self) -> tuple[object, ...]:
        """The substring."""
        return (self.text,)


@dataclass(frozen=True, slots=True)
class Glob:
    """The value matches a glob; `*` stops at a delimiter, `**` crosses them (OPA 1.19 as measured).

    The plain language is meant. OPA 1.19 accepts a few texts more (an overlapping prefix and suffix around
    `**`, the empty text for `?`); whoever builds a formula from `glob.match` adds them.
    """

    attribute: Attribute
    pattern: str
    delimiters: tuple[str, ...]

    def holds(self, value: Value) -> bool:
        """Match of the whole text."""
        return isinstance(value, str) and _compiled(glob_expression(self.pattern, self.delimiters))(value)

    def parts(self) -> tuple[object, ...]:
        """The pattern and its delimiters."""
        return (self.pattern, *self.delimiters)


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole value matches an RE2 expression (anchored at both ends, unlike Rego's `regex.match`)."""

    attribute: Attribute
    pattern: str

    def holds(self, value: Value) -> bool:
        """Full match in RE2 semantics."""
        return isinstance(value, str) and _compiled(self.pattern)(value)

    def parts(self) -> tuple[object, ...]:
        """The expression."""
        return (self.pattern,)


@dataclass(frozen=True, slots=True)
class Cidr:
    """The value is an address inside `network` (canonical text; IPv4-mapped IPv6 counts as IPv4)."""

    attribute: Attribute
    network: str

    def holds(self, value: Value) -> bool:
        """Membership; a text that is no address is outside."""
        if not isinstance(value, str):
            return False
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address in ipaddress.ip_network(self.network)

    def parts(self) -> tuple[object, ...]:
        """The network."""
        return (self.network,)


@dataclass(frozen=True, slots=True)
class Between:
    """The value is a whole number with low <= value <= high."""

    attribute: Attribute
    low: int
    high: int

    def holds(self, value: Value) -> bool:
        """Numeric comparison; booleans are no numbers."""
        return type(value) is int and self.low <= value <= self.high

    def parts(self) -> tuple[object, ...]:
        """Both ends."""
        return (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Member:
    """The value is a list that holds at least one of `values` (`"admin" in input.jwt.claims.groups`)."""

    attribute: Attribute
    values: tuple[str, ...]

    def holds(self, value: Value) -> bool:
        """True for lists only: a text isn't a list of one."""
        return isinstance(value, tuple) and any(one in value for one in self.values)

    def parts(self) -> tuple[object, ...]:
        """The values."""
        return self.values


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition that no atom can say; only the evaluator of the policy can decide it.

    `digest` names the condition (two opaque atoms with one digest are the same condition), `span` is where
    it stands, `reason` why it can't be said, `reads` which attributes it depends on.
    """

    attribute: Attribute
    digest: str
    span: str
    reason: str
    reads: tuple[Attribute, ...] = ()

    def holds(self, value: Value) -> bool:
        """Never asked: evaluation hands opaque atoms to its caller."""
        raise InvalidInput(
            f"deciding {self.span}: {self.reason}", hint="evaluate with a decider for opaque conditions"
        )

    def parts(self) -> tuple[object, ...]:
        """The digest alone."""
        return (self.digest,)


Atom = Present | Equal | In | Prefix | Suffix | Contains | Glob | Regex | Cidr | Between | Member | Opaque


@functools.lru_cache(maxsize=4096)
def _compiled(expression: str) -> Callable[[str], bool]:
    """A full-match function for an RE2 expression; raises InvalidInput where RE2 refuses it."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 22
    try:
        pattern = re2.compile(expression, options)
    except re2.error as error:
        raise InvalidInput(
            f"compiling regular expression {shown(expression)}: {error}", hint="RE2 syntax is expected"
        ) from error
    return lambda text: pattern.fullmatch(text) is not None


def check_expression(expression: str) -> str:
    """`expression` itself where RE2 accepts it; raises InvalidInput otherwise."""
    _compiled(expression)
    return expression


def canonical_network(text: str) -> str:
    """A network in canonical text: host bits cleared, mapped IPv4 as IPv4, a bare address as a host network.

    Raises InvalidInput for anything that isn't one (ports, zones, bad lengths).
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidInput(
            f"reading network {shown(text)}: {error}", hint="expected CIDR notation such as 10.0.0.0/8"
        ) from error
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return str(ipaddress.ip_network((mapped, network.prefixlen - 96)))
    return str(network)
