"""What Istio's validating webhook refuses: an object that never gets into the cluster guards nothing.

The checks are those on AuthorizationPolicy that our output could run into, read from the manifest alone. A
policy that would be refused makes its workload's proof undecided.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

Node = Mapping[str, object]

MAX_RULES: Final = 512
MAX_SOURCES: Final = 512
MAX_TARGET_REFS: Final = 16
MAX_SERVICE_ACCOUNTS: Final = 16
_BLOCKS: Final = ("ipBlocks", "remoteIpBlocks")
_BY_CALLER: Final = ("principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains")
_SOURCE: Final = (*_BY_CALLER, *_BLOCKS)
_OPERATION: Final = ("hosts", "ports", "methods", "paths")
_CALLER_KEYS: Final = (
    "source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal", "request.auth.",
)  # fmt: skip
_GONE_KEYS: Final = ("destination.labels", "destination.name", "destination.user", "destination.namespace")


def refusals(document: Node) -> Iterator[str]:
    """Why the webhook would refuse an AuthorizationPolicy; nothing where it wouldn't."""
    spec = _mapping(document.get("spec"))
    action = spec.get("action", "ALLOW")
    rules = _list(spec.get("rules"))
    if action in ("DENY", "CUSTOM") and not rules:
        yield f"{action} without rules"
    if ("provider" in spec) != (action == "CUSTOM"):
        yield "a provider belongs to CUSTOM, and to nothing else"
    if len(rules) > MAX_RULES:
        yield f"{len(rules)} rules of at most {MAX_RULES}"
    if "selector" in spec and ("targetRef" in spec or "targetRefs" in spec):
        yield "a selector and targetRefs at once"
    if len(_list(spec.get("targetRefs"))) > MAX_TARGET_REFS:
        yield f"more than {MAX_TARGET_REFS} targetRefs"
    annotations = _mapping(_mapping(document.get("metadata")).get("annotations"))
    if "istio.io/dry-run" in annotations and action not in ("ALLOW", "DENY"):
        yield f"a dry run of {action}"
    for rule in rules:
        yield from _rule(_mapping(rule), action == "CUSTOM")


def _rule(rule: Node, custom: bool) -> Iterator[str]:
    for key, inner, known in (("from", "source", _SOURCE), ("to", "operation", _OPERATION)):
        if key not in rule:
            continue
        entries = _list(rule[key])
        if not entries:
            yield f"an empty `{key}`"
        if len(entries) > MAX_SOURCES:
            yield f"{len(entries)} entries in `{key}` of at most {MAX_SOURCES}"
        for entry in entries:
            fields = _mapping(_mapping(entry).get(inner))
            if not fields:
                yield f"an empty {inner}"
            for name, values in fields.items():
                yield from _field(name, _list(values), known, custom)
            if {"serviceAccounts", "notServiceAccounts"} & fields.keys() and {
                "principals", "notPrincipals", "namespaces", "notNamespaces"
            } & fields.keys():  # fmt: skip
                yield "serviceAccounts beside principals or namespaces"
    for condition in _list(rule.get("when")):
        yield from _condition(_mapping(condition), custom)


def _field(name: str, values: Sequence[object], known: Sequence[str], custom: bool) -> Iterator[str]:
    plain = name[3].lower() + name[4:] if name.startswith("not") and len(name) > 3 else name
    if plain not in known:
        yield f"the unknown field {name}"
    if not values or not all(isinstance(one, str) and one for one in values):
        yield f"an empty value in {name}"
    if custom and plain in _BY_CALLER:
        yield f"CUSTOM scoped by {name}"
    for value in map(str, values):
        if plain == "ports" and not (value.isdecimal() and int(value) <= 65535):
            yield f"the port {value}"
        if plain in _BLOCKS and not _is_block(value):
            yield f"the address block {value}"
        if plain == "paths" and ("{*}" in value or "{**}" in value):
            yield from _template(value)
        if plain == "serviceAccounts" and ("*" in value or value.count("/") > 1 or len(value) > 320):
            yield f"the service account {value}"
    if plain == "serviceAccounts" and len(values) > MAX_SERVICE_ACCOUNTS:
        yield f"more than {MAX_SERVICE_ACCOUNTS} service accounts"


def _template(value: str) -> Iterator[str]:
    """`{*}` and `{**}` are whole segments, `{**}` comes last, and no other star or brace is there."""
    segments = value.split("/")[1:] if value.startswith("/") else []
    if not segments:
        yield f"the path template {value} that isn't absolute"
    for index, segment in enumerate(segments):
        if segment == "{**}" and "{" in "".join(segments[index + 1 :]):
            yield f"the path template {value}: a wildcard after {{**}}"
        if segment not in ("{*}", "{**}") and any(one in segment for one in "{}*"):
            yield f"the path template {value}: a wildcard that isn't a whole segment"


def _condition(condition: Node, custom: bool) -> Iterator[str]:
    key = str(condition.get("key", ""))
    values = [*_list(condition.get("values")), *_list(condition.get("notValues"))]
    if not key or not values:
        yield f"a condition without key or values ({key})"
    if not all(isinstance(one, str) and one for one in values):
        yield f"an empty value for {key}"
    if key.startswith(_GONE_KEYS):
        yield f"the condition key {key}, which is gone"
    if custom and key.startswith(_CALLER_KEYS):
        yield f"CUSTOM scoped by {key}"
    for value in map(str, values):
        if key in ("source.ip", "remote.ip", "destination.ip") and not _is_block(value):
            yield f"the address block {value}"
        if key == "destination.port" and not (value.isdecimal() and int(value) <= 65535):
            yield f"the port {value}"


def _is_block(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _mapping(node: object) -> Node:
    return node if isinstance(node, Mapping) else {}


def _list(node: object) -> Sequence[object]:
    return node if isinstance(node, list) else []
