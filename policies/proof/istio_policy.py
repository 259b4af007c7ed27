"""What one AuthorizationPolicy means, field by field, as Istio's pilot reads it (pilot/pkg/security/authz).

An independent reading of the manifest: nothing here is shared with the emitters. Checked against the Envoy
RBAC that Istio itself makes of the conformance policies. What isn't modelled raises Undecidable, so that an
unknown field can't be proved harmless.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import InvalidInput, shown
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions, name_ends, non_empty
from policies.proof.probes import (
    Dimension,
    Element,
    Ends,
    Interval,
    Matches,
    Probe,
    Starts,
    Within,
    network_span,
    quote,
)
from policies.proof.question import Undecidable
from policies.proof.trust_domains import expand_trust_domains

PATH_LITERAL: Final = r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]"
"""Characters that Envoy's path templates let `*` match (uri_template: pchar without `*`)."""


class Chain(enum.Enum):
    """Which kind of proxy filter chain reads the policy."""

    HTTP = "http"
    TCP = "tcp"


class HttpOnly(Exception):
    """A field that a TCP chain can't see."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads AuthorizationPolicies into one space.

    `trust_domains` are the mesh's own and its aliases (empty: none configured); `claims_visible` says whether
    a RequestAuthentication fills in JWT claims; `target_port` maps a policy's port to the workload's.
    """

    space: sp.Space
    dimensions: Dimensions
    chain: Chain
    trust_domains: tuple[str, ...] = ()
    claims_visible: bool = True
    target_port: Callable[[int], int] = lambda port: port

    def policy(self, namespace: str, spec: Mapping[str, object]) -> sp.Literal:
        """Whether some rule matches; a policy without rules matches nothing."""
        action = spec.get("action", "ALLOW")
        found = []
        for rule in _list(spec, "rules"):
            try:
                found.append(self._rule(_mapping(rule, "rule"), namespace, action != "ALLOW"))
            except HttpOnly:
                continue  # an ALLOW rule with an HTTP field doesn't exist on a TCP chain
        return self.space.any_of(found)

    def _rule(self, rule: Mapping[str, object], namespace: str, lenient: bool) -> sp.Literal:
        _known(rule, ("from", "to", "when"))
        sources = [_mapping(one, "from").get("source") for one in _list(rule, "from")]
        operations = [_mapping(one, "to").get("operation") for one in _list(rule, "to")]
        conditions = [_mapping(condition, "when") for condition in _list(rule, "when")]
        parts = [self._condition(condition, namespace, lenient) for condition in conditions]
        # Callers last: a TCP chain drops most rules for a field of another part, and callers are many.
        for several, table in ((operations, self._operation()), (sources, self._source(namespace))):
            if several:
                parts.append(self.space.any_of([self._fields(one, table, lenient) for one in several]))
        return self.space.all_of(parts)

    def _fields(self, node: object, table: Mapping[str, "Generator"], lenient: bool) -> sp.Literal:
        """AND over the fields of a source or operation: OR over a field's values, `notX` negates it.

        `lenient` (DENY, CUSTOM, AUDIT): a field that the chain can't see is left out, which widens the match.
        """
        parts = []
        for field, values in _mapping(node, "source or operation").items():
            negated = field.startswith("not") and field[3:4].isupper()
            name = field[3].lower() + field[4:] if negated else field
            if name not in table:
                raise Undecidable(f"reading an AuthorizationPolicy: field {shown(field)} isn't modelled")
            parts += self._match(table[name], _texts(values, field), negated, lenient)
        return self.space.all_of(parts)

    def _condition(self, condition: Mapping[str, object], namespace: str, lenient: bool) -> sp.Literal:
        _known(condition, ("key", "values", "notValues"))
        generator = self._key(str(condition.get("key")), namespace)
        parts = []
        for field, negated in (("values", False), ("notValues", True)):
            if field in condition:
                parts += self._match(generator, _texts(condition[field], field), negated, lenient)
        return self.space.all_of(parts)

    def _match(
        self, generator: "Generator", values: Sequence[str], negated: bool, lenient: bool
    ) -> list[sp.Literal]:
        try:
            found = self.space.one_of([generator(value) for value in values])
        except HttpOnly:
            if not lenient:
                raise
            return []
        return [found ^ 1 if negated else found]

    def _source(self, namespace: str) -> Mapping[str, "Generator"]:
        dimensions = self.dimensions
        return {
            "principals": self._principal,
            "requestPrincipals": self._http(self._request_principal),
            "namespaces": self._namespace,
            "serviceAccounts": lambda value: self._service_account(value, namespace),
            "trustDomains": self._trust_domain,
            "ipBlocks": lambda value: self._network(dimensions.source_ip, value),
            "remoteIpBlocks": lambda value: self._network(dimensions.remote_ip, value),
        }

    def _operation(self) -> Mapping[str, "Generator"]:
        dimensions = self.dimensions
        return {
            "hosts": self._http(
                lambda value: self._text(dimensions.host, value.lower(), Probe(dimensions.host))
            ),
            "methods": self._http(
                lambda value: self._text(dimensions.method, value, Probe(dimensions.method))
            ),
            "paths": self._http(self._path),
            "ports": self._port,
        }

    def _key(self, key: str, namespace: str) -> "Generator":
        dimensions = self.dimensions
        fixed: dict[str, Generator] = {
            "source.ip": lambda value: self._network(dimensions.source_ip, value),
            "remote.ip": lambda value: self._network(dimensions.remote_ip, value),
            "source.namespace": self._namespace,
            "source.serviceAccount": lambda value: self._service_account(value, namespace),
            "source.trustDomain": self._trust_domain,
            "source.principal": self._principal,
            "request.auth.principal": self._http(self._request_principal),
            "request.auth.audiences": self._http(lambda value: self._claim(("aud",), value)),
            "request.auth.presenter": self._http(lambda value: self._claim(("azp",), value)),
            "destination.ip": lambda value: self._network(dimensions.destination_ip, value),
            "destination.port": self._port,
            "connection.sni": lambda value: self._text(dimensions.sni, value, non_empty(dimensions.sni)),
        }
        if key in fixed:
            return fixed[key]
        name, keys = _bracketed(key)
        if name == "request.headers" and len(keys) == 1:
            header = self._header(keys[0])
            return self._http(lambda value: self._text(header, value, Probe(header)))
        if name == "request.auth.claims" and keys:
            return self._http(lambda value: self._claim(keys, value))
        if name.startswith("experimental.envoy.filters.") and len(keys) == 1:
            place = dimensions.metadata(name.removeprefix("experimental."), *keys)
            return lambda value: self._text(place, value, Matches(place, ".+"))
        raise Undecidable(f"reading an AuthorizationPolicy: condition key {shown(key)} isn't modelled")

    def _http(self, generator: "Generator") -> "Generator":
        """A generator that a TCP chain refuses."""

        def guarded(value: str) -> sp.Literal:
            if self.chain is Chain.TCP:
                raise HttpOnly
            return generator(value)

        return guarded

    def _header(self, name: str) -> Dimension:
        if name == ":method":
            return self.dimensions.method
        if name.startswith(":"):
            raise Undecidable(f"reading an AuthorizationPolicy: pseudo header {shown(name)} isn't modelled")
        return self.dimensions.header(name)

    def _text(self, dimension: Dimension, value: str, presence: Probe) -> sp.Literal:
        """The string match of a value: `*` alone, at the end or the start, or exact; inside it is literal."""
        return self.space.test(_pattern(dimension, value, presence))

    def _claim(self, path: tuple[str, ...], value: str) -> sp.Literal:
        """A claim matches as a text or as an element of a list."""
        if not self.claims_visible:
            return sp.FALSE
        dimension = self.dimensions.claim(*path)
        probe = _pattern(dimension, value, Matches(dimension, ".+"))
        return self.space.any_of([self.space.test(probe), self.space.test(Element(dimension, probe))])

    def _request_principal(self, value: str) -> sp.Literal:
        """`issuer/subject`, cut at the last slash; both are texts, never lists."""
        if not self.claims_visible:
            return sp.FALSE
        issuer, subject = self.dimensions.claim("iss"), self.dimensions.claim("sub")
        some = (Matches(issuer, ".+"), Matches(subject, ".+"))
        if value == "*":
            chosen: tuple[Probe, Probe] = some
        elif value.startswith("*"):
            head, slash, tail = value[1:].rpartition("/")
            exact = Within(subject, frozenset({tail}))
            chosen = (Ends(issuer, head), exact) if slash else (some[0], Ends(subject, tail))
        elif value.endswith("*"):
            head, slash, tail = value[:-1].rpartition("/")
            rest = Starts(subject, tail) if tail else some[1]
            chosen = (Within(issuer, frozenset({head})), rest) if slash else (Starts(issuer, tail), some[1])
        else:
            head, slash, tail = value.rpartition("/")
            named = (head, tail) if slash else (tail, "")
            chosen = (Within(issuer, frozenset({named[0]})), Within(subject, frozenset({named[1]})))
        return self.space.all_of([self.space.test(one) for one in chosen])

    def _principal(self, value: str) -> sp.Literal:
        return self.space.one_of(
            [self._one_principal(one) for one in expand_trust_domains(value, self.trust_domains)]
        )

    def _one_principal(self, value: str) -> sp.Literal:
        identity = self.dimensions.identity
        if value == "*":
            probe = non_empty(identity)
        elif value.startswith("*"):
            probe = name_ends(identity, value[1:])
        elif value.endswith("*"):
            probe = Starts(identity, f"spiffe://{value[:-1]}")
        else:
            probe = Within(identity, frozenset({f"spiffe://{value}"}))
        return self.space.test(probe)

    def _namespace(self, value: str) -> sp.Literal:
        """Every `*` is `.*`, and the trust domain isn't looked at."""
        middle = ".*".join(quote(part) for part in value.split("*"))
        return self.space.test(Matches(self.dimensions.identity, f".*/ns/{middle}/.*"))

    def _service_account(self, value: str, namespace: str) -> sp.Literal:
        own, slash, account = value.rpartition("/")
        place, name = quote(own if slash else namespace), quote(account)
        return self.space.test(
            Matches(self.dimensions.identity, f"spiffe://.+/ns/{place}/(.+/|)sa/{name}(/.+)?")
        )

    def _trust_domain(self, value: str) -> sp.Literal:
        identity = self.dimensions.identity
        if "*" in value:
            middle = "[^/]*".join(quote(part) for part in value.split("*"))
            return self.space.test(Matches(identity, f"spiffe://{middle}/.*"))
        return self.space.test(Starts(identity, f"spiffe://{value}/"))

    def _network(self, dimension: Dimension, value: str) -> sp.Literal:
        try:
            return self.space.test(Interval(dimension, (network_span(value),)))
        except ValueError as error:
            raise InvalidInput(
                f"reading an AuthorizationPolicy: address block {shown(value)}: {error}"
            ) from error

    def _port(self, value: str) -> sp.Literal:
        if not (value.isascii() and value.isdecimal() and len(value) <= 5 and int(value) <= 65535):
            raise InvalidInput(f"reading an AuthorizationPolicy: port {shown(value)} is none")
        port = self.target_port(int(value))
        return self.space.test(Interval(self.dimensions.port, ((port, port),)))

    def _path(self, value: str) -> sp.Literal:
        path = self.dimensions.path
        if "{*}" in value or "{**}" in value:
            return self.space.test(Matches(path, _template(value)))
        return self._text(path, value, non_empty(path))


