"""Clauses as AuthorizationPolicy rules: `from` × `to` × `when`, shared parts written once.

A clause becomes a source, an operation and conditions. Rules with the same source and conditions share their
operations, rules with the same operations and conditions their sources. Each rule keeps the Rego lines of
the clauses that went into it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    Origin,
)
from policies.targets.clause import Clause
from policies.targets.istio_values import Bound, Speaker
from policies.targets.patterns import Constraint

Fields = tuple[tuple[str, tuple[str, ...]], ...]
"""Field name and sorted values, in the order in which they are written."""

_SOURCE: Final = {SOURCE_ID: "principals", SOURCE_IP: "ipBlocks"}
_OPERATION: Final = {HOST: "hosts", PORT: "ports", METHOD: "methods", PATH: "paths"}
_FIELD_ORDER: Final = ("principals", "notPrincipals", "ipBlocks", "notIpBlocks", "hosts", "notHosts", "ports",
                       "methods", "notMethods", "paths", "notPaths")  # fmt: skip


@dataclass(slots=True)
class Spelled:
    """A clause in Istio's words; `reasons` say why it isn't exact."""

    source: Fields = ()
    operation: Fields = ()
    when: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule with its lines."""

    document: Mapping[str, object]
    origins: tuple[Origin, ...]


class _Empty(Exception):
    """Nothing is left of the clause within the bound."""


def spell_clause(
    clause: Clause, speaker: Speaker, bound: Bound, leave_out: Iterable[Attribute] = ()
) -> tuple[Spelled | None, list[str]]:
    """The clause within a bound, and why it isn't exact (no reasons: it is); None where nothing is left.

    Attributes of `leave_out` are treated as unconstrained, which is right for OUTER only.
    """
    spelled = Spelled()
    parts: dict[str, dict[str, tuple[str, ...]]] = {"source": {}, "operation": {}}
    when: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
    skipped = frozenset(leave_out)
    try:
        for place, constraint in clause.constraints:
            if place not in skipped:
                _spell_constraint(place, constraint, speaker, bound, parts, when, spelled.reasons)
    except _Empty:
        return None, spelled.reasons
    spelled.source = _ordered(parts["source"])
    spelled.operation = _ordered(parts["operation"])
    spelled.when = tuple(sorted(when))
    return spelled, spelled.reasons


def _spell_constraint(
    place: Attribute,
    constraint: Constraint,
    speaker: Speaker,
    bound: Bound,
    parts: dict[str, dict[str, tuple[str, ...]]],
    when: list[tuple[str, tuple[str, ...], tuple[str, ...]]],
    reasons: list[str],
) -> None:
    kind = "source" if place in _SOURCE else "operation"
    name = (_SOURCE | _OPERATION).get(place, "")
    extra: list[tuple[str, ...]] = []
    for union in constraint.unions:
        found = speaker.spell(place, union, bound)
        reasons += found.reasons
        if found.everything:
            continue
        if not found.values:
            raise _Empty
        values = tuple(sorted(found.values, key=_value_order))
        if name and name not in parts[kind]:
            parts[kind][name] = values
        else:
            extra.append(values)
    excluded: tuple[str, ...] = ()
    if constraint.excluded:
        found = speaker.spell(place, constraint.excluded, bound.turned())
        reasons += found.reasons
        if found.everything:
            raise _Empty
        excluded = tuple(sorted(found.values, key=_value_order))
    key = _condition_key(place)
    if name and excluded:
        parts[kind]["not" + name[0].upper() + name[1:]] = excluded
    elif excluded and key:
        when.append((key, extra.pop(0) if extra else (), excluded))
    for values in extra:
        if key:
            when.append((key, values, ()))
        else:
            reasons.append(f"two patterns on {place} at once")
            if bound is Bound.INNER:
                raise _Empty


def _condition_key(place: Attribute) -> str:
    """The `when` key of an attribute; paths, methods and hosts have none that means the same."""
    if place.name == "request.headers":
        return f"request.headers[{place.path[0]}]"
    if place.name == "jwt.claims":
        return "request.auth.claims" + "".join(f"[{step}]" for step in place.path)
    fixed = {
        SOURCE_ID: "source.principal",
        SOURCE_IP: "source.ip",
        DESTINATION_IP: "destination.ip",
        PORT: "destination.port",
        SNI: "connection.sni",
    }
    return fixed.get(place, "")


def _value_order(value: str) -> tuple[int, int | str]:
    return (0, int(value)) if value.isdecimal() and len(value) < 7 else (1, value)


def _ordered(fields: Mapping[str, tuple[str, ...]]) -> Fields:
    return tuple((name, fields[name]) for name in _FIELD_ORDER if name in fields)


def build_rules(spelled: Iterable[tuple[Spelled, frozenset[Origin]]]) -> list[Rule]:
    """Rules in stable order, equal parts shared."""
    by_source: dict[tuple[object, Fields, bool], tuple[dict[Fields, None], set[Origin]]] = {}
    for one, origins in spelled:
        # A TCP chain drops a whole ALLOW rule for one HTTP field: what it can read stays in rules of its own.
        key = (one.when, one.source, _reads_requests(one))
        operations, lines = by_source.setdefault(key, ({}, set()))
        operations[one.operation] = None
        lines |= origins
    by_operations: dict[tuple[object, tuple[Fields, ...]], tuple[dict[Fields, None], set[Origin]]] = {}
    for (conditions, source, _), (operations, lines) in by_source.items():
        shared = (conditions, tuple(_joined(operations, "ports")))
        sources, all_lines = by_operations.setdefault(shared, ({}, set()))
        sources[source] = None
        all_lines |= lines
    rules = []
    for (conditions, operation_list), (sources, lines) in sorted(by_operations.items(), key=repr):
        document: dict[str, object] = {}
        if () not in sources:
            document["from"] = [{"source": _document(one)} for one in _joined(sources, "principals")]
        if () not in operation_list:
            document["to"] = [{"operation": _document(one)} for one in operation_list]
        if conditions:
            document["when"] = [_condition(*one) for one in conditions]  # type: ignore[attr-defined]
        rules.append(Rule(document, tuple(sorted(lines))))
    return rules


def _reads_requests(one: Spelled) -> bool:
    fields = {name.removeprefix("not").lower() for name, _ in one.operation}
    return bool(fields & {"hosts", "methods", "paths"}) or any(
        key.startswith("request.") for key, _, _ in one.when
    )


def _joined(sources: Iterable[Fields], name: str) -> list[Fields]:
    """Sources, or operations, that differ in one positive list only, as one."""
    groups: dict[Fields, set[str]] = {}
    kept: list[Fields] = []
    for source in sources:
        found = dict(source).get(name)
        if found is None:
            kept.append(source)
        else:
            groups.setdefault(tuple(item for item in source if item[0] != name), set()).update(found)
    for rest, values in groups.items():
        chosen = ("*",) if "*" in values else tuple(sorted(values, key=_value_order))
        kept.append(_ordered(dict(rest) | {name: chosen}))
    return sorted(kept)


def _document(fields: Fields) -> dict[str, list[str]]:
    return {name: list(values) for name, values in fields}


def _condition(key: str, values: tuple[str, ...], excluded: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {"key": key}
    if values:
        found["values"] = list(values)
    if excluded:
        found["notValues"] = list(excluded)
    return found
