"""The inventory's file format, YAML or JSON: strict, with the place and the expectation in every error.

The format is `inventory.schema.json` beside this file; the checks here go further (references between
entries, SPIFFE IDs, one protocol for a port). Sizes are bounded: up to MAX_WORKLOADS workloads are read.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from control_plane.core.errors import GatehouseError, InvalidInput, ResourceExhausted, shown
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from policies.documents import Node, read_document
from policies.inventory import (
    ClaimShape,
    Inventory,
    Issuer,
    Mesh,
    Mode,
    Port,
    Protocol,
    Service,
    Waypoint,
    Workload,
)

MAX_WORKLOADS: Final = 200_000
MAX_LABELS: Final = 64
MAX_PORTS: Final = 256
MAX_TEXT: Final = 65_536

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY: Final = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL_NAME}")
_LABEL_VALUE: Final = re.compile(rf"({_LABEL_NAME})?")
_VERSION: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?")

Choice = TypeVar("Choice", bound=StrEnum)


def parse_inventory(text: str) -> Inventory:
    """Read the YAML or JSON form.

    Raises InvalidInput naming the place and what was expected, ResourceExhausted beyond the limits.
    """
    return inventory_from_document(read_document(text, "the inventory"))


def inventory_from_document(document: Node) -> Inventory:
    """Read the parsed form; see `parse_inventory`."""
    root = _Fields(document, "inventory")
    mesh = _mesh(root.object("mesh"))
    workloads: dict[str, Workload] = {}
    for item in root.objects("workloads", MAX_WORKLOADS):
        workload = _workload(item, mesh)
        if workload.key in workloads:
            raise InvalidInput(f"reading {item.place}: workload {workload.key} stands there twice")
        workloads[workload.key] = workload
    segments: dict[str, tuple[str, ...]] = {}
    for item in root.objects("segments", 10_000):
        name = item.name("name")
        if name in segments:
            raise InvalidInput(f"reading {item.place}: segment {name} stands there twice")
        segments[name] = _members(item, workloads)
    issuers = tuple(_issuer(item) for item in root.objects("issuers", 100))
    if len({issuer.issuer for issuer in issuers}) != len(issuers):
        raise InvalidInput("reading inventory.issuers: two entries name the same issuer")
    root.done()
    ordered = tuple(workloads[key] for key in sorted(workloads))
    return Inventory(mesh, ordered, dict(sorted(segments.items())), issuers)


def _mesh(fields: "_Fields") -> Mesh:
    domain = _trust_domain(fields, "trust_domain", fields.text("trust_domain"))
    aliases = [
        _trust_domain(fields, "trust_domain_aliases", text) for text in fields.texts("trust_domain_aliases")
    ]
    root_namespace = fields.name("root_namespace", "istio-system")
    version = fields.text("istio_version", "1.30")
    if not _VERSION.fullmatch(version):
        raise fields.refused("istio_version", version, "a version such as 1.30")
    fields.done()
    return Mesh(domain, tuple(aliases), root_namespace, version)


def _trust_domain(fields: "_Fields", key: str, text: str) -> str:
    try:
        return TrustDomain.parse(text).name
    except GatehouseError as error:
        raise fields.refused(key, text, f"a trust domain ({error.message})") from error


def _identity(fields: "_Fields", text: str) -> str:
    try:
        parsed = SpiffeId.parse(text)
    except GatehouseError as error:
        raise fields.refused("spiffe_id", text, f"a SPIFFE ID ({error.message})") from error
    if not parsed.path:
        raise fields.refused("spiffe_id", text, "a SPIFFE ID with a path")
    return str(parsed)


def _workload(fields: "_Fields", mesh: Mesh) -> Workload:
    name, namespace = fields.name("name"), fields.name("namespace")
    account = fields.name("service_account", "default")
    default = f"spiffe://{mesh.trust_domain}/ns/{namespace}/sa/{account}"
    identity = _identity(fields, fields.text("spiffe_id", default))
    labels = fields.labels("labels")
    mode = fields.choice("mode", Mode, Mode.SIDECAR)
    services = tuple(_service(item) for item in fields.objects("services", 64))
    waypoint = _waypoint(fields.object("waypoint"), namespace, mesh) if fields.has("waypoint") else None
    if mode is Mode.WAYPOINT and waypoint is None:
        raise InvalidInput(
            f"reading {fields.place}: mode waypoint came without a waypoint",
            hint="name the proxy that guards the workload: `waypoint: {name: waypoint}`",
        )
    if mode is not Mode.WAYPOINT and waypoint is not None:
        raise InvalidInput(
            f"reading {fields.place}: a waypoint came, and mode is {mode}",
            hint="say `mode: waypoint`, or leave the waypoint out",
        )
    spoken: dict[int, bool] = {}
    for port in (port for service in services for port in service.ports):
        if spoken.setdefault(port.target_port, port.protocol.is_http) != port.protocol.is_http:
            raise fields.refused("services", port.target_port, "one protocol for a port, HTTP or not,")
    fields.done()
    return Workload(name, namespace, account, identity, labels, services, mode, waypoint)


def _service(fields: "_Fields") -> Service:
    name = fields.name("name")
    ports = []
    for item in fields.objects("ports", MAX_PORTS):
        port = item.port("port")
        target = item.port("target_port") if item.has("target_port") else port
        protocol = item.choice("protocol", Protocol, Protocol.TCP)
        ports.append(Port(port, target, protocol, item.text("name", "")))
        item.done()
    fields.done()
    if len({port.port for port in ports}) != len(ports):
        raise InvalidInput(f"reading {fields.place}: service {name} has one port twice")
    return Service(name, tuple(sorted(ports)))


def _waypoint(fields: "_Fields", namespace: str, mesh: Mesh) -> Waypoint:
    name = fields.name("name")
    default = f"spiffe://{mesh.trust_domain}/ns/{namespace}/sa/{name}"
    identity = _identity(fields, fields.text("spiffe_id", default))
    fields.done()
    return Waypoint(name, identity)


def _members(fields: "_Fields", workloads: Mapping[str, Workload]) -> tuple[str, ...]:
    """A segment's workloads: those named, and those of the namespaces that carry the labels."""
    chosen = set(fields.texts("workloads"))
    for key in sorted(chosen - workloads.keys()):
        raise fields.refused("workloads", key, "namespace/name of a workload of this inventory")
    namespaces, labels = set(fields.texts("namespaces")), fields.labels("labels")
    if namespaces or labels:
        for workload in workloads.values():
            inside = not namespaces or workload.namespace in namespaces
            if inside and labels.items() <= workload.labels.items():
                chosen.add(workload.key)
    fields.done()
    return tuple(sorted(chosen))


