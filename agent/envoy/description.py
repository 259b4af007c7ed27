"""What a service says about itself, so that its Envoy can be configured: where it listens, whom it calls.

Written by hand as TOML or YAML, carried in the node metadata of Envoy's bootstrap, read back from there: one
form, one strict parser. Nothing here grants anything; who may call is decided by policy, and the identity is
given only to a process that is entitled to it.

    name = "payments"
    spiffe_id = "spiffe://example.org/ns/shop/sa/payments"

    [[inbound]]                        # others call it: mutual TLS, then policy, then the service
    listen = "0.0.0.0:8443"
    upstream = "127.0.0.1:8080"
    protocol = "http"                  # http, http2, grpc, tcp or tcp-server-first

    [[outbound]]                       # it calls others: plain on loopback, mutual TLS from there on
    name = "card-db"
    listen = "127.0.0.1:15432"
    upstream = "10.0.0.7:9432"
    spiffe_id = "spiffe://example.org/ns/shop/sa/card-db"
    protocol = "tcp"
"""

import difflib
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from agent.envoy.address import Address
from control_plane.core.errors import InvalidInput, shown
from control_plane.core.spiffe_id import SpiffeId

MAX_LISTENERS: Final = 128  # inbound and outbound together
RESERVED: Final = "jwks-"
NAME_FORM: Final = "lower-case letters, digits and hyphens, at most 63"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

T = TypeVar("T")


class Protocol(enum.Enum):
    """What is spoken on a port. `http` is HTTP/1.1 to the service and either version from callers.

    `tcp` is where the caller speaks first: its first bytes are what Envoy judges a connection by, and the
    service hears of it only then. Where the server speaks first, as in MySQL or SMTP, a caller that is denied
    gets what it says until it says something itself; that has to be asked for.
    """

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"
    TCP_SERVER_FIRST = "tcp-server-first"

    @property
    def is_http(self) -> bool:
        """Whether requests can be seen in it."""
        return self not in (Protocol.TCP, Protocol.TCP_SERVER_FIRST)

    @property
    def is_http2(self) -> bool:
        """Whether the service behind speaks HTTP/2 from the first byte on."""
        return self in (Protocol.HTTP2, Protocol.GRPC)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A port on which others call the service."""

    name: str
    listen: Address
    upstream: Address
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Outbound:
    """A port on which the service finds another one; `spiffe_id` is who has to answer there."""

    name: str
    listen: Address
    upstream: Address
    spiffe_id: SpiffeId
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class ServiceDescription:
    """One service and its Envoy. `access_log` is a file for one line a request or connection; empty: none.
    `authorities` is the file of certificate authorities by which Envoy knows the issuers of tokens; empty:
    that of its machine."""

    name: str
    spiffe_id: SpiffeId
    inbound: tuple[Inbound, ...]
    outbound: tuple[Outbound, ...]
    access_log: str = ""
    authorities: str = ""

    @classmethod
    def parse(cls, document: object) -> "ServiceDescription":
        """Reads a document of plain values. Raises InvalidInput: the place, what came, what was expected."""
        fields = _Fields("the service", document)
        found = cls(
            name=fields.take("name", _name),
            spiffe_id=fields.take("spiffe_id", _workload_id),
            inbound=tuple(_inbound(one) for one in fields.tables("inbound")),
            outbound=tuple(_outbound(one) for one in fields.tables("outbound")),
            access_log=fields.take("access_log", _file, default=""),
            authorities=fields.take("authorities", _file, default=""),
        )
        fields.finish()
        _check(found)
        return found

    def to_document(self) -> dict[str, object]:
        """The same as plain values; `parse` reads it back."""
        document: dict[str, object] = {"name": self.name, "spiffe_id": str(self.spiffe_id)}
        if self.access_log:
            document["access_log"] = self.access_log
        if self.authorities:
            document["authorities"] = self.authorities
        document["inbound"] = [_document(one) for one in self.inbound]
        document["outbound"] = [_document(one) | {"spiffe_id": str(one.spiffe_id)} for one in self.outbound]
        return document


def _document(one: Inbound | Outbound) -> dict[str, object]:
    return {
        "name": one.name,
        "listen": str(one.listen),
        "upstream": str(one.upstream),
        "protocol": one.protocol.value,
    }


class _Fields:
    """One table of the document: fields are taken by name, and what is left over is an error."""

    def __init__(self, place: str, document: object) -> None:
        if not isinstance(document, Mapping):
            raise InvalidInput(f"reading {place}: {shown(document)} came, a table is expected")
        self.place = place
        self._left = dict(document)
        self._known: list[str] = []

    def take(self, name: str, parse: Callable[[str], T], default: T | None = None) -> T:
        """One text field. Without a default it must be there."""
        self._known.append(name)
        value = self._left.pop(name, None)
        if value is None:
            if default is None:
                raise InvalidInput(f"reading {self.place}: {name} is missing")
            return default
        if not isinstance(value, str):
            raise InvalidInput(f"reading {self.place}: {name} is {shown(value)}, a text is expected")
        try:
            return parse(value)
        except InvalidInput as error:
            raise InvalidInput(f"reading {self.place}, {name}: {error.message}", hint=error.hint) from error

    def tables(self, name: str) -> Iterable["_Fields"]:
        """A list of tables, empty if it isn't there."""
        self._known.append(name)
        value = self._left.pop(name, [])
        if not isinstance(value, list) or len(value) > MAX_LISTENERS:
            raise InvalidInput(
                f"reading {self.place}: {name} is {shown(value)}, a list of up to {MAX_LISTENERS} tables"
                " is expected"
            )
        return [_Fields(f"{name} {number}", one) for number, one in enumerate(value, 1)]

    def finish(self) -> None:
        """Refuses what nobody took."""
        for name in self._left:
            near = difflib.get_close_matches(str(name), self._known, n=1, cutoff=0.5)
            raise InvalidInput(
                f"reading {self.place}: there is no {shown(name)}",
                hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(self._known)}",
            )


