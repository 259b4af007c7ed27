"""The attributes that a policy may ask about, each `absent | value`.

An attribute is one leaf of the input document (design: input schema). Keyed attributes (labels, headers)
carry their key and claims carry their path, so that `input.request.headers["x-team"]` is one attribute.
Derived facts about an attribute (which strings can occur there) belong to the proof; how a mesh spells it
belongs to the targets. Neither is here.
"""

import enum
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import InvalidInput, shown

Value = str | int | bool | tuple[str, ...]
"""A present value: text, a whole number, a boolean, or (claims only) a list of texts."""

MAX_KEY_LENGTH: Final = 512
MAX_CLAIM_DEPTH: Final = 8


class Domain(enum.StrEnum):
    """What kind of value an attribute holds when it is present."""

    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"
    ADDRESS = "address"
    CLAIM = "claim"
    """Whatever the issuer wrote: a text, a list of texts, or something else."""


_DOMAINS: Final[dict[str, Domain]] = {
    "source.spiffe_id": Domain.TEXT,
    "source.trust_domain": Domain.TEXT,
    "source.namespace": Domain.TEXT,
    "source.service_account": Domain.TEXT,
    "source.labels": Domain.TEXT,
    "source.ip": Domain.ADDRESS,
    "destination.spiffe_id": Domain.TEXT,
    "destination.trust_domain": Domain.TEXT,
    "destination.namespace": Domain.TEXT,
    "destination.service_account": Domain.TEXT,
    "destination.service": Domain.TEXT,
    "destination.labels": Domain.TEXT,
    "destination.ip": Domain.ADDRESS,
    "destination.port": Domain.NUMBER,
    "request.method": Domain.TEXT,
    "request.path": Domain.TEXT,
    "request.host": Domain.TEXT,
    "request.headers": Domain.TEXT,
    "jwt.claims": Domain.CLAIM,
    "connection.sni": Domain.TEXT,
    "connection.mtls": Domain.FLAG,
}
SCHEMA_NAMES: Final = frozenset(_DOMAINS)
"""Every name that an attribute may have."""

_KEYED: Final = frozenset({"source.labels", "destination.labels", "request.headers"})

SOURCE_IDENTITY: Final = frozenset(
    {"source.spiffe_id", "source.trust_domain", "source.namespace", "source.service_account", "source.labels"}
)
"""Everything that follows from the caller's SPIFFE ID and the inventory."""

HTTP_ONLY: Final = frozenset(
    {"request.method", "request.path", "request.host", "request.headers", "jwt.claims"}
)
"""What doesn't exist on a connection that isn't HTTP."""


@dataclass(frozen=True, slots=True, order=True)
class Attribute:
    """One leaf of the input: a name of the schema, with a key or a claim path where the schema has one."""

    name: str
    path: tuple[str, ...] = ()

    @staticmethod
    def of(name: str, *path: str) -> "Attribute":
        """Check `name` and `path` against the schema; header names are lowered, as HTTP/2 sends them.

        Raises InvalidInput for an unknown name, a missing or surplus key, or an over-long key.
        """
        if name not in _DOMAINS:
            known = ", ".join(sorted(_DOMAINS))
            raise InvalidInput(
                f"reading an input attribute: {shown(name)} is not in the input schema",
                hint=f"known: {known}",
            )
        expected = "1 key" if name in _KEYED else "1 key or more" if name == "jwt.claims" else "no key"
        fits = (
            len(path) == 1
            if name in _KEYED
            else 1 <= len(path) <= MAX_CLAIM_DEPTH
            if name == "jwt.claims"
            else not path
        )
        if not fits or any(not key or len(key) > MAX_KEY_LENGTH for key in path):
            raise InvalidInput(f"reading input attribute {name}: key {shown(path)} came, {expected} expected")
        if name == "request.headers":
            path = (path[0].lower(),)
        return Attribute(name, path)

    @property
    def domain(self) -> Domain:
        """What a present value looks like."""
        return _DOMAINS[self.name]

    def __str__(self) -> str:
        return f"input.{self.name}" + "".join(f'["{key}"]' for key in self.path)


SOURCE_ID: Final = Attribute("source.spiffe_id")
TRUST_DOMAIN: Final = Attribute("source.trust_domain")
NAMESPACE: Final = Attribute("source.namespace")
SERVICE_ACCOUNT: Final = Attribute("source.service_account")
SOURCE_IP: Final = Attribute("source.ip")
PORT: Final = Attribute("destination.port")
DESTINATION_IP: Final = Attribute("destination.ip")
METHOD: Final = Attribute("request.method")
PATH: Final = Attribute("request.path")
HOST: Final = Attribute("request.host")
SNI: Final = Attribute("connection.sni")
MTLS: Final = Attribute("connection.mtls")


def header(name: str) -> Attribute:
    """The request header `name`, in any case."""
    return Attribute.of("request.headers", name)


def label(key: str) -> Attribute:
    """The caller's label `key`."""
    return Attribute.of("source.labels", key)


def claim(*path: str) -> Attribute:
    """A claim of the validated token, nested claims by their path."""
    return Attribute.of("jwt.claims", *path)
