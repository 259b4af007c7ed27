"""What ztunnel makes of an AuthorizationPolicy, and what its own list means (ztunnel's rbac).

ztunnel sees connections: identity, addresses, ports. A rule of an ALLOW policy with any other field is
dropped; in a DENY policy the other fields are stripped, and a clause that is left empty matches *nothing*,
so that the DENY is lost. `trustDomains` is neither translated nor reported: it is as if it weren't there.
Identities are parsed as trust domain, namespace and service account; others match no namespace.
"""

import base64
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import InvalidInput, shown
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions, name_ends
from policies.proof.probes import Interval, Matches, Probe, Starts, Within, network_span, quote
from policies.proof.question import Undecidable

Node = Mapping[str, object]

_SOURCE: Final = {"principals", "namespaces", "serviceAccounts", "ipBlocks"}
_OPERATION: Final = {"ports"}
_CONDITIONS: Final = {
    "source.ip": "ipBlocks",
    "source.namespace": "namespaces",
    "source.principal": "principals",
    "destination.ip": "destinationIps",
    "destination.port": "ports",
}
_IGNORED: Final = {"trustDomains"}


@dataclass(frozen=True, slots=True)
class ZtunnelReader:
    """Reads AuthorizationPolicies, or ztunnel's own lists, into one space."""

    space: sp.Space
    dimensions: Dimensions

    def policy(self, namespace: str, spec: Node) -> sp.Literal:
        """Whether the list that ztunnel gets for a policy matches a connection."""
        deny = spec.get("action", "ALLOW") == "DENY"
        found = []
        for rule in _list(spec.get("rules", [])):
            clauses = self._clauses(_mapping(rule), namespace, strip=deny)
            if clauses is not None:
                found.append(self.space.all_of(clauses))
        return self.space.any_of(found)

    def authorization(self, document: Node) -> sp.Literal:
        """The meaning of ztunnel's list: groups OR, rules AND, matches OR, fields AND."""
        groups = []
        for group in _list(document.get("groups", [])):
            rules = []
            for rule in _list(_mapping(group).get("rules", [])):
                matches = [
                    self._list_match(_mapping(one)) for one in _list(_mapping(rule).get("matches", []))
                ]
                rules.append(self.space.any_of(matches))
            groups.append(self.space.all_of(rules))
        return self.space.any_of(groups)

    def _clauses(self, rule: Node, namespace: str, strip: bool) -> list[sp.Literal] | None:
        """The clauses (to, from, each condition) of one rule; None where the rule is dropped."""
        clauses = []
        for key, inner in (("to", "operation"), ("from", "source")):
            if rule.get(key):
                matches = []
                for one in _list(rule[key]):
                    given = _mapping(_mapping(one).get(inner))
                    texts = {name: _texts(values) for name, values in given.items()}
                    match = self._match(texts, namespace, strip)
                    if match is None:
                        return None
                    matches.append(match)
                clauses.append(self.space.any_of(matches))
        for condition in _list(rule.get("when", [])):
            node = _mapping(condition)
            name = _CONDITIONS.get(str(node.get("key")))
            fields: dict[str, Sequence[str]] = {}
            if name is None and not strip:
                return None
            if name is not None:
                for place, field in (("values", name), ("notValues", "not" + name[0].upper() + name[1:])):
                    if place in node:
                        fields[field] = _texts(node[place])
            match = self._match(fields, namespace, strip)
            if match is None:
                return None
            clauses.append(match)
        return clauses

    def _match(self, fields: Mapping[str, Sequence[str]], namespace: str, strip: bool) -> sp.Literal | None:
        """One match; None where an ALLOW has a field unseen by ztunnel. An empty match matches nothing."""
        parts = []
        for field, values in fields.items():
            negated = field.startswith("not") and field[3:4].isupper()
            name = field[3].lower() + field[4:] if negated else field
            if name in _IGNORED:
                continue
            if name not in _SOURCE | _OPERATION | {"destinationIps"}:
                if strip:
                    continue
                return None
            found = self.space.one_of([self._field(name, value, namespace) for value in values])
            parts.append(found ^ 1 if negated else found)
        return self.space.all_of(parts) if parts else sp.FALSE

    def _field(self, name: str, value: str, namespace: str) -> sp.Literal:
        if name == "principals":
            return self._principal(_matcher(value))
        if name == "namespaces":
            return self._namespace(_matcher(value))
        if name == "serviceAccounts":
            own, slash, account = value.rpartition("/")
            return self._service_account(own if slash else namespace, account)
        if name == "ports":
            if not (value.isascii() and value.isdecimal() and len(value) <= 5):
                raise InvalidInput(f"reading a ztunnel policy: port {shown(value)} is none")
            return self._port(int(value))
        dimension = self.dimensions.source_ip if name == "ipBlocks" else self.dimensions.destination_ip
        try:
            return self.space.test(Interval(dimension, (network_span(value),)))
        except ValueError as error:
            raise InvalidInput(f"reading a ztunnel policy: address block {shown(value)}: {error}") from error

    def _list_match(self, match: Node) -> sp.Literal:
        parts = []
        for field, values in match.items():
            negated = field.startswith("not")
            name = field[3].lower() + field[4:] if negated else field
            readers: dict[str, Callable[[object], sp.Literal]] = {
                "principals": lambda one: self._principal(_mapping(one)),
                "namespaces": lambda one: self._namespace(_mapping(one)),
                "serviceAccounts": lambda one: self._listed_account(_mapping(one)),
                "sourceIps": lambda one: self._listed_network(_mapping(one), True),
                "destinationIps": lambda one: self._listed_network(_mapping(one), False),
                "destinationPorts": lambda one: self._port(int(str(one))),
            }
            if name not in readers:
                raise Undecidable(f"reading an authorization list: {shown(field)} isn't modelled")
            found = self.space.any_of([readers[name](one) for one in _list(values)])
            parts.append(found ^ 1 if negated else found)
        return self.space.all_of(parts) if parts else sp.FALSE

    def _principal(self, matcher: Node) -> sp.Literal:
        identity = self.dimensions.identity
        ((kind, value),) = matcher.items()
        if kind == "presence":
            return self.space.test(Probe(identity))
        if kind == "suffix":
            return self.space.test(name_ends(identity, str(value)))
        text = f"spiffe://{value}"
        return self.space.test(
            Within(identity, frozenset({text})) if kind == "exact" else Starts(identity, text)
        )

    def _namespace(self, matcher: Node) -> sp.Literal:
        ((kind, value),) = matcher.items()
        quoted = quote(str(value))
        middle = {
            "exact": quoted, "prefix": f"{quoted}[^/]*", "suffix": f"[^/]*{quoted}", "presence": "[^/]+",
        }[kind]  # fmt: skip
        return self.space.test(Matches(self.dimensions.identity, f"spiffe://[^/]+/ns/{middle}/sa/[^/]+"))

    def _service_account(self, namespace: str, account: str) -> sp.Literal:
        expression = f"spiffe://[^/]+/ns/{quote(namespace)}/sa/{quote(account)}"
        return self.space.test(Matches(self.dimensions.identity, expression))

    def _port(self, port: int) -> sp.Literal:
        return self.space.test(Interval(self.dimensions.port, ((port, port),)))

    def _listed_account(self, node: Node) -> sp.Literal:
        return self._service_account(str(node.get("namespace")), str(node.get("serviceAccount")))

    def _listed_network(self, node: Node, source: bool) -> sp.Literal:
        address = ipaddress.ip_address(base64.b64decode(str(node.get("address"))))
        dimension = self.dimensions.source_ip if source else self.dimensions.destination_ip
        return self.space.test(Interval(dimension, (network_span(f"{address}/{node.get('length', 0)}"),)))


def _matcher(value: str) -> Node:
    if value == "*":
        return {"presence": {}}
    if value.startswith("*"):
        return {"suffix": value[1:]}
    return {"prefix": value[:-1]} if value.endswith("*") else {"exact": value}


def _mapping(node: object) -> Node:
    if not isinstance(node, Mapping):
        raise InvalidInput(f"reading a ztunnel policy: {shown(node)} came, a mapping is expected")
    return node


def _list(node: object) -> Sequence[object]:
    if not isinstance(node, list):
        raise InvalidInput(f"reading a ztunnel policy: {shown(node)} came, a list is expected")
    return node


def _texts(node: object) -> Sequence[str]:
    return [str(one) for one in _list(node)]
