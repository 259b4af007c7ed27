"""The target `envoy-rbac`: RBAC filters for an Envoy without a mesh, as typed config.

One file a workload holds the filters of its HTTP and its TCP listeners, DENY before ALLOW. Envoy's matchers
nest and know regular expressions, so that everything but an opaque condition is said exactly. Callers of a
clause are one principal, operations one permission, and equal parts are shared as in the Istio targets.
"""

import ipaddress
import itertools
from collections.abc import Mapping
from typing import Final

from policies.formula import (
    DESTINATION_IP,
    HOST,
    METHOD,
    PATH,
    PORT,
    SNI,
    SOURCE_ID,
    SOURCE_IP,
    Attribute,
    Decision,
    Origin,
    Question,
)
from policies.formula.glob import glob_expression
from policies.inventory import Inventory, Workload
from policies.targets.clause import Clause, Group, port_groups
from policies.targets.clauses import ClauseBuilder, Unsayable
from policies.targets.emission import Emission, Options, refusal, uses_claims
from policies.targets.manifest import Manifest, manifest
from policies.targets.patterns import PRESENT, Constraint, Pattern
from policies.targets.shortfall import Shortfall, Step

NAME: Final = "envoy-rbac"
_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_TCP: Final = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
_TOKENS: Final = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
_ANYWHERE: Final = (str(ipaddress.IPv4Address(0)), str(ipaddress.IPv6Address(0)))
_FEW: Final = 24  # names that are tried one after the other
_DEPTH: Final = 12  # of a tree of names; protobuf's readers stop at a hundred levels
_PERMISSIONS: Final = frozenset({PORT, METHOD, PATH, HOST, SNI, DESTINATION_IP})

Node = Mapping[str, object]


class _Unsaid(Exception):
    """A pattern that Envoy has no matcher for; the argument says which."""


def emit_workload(
    question: Question, workload: Workload, inventory: Inventory, bundle: str, options: Options
) -> Emission:
    """The filters of one workload."""
    tokens = uses_claims(question)
    if tokens and not inventory.issuers:
        return refusal(NAME, workload, "claims are asked for and the inventory names no issuer of tokens")
    builder = ClauseBuilder(inventory, workload)
    shortfalls: list[Shortfall] = []
    filters: dict[str, list[Node]] = {}
    origins: list[tuple[Origin, ...]] = []
    groups = {group.http: group for group in port_groups(workload)}
    for http in (True, False):
        group = groups.get(http, Group(http, ()))
        chain: list[Node] = [_token_filter(inventory)] if http and tokens else []
        for action, decision in (("DENY", question.deny), ("ALLOW", question.allow)):
            try:
                policies = _policies(decision, group, action, builder, workload, options, shortfalls, origins)
            except Unsayable as error:
                return refusal(NAME, workload, str(error))
            if policies or action == "ALLOW":
                chain.append(_filter(http, action, policies))
        filters["http" if http else "tcp"] = chain
    if any(one.step is Step.REFUSED for one in shortfalls):
        return Emission((), tuple(shortfalls))
    body = {"workload": workload.key, **filters}
    place = (workload.namespace, workload.name, NAME, "rbac", bundle)
    document: Manifest = manifest("gatehouse.dev/v1", "EnvoyRbac", *place, body, origins)
    return Emission((document,), tuple(dict.fromkeys(shortfalls)))


def _token_filter(inventory: Inventory) -> Node:
    """Checks tokens and fills in claims; a request without a token passes, with an invalid one it doesn't.

    Keys that are fetched come through the cluster `jwks-<issuer name>`, which the listener's owner provides.
    """
    providers: dict[str, Node] = {}
    for issuer in inventory.issuers:
        uri = {"uri": issuer.jwks_uri, "cluster": f"jwks-{issuer.name}", "timeout": "5s"}
        keys = (
            {"remote_jwks": {"http_uri": uri}}
            if issuer.jwks_uri
            else {"local_jwks": {"inline_string": issuer.jwks}}
        )
        audiences = {"audiences": list(issuer.audiences)} if issuer.audiences else {}
        common = {"forward": True, "payload_in_metadata": "payload"}
        providers[issuer.name] = {"issuer": issuer.issuer, **audiences, **keys, **common}
    choices: list[Node] = [{"provider_name": name} for name in providers]
    required = {"requires_any": {"requirements": [*choices, {"allow_missing": {}}]}}
    rules = [{"match": {"prefix": "/"}, "requires": required}]
    config = {"@type": _TOKENS, "providers": providers, "rules": rules}
    return {"name": _JWT_FILTER, "typed_config": config}


