"""The input document of a request that a person describes in a few words, with what the inventory knows.

    {"source": {...}, "destination": {...}, "request": {...}, "connection": {...}} of policies' input schema

Without an inventory there is what was said and nothing else; namespace, service account and labels are facts
of the inventory and never guessed from the look of a SPIFFE ID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.core.errors import InvalidInput, NotFound, shown
from control_plane.core.spiffe_id import SpiffeId
from policies.inventory import Inventory, Workload
from policies.questions import destination_document


@dataclass(frozen=True, slots=True)
class Described:
    """A request in words. Empty texts and zeros are what wasn't said.

    `source` is a SPIFFE ID or `namespace/name` of the inventory, `destination` the latter.
    """

    source: str = ""
    destination: str = ""
    port: int = 0
    method: str = ""
    path: str = ""
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    source_ip: str = ""

    def document(self, inventory: Inventory | None) -> dict[str, object]:
        """The input document. Raises InvalidInput, or NotFound for a workload that isn't there."""
        request: dict[str, object] = {
            name: value
            for name, value in (("method", self.method), ("path", self._path()), ("host", self.host))
            if value
        }
        if self.headers:
            request["headers"] = {name.lower(): value for name, value in self.headers.items()}
        source = caller_document(self._identity(inventory), inventory) if self.source else {}
        if self.source_ip:
            source["ip"] = self.source_ip
        parts = {"source": source, "destination": self._called(inventory), "request": request}
        document: dict[str, object] = {name: part for name, part in parts.items() if part}
        return document | {"connection": {"mtls": bool(self.source)}}

    def _path(self) -> str:
        if any(mark in self.path for mark in "?#"):
            raise InvalidInput(
                f"describing a request: path {shown(self.path)} has a query",
                hint="input.request.path has none, give the part before `?`",
            )
        return self.path

    def _identity(self, inventory: Inventory | None) -> str:
        if self.source.startswith("spiffe://"):
            return str(SpiffeId.parse(self.source))
        return _workload(inventory, self.source, "--source").spiffe_id

    def _called(self, inventory: Inventory | None) -> dict[str, object]:
        if not self.destination:
            return {"port": self.port} if self.port else {}
        workload = _workload(inventory, self.destination, "--destination")
        ports = workload.ports
        port = self.port or (next(iter(ports)) if len(ports) == 1 else 0)
        listed = ", ".join(map(str, ports)) or "none"
        if port and port not in ports:
            raise InvalidInput(
                f"describing a request: {workload.key} doesn't listen on port {port}, so it is closed there",
                hint=f"listening (target) ports in the inventory: {listed}",
            )
        services = workload.services_at(port) if port else {one.name for one in workload.services}
        if len(services) > 1:
            where, hint = "", f"name a port: {listed}"
            if port:
                where, hint = f" at port {port}", "give a whole input document for each with --input"
            raise InvalidInput(f"describing a request: {workload.key} has several services{where}", hint=hint)
        document = destination_document(workload, next(iter(services), None))
        return document | {"port": port} if port else document


def caller_document(identity: str, inventory: Inventory | None) -> dict[str, object]:
    """`input.source` of a SPIFFE ID; facts that its workloads don't agree on are absent."""
    document: dict[str, object] = {
        "spiffe_id": identity,
        "trust_domain": identity.removeprefix("spiffe://").partition("/")[0],
    }
    several = inventory.by_identity.get(identity, ()) if inventory is not None else ()
    if not several:
        return document
    for name in ("namespace", "service_account"):
        values = {getattr(workload, name) for workload in several}
        if len(values) == 1:
            document[name] = values.pop()
    agreed = set.intersection(*(set(workload.labels.items()) for workload in several))
    return document | {"labels": dict(sorted(agreed))}


def _workload(inventory: Inventory | None, name: str, flag: str) -> Workload:
    if inventory is None:
        raise InvalidInput(
            f"describing a request: {flag} {shown(name)} names a workload",
            hint="give --inventory, or a whole input document with --input",
        )
    found = inventory.by_key.get(name)
    if found is None:
        known = ", ".join(list(inventory.by_key)[:8])
        raise NotFound(f"describing a request: the inventory has no workload {shown(name)}", hint=known)
    return found