Generator = Callable[[str], sp.Literal]


def _pattern(dimension: Dimension, value: str, presence: Probe) -> Probe:
    if value == "*":
        return presence
    if value.startswith("*"):
        return Ends(dimension, value[1:])
    if value.endswith("*"):
        return Starts(dimension, value[:-1])
    return Within(dimension, frozenset({value}))


def _template(value: str) -> str:
    """A path template: `{*}` is one segment, `{**}` any number, of the characters Envoy lets through."""
    words = {"{*}": f"{PATH_LITERAL}+", "{**}": f"(?:{PATH_LITERAL}|/)*"}
    parts = [words.get(part, quote(part)) for part in value.split("/")]
    return "/".join(parts)


def _bracketed(key: str) -> tuple[str, tuple[str, ...]]:
    """`name[a][b]` as its name and keys."""
    name, bracket, rest = key.partition("[")
    if not bracket or not rest.endswith("]"):
        return key, ()
    return name, tuple(rest[:-1].split("]["))


def _mapping(node: object, what: str) -> Mapping[str, object]:
    if not isinstance(node, Mapping):
        raise InvalidInput(f"reading an AuthorizationPolicy: {what} is {shown(node)}, not a mapping")
    return node


def _list(node: Mapping[str, object], key: str) -> Sequence[object]:
    found = node.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise InvalidInput(f"reading an AuthorizationPolicy: {key} is {shown(found)}, not a list")
    return found


def _texts(node: object, what: str) -> Sequence[str]:
    if not isinstance(node, list) or not all(isinstance(one, str) and one for one in node):
        raise InvalidInput(
            f"reading an AuthorizationPolicy: {what} is {shown(node)}, a list of texts is expected"
        )
    return node


def _known(node: Mapping[str, object], fields: tuple[str, ...]) -> None:
    for field in node:
        if field not in fields:
            raise Undecidable(f"reading an AuthorizationPolicy: field {shown(field)} isn't modelled")
