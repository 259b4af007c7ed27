"""What an Envoy RBAC filter means (envoy.config.rbac.v3), HTTP or network, from its typed config.

Field names may be in either of protobuf's JSON spellings. Independent of the emitters; what isn't modelled
raises Undecidable.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from control_plane.core.errors import InvalidInput, shown
from policies.proof import space as sp
from policies.proof.dimensions import FREE, Dimensions, name_ends, non_empty
from policies.proof.istio_policy import PATH_LITERAL
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

JWT_FILTER = "envoy.filters.http.jwt_authn"
Node = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RbacReader:
    """Reads RBAC filters into one space; without `http` no request is visible and headers never match.

    Without `claims` no filter before fills in what tokens say, and metadata about them never matches.
    """

    space: sp.Space
    dimensions: Dimensions
    http: bool = True
    claims: bool = True

    def filters(self, filters: object) -> sp.Literal:
        """All filters of a chain: each must let the request pass."""
        return self.space.all_of([self.filter(_mapping(one)) for one in _list(filters)])

    def filter(self, document: Node) -> sp.Literal:
        """One filter, given as its typed config or wrapped in `name` and `typed_config`."""
        document = _mapping(snake_case(document))
        config = _mapping(document.get("typed_config", document))
        rules = config.get("rules")
        if rules is None:
            return sp.TRUE
        rules = _mapping(rules)
        action = rules.get("action", "ALLOW")
        if action not in ("ALLOW", "DENY"):
            raise Undecidable(f"reading an RBAC filter: action {shown(action)} isn't modelled")
        policies = _mapping(rules.get("policies", {}))
        matched = self.space.any_of([self.policy(_mapping(one)) for one in policies.values()])
        return matched if action == "ALLOW" else matched ^ 1

    def policy(self, policy: Node) -> sp.Literal:
        """Some permission and some principal match."""
        _known(policy, ("permissions", "principals"))
        permissions = [self._rule(_mapping(one)) for one in _list(policy.get("permissions"))]
        principals = [self._rule(_mapping(one)) for one in _list(policy.get("principals"))]
        return self.space.all_of([self.space.any_of(permissions), self.space.one_of(principals)])

    def _rule(self, node: Node) -> sp.Literal:
        """A permission or a principal: both are one-ofs over the same kinds of questions."""
        if len(node) != 1:
            raise InvalidInput(f"reading an RBAC rule: {len(node)} kinds at once in {shown(dict(node))}")
        ((kind, value),) = node.items()
        space, dimensions = self.space, self.dimensions
        if kind == "any":
            return sp.TRUE
        if kind in ("and_rules", "and_ids", "or_rules", "or_ids"):
            inner = _mapping(value)
            parts = [self._rule(_mapping(one)) for one in _list(inner.get("rules", inner.get("ids")))]
            return space.all_of(parts) if kind.startswith("and") else space.one_of(parts)
        if kind in ("not_rule", "not_id"):
            return self._rule(_mapping(value)) ^ 1
        networks = {
            "direct_remote_ip": dimensions.source_ip,
            "remote_ip": dimensions.remote_ip,
            "destination_ip": dimensions.destination_ip,
        }
        if kind in networks:
            return self._network(networks[kind], _mapping(value))
        if kind == "destination_port" and isinstance(value, int):
            return space.test(Interval(dimensions.port, ((value, value),)))
        if kind == "destination_port_range":
            span = _mapping(value)
            low, high = span.get("start"), span.get("end")
            if not isinstance(low, int) or not isinstance(high, int):
                raise InvalidInput("reading an RBAC rule: a port range has whole numbers `start` and `end`")
            return space.test(Interval(dimensions.port, ((low, high - 1),)))
        if kind == "authenticated":
            return self._authenticated(_mapping(value))
        if kind == "requested_server_name":
            return self._server_name(_mapping(value))
        if kind == "metadata":
            return self._metadata(_mapping(value))
        if kind == "sourced_metadata":
            node = _mapping(value)
            if node.get("metadata_source", "DYNAMIC") != "DYNAMIC":
                raise Undecidable("reading an RBAC rule: metadata that isn't dynamic isn't modelled")
            return self._metadata(_mapping(node.get("metadata_matcher")))
        if kind in ("header", "url_path", "uri_template"):
            return self._http_rule(kind, _mapping(value)) if self.http else sp.FALSE
        raise Undecidable(f"reading an RBAC rule: {shown(kind)} isn't modelled")

    def _http_rule(self, kind: str, node: Node) -> sp.Literal:
        path = self.dimensions.path
        if kind == "header":
            return self._header(node)
        if kind == "url_path":
            return self._string(path, _mapping(node.get("path")))
        template = _mapping(node.get("typed_config")).get("path_template")
        if not isinstance(template, str):
            raise InvalidInput("reading an RBAC rule: a URI template has a `path_template`")
        words = {"*": f"{PATH_LITERAL}+", "**": f"(?:{PATH_LITERAL}|/)*"}
        parts = [words.get(part, quote(part)) for part in template.split("/")]
        return self.space.test(Matches(path, "/".join(parts)))

    def _authenticated(self, node: Node) -> sp.Literal:
        identity = self.dimensions.identity
        if not node:
            return self.space.test(Probe(identity))
        _known(node, ("principal_name",))
        return self._string(identity, _mapping(node["principal_name"]))

    def _server_name(self, node: Node) -> sp.Literal:
        """Envoy gives its matcher an empty text where the client sent no server name.

        A name that is sent but empty counts as none there too.
        """
        sni = self.dimensions.sni
        matched = self._string(sni, node)
        takes_empty = _string_probe(replace(sni, domain=FREE), node).holds("")
        return self.space.any_of([matched, self.space.test(Probe(sni)) ^ 1]) if takes_empty else matched

    def _header(self, node: Node) -> sp.Literal:
        name = str(node.get("name", "")).lower()
        _known(node, ("name", "string_match", "present_match", "invert_match"))
        if name == ":path" or (name.startswith(":") and name not in (":method", ":authority")):
            raise Undecidable(f"reading an RBAC rule: header {shown(name)} isn't modelled")
        dimensions = self.dimensions
        fixed = {":method": dimensions.method, ":authority": dimensions.host}
        dimension = fixed.get(name) or dimensions.header(name)
        if "string_match" in node:
            matcher = _mapping(node["string_match"])
            if name == ":authority" and matcher.get("ignore_case") is not True:
                raise Undecidable("reading an RBAC rule: :authority without ignore_case isn't modelled")
            found = self._string(dimension, matcher)
        elif node.get("present_match") is True:
            found = self.space.test(Probe(dimension))
        else:
            raise Undecidable("reading an RBAC rule: a header matcher without string_match or present_match")
        return found ^ 1 if node.get("invert_match") else found

    def _metadata(self, node: Node) -> sp.Literal:
        if node.get("invert"):
            raise Undecidable("reading an RBAC rule: inverted metadata isn't modelled")
        steps = [str(_mapping(one).get("key")) for one in _list(node.get("path"))]
        if node.get("filter") == JWT_FILTER and not self.claims:
            return sp.FALSE
        if node.get("filter") == JWT_FILTER:
            if steps[:1] != ["payload"] or len(steps) < 2:
                raise Undecidable(f"reading an RBAC rule: metadata path {shown(steps)} isn't modelled")
            return self._value(
                self.dimensions.claim(*steps[1:]), _mapping(node.get("value")), lambda probe: probe
            )
        place = self.dimensions.metadata(str(node.get("filter")), *steps)
        return self._value(place, _mapping(node.get("value")), lambda probe: probe)

    def _value(self, dimension: Dimension, node: Node, wrap: Callable[[Probe], Probe]) -> sp.Literal:
        """A ValueMatcher: a text, a list with a matching element, or any of several."""
        if len(node) != 1:
            raise InvalidInput("reading an RBAC rule: a value matcher has one kind")
        ((kind, value),) = node.items()
        if kind == "string_match":
            return self.space.test(wrap(_string_probe(dimension, _mapping(value))))
        if kind == "or_match":
            parts = _list(_mapping(value).get("value_matchers"))
            return self.space.one_of([self._value(dimension, _mapping(one), wrap) for one in parts])
        if kind == "list_match":
            inner = _mapping(_mapping(value).get("one_of"))
            return self._value(dimension, inner, lambda probe: Element(dimension, probe))
        if kind == "present_match" and value is True:
            return self.space.test(Probe(dimension))
        raise Undecidable(f"reading an RBAC rule: value matcher {shown(kind)} isn't modelled")

    def _network(self, dimension: Dimension, node: Node) -> sp.Literal:
        text = f"{node.get('address_prefix')}/{node.get('prefix_len', 0)}"
        try:
            return self.space.test(Interval(dimension, (network_span(text),)))
        except ValueError as error:
            raise InvalidInput(f"reading an RBAC rule: network {shown(text)}: {error}") from error

    def _string(self, dimension: Dimension, node: Node) -> sp.Literal:
        return self.space.test(_string_probe(dimension, node))


def _string_probe(dimension: Dimension, node: Node) -> Probe:
    """A StringMatcher; with ignore_case the dimension holds lower case only, so constants are lowered."""
    fold = node.get("ignore_case") is True
    if fold and dimension.name not in ("host", "sni"):
        raise Undecidable(f"reading an RBAC rule: ignore_case on {dimension.name} isn't modelled")
    kinds = [kind for kind in node if kind != "ignore_case"]
    if len(kinds) != 1:
        raise InvalidInput("reading an RBAC rule: a string matcher has one kind")
    value = node[kinds[0]]
    if kinds[0] == "safe_regex":
        expression = str(_mapping(value).get("regex"))
        if expression == ".+":
            return non_empty(dimension)
        tail = re.fullmatch(r"spiffe://\.\*([A-Za-z0-9/_-]*)", expression)
        if dimension.name == "identity" and dimension.domain != FREE and tail:
            return name_ends(dimension, tail[1])
        return Matches(dimension, expression)
    if not isinstance(value, str):
        raise InvalidInput(f"reading an RBAC rule: {shown(value)} came, a text is expected")
    if not value and kinds[0] in ("prefix", "suffix", "contains"):
        raise InvalidInput(f"reading an RBAC rule: Envoy refuses an empty {kinds[0]}")
    text = value.lower() if fold else value
    if kinds[0] == "exact":
        return Within(dimension, frozenset({text}))
    if kinds[0] == "prefix":
        return Starts(dimension, text)
    if kinds[0] == "suffix":
        return Ends(dimension, text)
    if kinds[0] == "contains":
        return Matches(dimension, f"(?s:.)*{quote(text)}(?s:.)*")
    raise Undecidable(f"reading an RBAC rule: string matcher {shown(kinds[0])} isn't modelled")


def snake_case(node: object) -> object:
    """Field names in protobuf's own spelling; the keys of `policies` are names, not fields."""
    if isinstance(node, Mapping):
        return {
            (found := re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1].lower(), key)): (
                {name: snake_case(one) for name, one in value.items()}
                if found == "policies" and isinstance(value, Mapping)
                else snake_case(value)
            )
            for key, value in node.items()
        }
    return [snake_case(one) for one in node] if isinstance(node, list) else node


def _mapping(node: object) -> Node:
    if not isinstance(node, Mapping):
        raise InvalidInput(f"reading an RBAC filter: {shown(node)} came, a mapping is expected")
    return node


def _list(node: object) -> Sequence[object]:
    if not isinstance(node, list):
        raise InvalidInput(f"reading an RBAC filter: {shown(node)} came, a list is expected")
    return node


def _known(node: Node, fields: tuple[str, ...]) -> None:
    for field in node:
        if field not in fields:
            raise Undecidable(f"reading an RBAC filter: field {shown(field)} isn't modelled")