def _inbound(fields: _Fields) -> Inbound:
    listen = fields.take("listen", _port)
    found = Inbound(
        name=fields.take("name", _name, default=f"in-{listen.port}"),
        listen=listen,
        upstream=fields.take("upstream", Address.parse),
        protocol=fields.take("protocol", _protocol),
    )
    fields.finish()
    return found


def _outbound(fields: _Fields) -> Outbound:
    found = Outbound(
        name=fields.take("name", _name),
        listen=fields.take("listen", Address.parse_local),
        upstream=fields.take("upstream", Address.parse),
        spiffe_id=fields.take("spiffe_id", _workload_id),
        protocol=fields.take("protocol", _protocol),
    )
    fields.finish()
    return found


def _check(service: ServiceDescription) -> None:
    both: list[Inbound | Outbound] = [*service.inbound, *service.outbound]
    if not both:
        raise InvalidInput(f"reading the service {service.name}: it has neither inbound nor outbound")
    for what, values in (
        ("name", [one.name for one in both]),
        ("listen address", [str(one.listen) for one in both]),
    ):
        for value in values:
            if values.count(value) > 1:
                raise InvalidInput(f"reading the service {service.name}: the {what} {value} is given twice")


def _port(text: str) -> Address:
    """Policies speak about ports of the service, and a caller on a unix socket has no address."""
    found = Address.parse_local(text)
    if not found.port:
        raise InvalidInput(f"{shown(text)} is a unix socket, an address and a port are expected")
    return found


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise InvalidInput(f"{shown(text)} isn't a name: {NAME_FORM}")
    if text.startswith(RESERVED):
        raise InvalidInput(f"the name {text} is taken: {RESERVED}… are clusters of token issuers")
    return text


def _protocol(text: str) -> Protocol:
    try:
        return Protocol(text)
    except ValueError:
        known = ", ".join(one.value for one in Protocol)
        raise InvalidInput(f"{shown(text)} isn't a protocol: one of {known}") from None


def _workload_id(text: str) -> SpiffeId:
    spiffe_id = SpiffeId.parse(text)
    if not spiffe_id.has_path:
        raise InvalidInput(f"{shown(text)} is a trust domain, the SPIFFE ID of a workload is expected")
    return spiffe_id


def _file(text: str) -> str:
    if not text.startswith("/") or "\0" in text or len(text) > 4096:
        raise InvalidInput(f"{shown(text)} isn't an absolute path of a file")
    return text