def config(http: bool, action: str, policies: Node) -> Node:
    """The typed config of an RBAC filter."""
    found: dict[str, object] = {
        "@type": _HTTP if http else _TCP,
        "rules": {"action": action, "policies": policies},
    }
    return found if http else found | {"stat_prefix": f"gatehouse_{action.lower()}"}


def _filter(http: bool, action: str, policies: Node) -> Node:
    kind = "http" if http else "network"
    return {"name": f"envoy.filters.{kind}.rbac", "typed_config": config(http, action, policies)}


def _policies(
    decision: Decision,
    group: Group,
    action: str,
    builder: ClauseBuilder,
    workload: Workload,
    options: Options,
    shortfalls: list[Shortfall],
    origins: list[tuple[Origin, ...]],
) -> Node:
    """RBAC policies by name; clauses with the same callers share one policy."""
    by_principal: dict[str, tuple[Node, list[Node], set[Origin]]] = {}
    if not group.ports:
        return {}
    for clause in builder.clauses(decision, group):
        try:
            permission, principal = _said(clause, None)
        except _Unsaid as error:
            step = Step.REFUSED if options.exact_only else Step.NARROWED
            reason = builder.reasons.get(str(error), str(error))
            shortfalls.append(Shortfall(NAME, workload.key, step, reason, tuple(sorted(clause.origins))))
            if action == "ALLOW" or step is Step.REFUSED:
                continue
            permission, principal = _said(clause, "other")
        entry = by_principal.setdefault(repr(principal), (principal, [], set()))
        if permission not in entry[1]:
            entry[1].append(permission)
        entry[2].update(clause.origins)
    found: dict[str, Node] = {}
    for index, key in enumerate(sorted(by_principal)):
        principal, permissions, lines = by_principal[key]
        kind = "http" if group.http else "tcp"
        found[f"{kind}-{action.lower()}-{index:04}"] = {"permissions": permissions, "principals": [principal]}
        origins.append(tuple(sorted(lines)))
    return found


def _said(clause: Clause, leave_out: str | None) -> tuple[Node, Node]:
    """Permission and principal of a clause. `leave_out="other"` widens by what can't be said (a DENY may)."""
    permissions: list[Node] = []
    principals: list[Node] = []
    for place, constraint in clause.constraints:
        into, rule = (permissions, True) if place in _PERMISSIONS else (principals, False)
        into += _constraint(place, constraint, rule, leave_out is not None)
    return _all(permissions, True), _all(principals, False)


def _constraint(place: Attribute, constraint: Constraint, rule: bool, widen: bool) -> list[Node]:
    found = []
    for union in constraint.unions:
        if widen and any(one.kind == "other" for one in union):
            continue
        found.append(_union(place, sorted(union), rule))
    kept = [one for one in sorted(constraint.excluded) if not (widen and one.kind == "other")]
    if kept:
        found.append({"not_rule" if rule else "not_id": _union(place, kept, rule)})
    return found


def _union(place: Attribute, patterns: list[Pattern], rule: bool) -> Node:
    """Any of these patterns."""
    if place == SOURCE_ID and len(patterns) > _FEW and all(one.kind == "exact" for one in patterns):
        return _identities([one.text for one in patterns], _DEPTH)
    return _any([_pattern(place, one) for one in _spanned(place, patterns)], rule)


def _identities(names: list[str], depth: int) -> Node:
    """One of many names, in order, as a tree of their prefixes: Envoy tries matchers one after the other, at
    a fifth of a microsecond each."""
    if len(names) <= _FEW or not depth:
        return _any([_identity("exact", name) for name in names], rule=False)
    # In order, the first and the last name differ first of all.
    pairs = enumerate(zip(names[0], names[-1], strict=False))
    shared = next((place for place, (one, other) in pairs if one != other), len(names[0]))
    branches = []
    for prefix, group in itertools.groupby(names, key=lambda name: name[: shared + 1]):
        members = list(group)
        inner = _identities(members, depth - 1)
        branches.append(
            inner if len(members) == 1 else _all([_identity("prefix", prefix), inner], rule=False)
        )
    return _any(branches, rule=False)