def _issuer(fields: "_Fields") -> Issuer:
    shapes = fields.object("claims").choices(ClaimShape) if fields.has("claims") else {}
    name, issuer = fields.name("name"), fields.text("issuer")
    jwks_uri, jwks = fields.text("jwks_uri", ""), fields.text("jwks", "")
    audiences = tuple(fields.texts("audiences"))
    if not (jwks_uri or jwks):
        raise fields.refused("jwks_uri", None, f"jwks_uri or jwks, to check the tokens of {name},")
    fields.done()
    # RFC 7519 section 4.1: iss and sub are texts whoever issues.
    claims = shapes | {"iss": ClaimShape.STRING, "sub": ClaimShape.STRING}
    return Issuer(name, issuer, jwks_uri, jwks, audiences, dict(sorted(claims.items())))


class _Fields:
    """One mapping being read: every field is asked for once, what is left over is an error."""

    def __init__(self, node: Node, place: str) -> None:
        if not isinstance(node, dict):
            raise InvalidInput(f"reading {place}: {shown(node)} came, a mapping is expected")
        self._left: dict[str, Node] = dict(node)
        self._known: list[str] = []
        self.place = place

    def refused(self, key: str, value: object, expected: str) -> InvalidInput:
        return InvalidInput(f"reading {self.place}.{key}: {shown(value)} came, {expected} is expected")

    def has(self, key: str) -> bool:
        return key in self._left

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or len(value) > MAX_TEXT or not (value or default is not None):
            raise self.refused(key, value, "a text")
        return value

    def name(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if not _NAME.fullmatch(value):
            raise self.refused(key, value, "a Kubernetes name (a-z, 0-9, - and .)")
        return value

    def port(self, key: str) -> int:
        value = self._take(key)
        if type(value) is not int or not 1 <= value <= 65535:
            raise self.refused(key, value, "a port from 1 to 65535")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.refused(key, value, "a list of texts")
        return [str(one) for one in value]

    def labels(self, key: str) -> dict[str, str]:
        value = self._take(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_LABELS:
            raise self.refused(key, value, f"a mapping of at most {MAX_LABELS} labels")
        for name, text in value.items():
            fits = isinstance(text, str) and _LABEL_KEY.fullmatch(name) and _LABEL_VALUE.fullmatch(text)
            if not fits:
                raise self.refused(key, {name: text}, "a Kubernetes label with its value")
        return dict(sorted(value.items()))

    def choice(self, key: str, kind: type[Choice], default: Choice) -> Choice:
        value = self._take(key)
        known = [one.value for one in kind]
        if value is not None and value not in known:
            raise self.refused(key, value, f"one of {', '.join(known)}")
        return default if value is None else kind(value)

    def choices(self, kind: type[Choice]) -> dict[str, Choice]:
        default = next(iter(kind))
        return {key: self.choice(key, kind, default) for key in list(self._left)}

    def object(self, key: str) -> "_Fields":
        return _Fields(self._take(key), f"{self.place}.{key}")

    def objects(self, key: str, limit: int) -> list["_Fields"]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.refused(key, value, "a list")
        if len(value) > limit:
            raise ResourceExhausted(f"reading {self.place}.{key}: {len(value)} entries of at most {limit}")
        return [_Fields(item, f"{self.place}.{key}[{index}]") for index, item in enumerate(value)]

    def done(self) -> None:
        if self._left:
            surplus, known = shown(next(iter(self._left))), ", ".join(self._known)
            raise InvalidInput(f"reading {self.place}: unknown field {surplus}", hint=f"known: {known}")

    def _take(self, key: str) -> Node:
        self._known.append(key)
        return self._left.pop(key, None)