def _identity(kind: str, text: str) -> Node:
    return {"authenticated": {"principal_name": {kind: text}}}


def _spanned(place: Attribute, union: list[Pattern]) -> list[Pattern]:
    return sorted(union, key=lambda one: int(one.text)) if place == PORT else union


def _any(nodes: list[Node], rule: bool) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    return {"or_rules": {"rules": nodes}} if rule else {"or_ids": {"ids": nodes}}


def _all(nodes: list[Node], rule: bool) -> Node:
    if not nodes:
        return {"any": True}
    if len(nodes) == 1:
        return nodes[0]
    return {"and_rules": {"rules": nodes}} if rule else {"and_ids": {"ids": nodes}}


def _pattern(place: Attribute, pattern: Pattern) -> Node:
    if pattern.kind == "other":
        raise _Unsaid(pattern.text)
    if place == PORT:
        return {"destination_port": int(pattern.text)}
    if place in (SOURCE_IP, DESTINATION_IP):
        return _network(place, pattern)
    if place == SOURCE_ID:
        return {"authenticated": {} if pattern == PRESENT else {"principal_name": _string(pattern, False)}}
    if place == PATH:
        return {
            "url_path": {
                "path": {"safe_regex": {"regex": ".+"}} if pattern == PRESENT else _string(pattern, False)
            }
        }
    if place == SNI:
        return _server_name(pattern)
    if place.name == "jwt.claims":
        return _claim(place, pattern)
    names = {METHOD: ":method", HOST: ":authority"}
    header: dict[str, object] = {"name": names[place] if place in names else place.path[0]}
    if pattern == PRESENT:
        return {"header": header | {"present_match": True}}
    return {"header": header | {"string_match": _string(pattern, place == HOST)}}


def _server_name(pattern: Pattern) -> Node:
    """Envoy matches an empty text where there is no server name: what takes one needs presence too."""
    there: Node = {"requested_server_name": {"safe_regex": {"regex": ".+"}}}
    if pattern == PRESENT:
        return there
    found = {"requested_server_name": _string(pattern, True)}
    return {"and_rules": {"rules": [there, found]}} if pattern.matches("") else found


def _string(pattern: Pattern, lowered: bool) -> Node:
    """A StringMatcher. Lowered attributes fold case in Envoy; constants with capitals are gone by now."""
    if pattern.kind == "glob":
        return {"safe_regex": {"regex": glob_expression(pattern.text, pattern.more)}}
    if pattern.kind == "regex":
        return {"safe_regex": {"regex": pattern.text}}
    if pattern.kind in ("prefix", "suffix", "contains") and not pattern.text:
        return {"safe_regex": {"regex": "(?s:.*)"}}  # Envoy refuses an empty one with the whole listener
    fold = {"ignore_case": True} if lowered else {}
    if pattern.kind in ("exact", "prefix", "suffix", "contains"):
        return {pattern.kind: pattern.text, **fold}
    raise _Unsaid(f"{pattern.kind} {pattern.text!r}")


def _network(place: Attribute, pattern: Pattern) -> Node:
    kind = "direct_remote_ip" if place == SOURCE_IP else "destination_ip"
    if pattern == PRESENT:
        blocks = [{kind: {"address_prefix": one, "prefix_len": 0}} for one in _ANYWHERE]
        return {"or_ids": {"ids": blocks}} if place == SOURCE_IP else {"or_rules": {"rules": blocks}}
    address, _, length = pattern.text.partition("/")
    return {kind: {"address_prefix": address, "prefix_len": int(length)}}


def _claim(place: Attribute, pattern: Pattern) -> Node:
    """A claim as dynamic metadata of the token filter; texts and lists are told apart here."""
    if pattern == PRESENT:
        value: Node = {"present_match": True}
    elif pattern.kind == "member":
        value = {"list_match": {"one_of": {"string_match": {"exact": pattern.text}}}}
    else:
        value = {"string_match": _string(pattern, False)}
    path = [{"key": step} for step in ("payload", *place.path)]
    return {"sourced_metadata": {"metadata_matcher": {"filter": _JWT_FILTER, "path": path, "value": value}}}
