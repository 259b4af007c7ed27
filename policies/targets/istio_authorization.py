"""AuthorizationPolicies of one workload: CUSTOM, DENY and ALLOW, for any kind of Istio proxy.

A governed workload always gets an ALLOW policy, without rules if nobody may call (no ALLOW policy at all
would admit everyone). Every rule carries ports: a DENY without them would widen on TCP, and a port that the
inventory doesn't list is refused. Policies are few: rules are scanned in order by the proxy.

What can't be said exactly narrows the ALLOW or widens the DENY, or, where a provider is named and no token
matters (ext_authz runs before tokens are checked), the agent decides the whole workload policy.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from policies.formula import SOURCE_ID, Attribute, Origin, Question
from policies.inventory import Inventory, Workload
from policies.targets.clause import Clause, Group
from policies.targets.clauses import ClauseBuilder, Unsayable
from policies.targets.emission import Emission, Options, refusal, shared_claim_shapes, uses_claims
from policies.targets.istio_rules import Rule, Spelled, build_rules, spell_clause
from policies.targets.istio_values import Bound, Speaker
from policies.targets.manifest import Manifest, manifest
from policies.targets.shortfall import Shortfall, Step

API: Final = "security.istio.io/v1"
MAX_RULES: Final = 512
MAX_SOURCES: Final = 512
MAX_OBJECT_CHARACTERS: Final = 900_000
"""Kubernetes stores objects up to about 1.5 MiB; annotations and managed fields want room."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One attachment of policies: what they select, which ports they guard, what the proxy there can see."""

    target: str
    selection: Mapping[str, object]
    groups: tuple[Group, ...]
    visible: Callable[[Attribute], bool]
    ports: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    custom: bool = True


@dataclass(slots=True)
class _Parts:
    allow: list[tuple[Spelled, frozenset[Origin]]] = field(default_factory=list)
    deny: list[tuple[Spelled, frozenset[Origin]]] = field(default_factory=list)
    custom: list[tuple[Spelled, frozenset[Origin]]] = field(default_factory=list)
    shortfalls: list[Shortfall] = field(default_factory=list)


def authorization_policies(
    question: Question, workload: Workload, inventory: Inventory, scope: Scope, bundle: str, options: Options
) -> Emission:
    """The policies of one scope; a refusal leaves no objects."""
    builder = ClauseBuilder(inventory, workload)
    claims = bool(inventory.issuers)
    custom = bool(options.custom_provider) and scope.custom and not uses_claims(question)
    parts = _Parts()
    for group in scope.groups:
        try:
            allow = builder.clauses(question.allow, group)
            deny = builder.clauses(question.deny, group)
        except Unsayable as error:
            return refusal(scope.target, workload, str(error))
        speaker = Speaker(
            inventory.mesh,
            lambda place: scope.visible(place) and (claims or place.name != "jwt.claims"),
            shared_claim_shapes(inventory),
            builder.reasons,
            scope.ports,
        )
        for clause in allow:
            _add(parts, clause, True, speaker, scope, workload, options, custom and group.http)
        for clause in deny:
            _add(parts, clause, False, speaker, scope, workload, options, custom and group.http)
    shortfalls = tuple(dict.fromkeys(parts.shortfalls))
    if any(one.step is Step.REFUSED for one in shortfalls):
        return Emission((), shortfalls)
    manifests: list[Manifest] = []
    for part, action, spelled in (("custom", "CUSTOM", parts.custom), ("deny", "DENY", parts.deny)):
        if spelled:
            provider = {"provider": {"name": options.custom_provider}} if action == "CUSTOM" else {}
            manifests += _policies(build_rules(spelled), action, provider, workload, scope, bundle, part)
    manifests += _policies(build_rules(parts.allow), "ALLOW", {}, workload, scope, bundle, "allow")
    return Emission(tuple(manifests), shortfalls)


def _add(
    parts: _Parts,
    clause: Clause,
    allowing: bool,
    speaker: Speaker,
    scope: Scope,
    workload: Workload,
    options: Options,
    custom: bool,
) -> None:
    """Put one clause where it belongs, down the ladder as far as needed."""
    sound = Bound.INNER if allowing else Bound.OUTER
    into = parts.allow if allowing else parts.deny
    spelled, reasons = spell_clause(clause, speaker, sound)
    if not reasons:
        if spelled is not None:
            into.append((spelled, clause.origins))
        return
    step = Step.REFUSED if options.exact_only else Step.CUSTOM if custom else Step.NARROWED
    reason = "; ".join(dict.fromkeys(reasons))
    parts.shortfalls.append(
        Shortfall(scope.target, workload.key, step, reason, tuple(sorted(clause.origins)))
    )
    if step is Step.CUSTOM:
        # The agent decides within the scope; outside it nothing of this clause can hold. So the ALLOW may
        # err wide and the DENY narrow here, and the agent's answer makes the conjunction exact.
        spelled, _ = spell_clause(clause, speaker, sound.turned())
        unscoped = [place for place, _ in clause.constraints if _beyond_custom(place)]
        ask, _ = spell_clause(clause, speaker, Bound.OUTER, unscoped)
        if ask is not None:
            parts.custom.append((ask, clause.origins))
    if spelled is not None:
        into.append((spelled, clause.origins))


def _beyond_custom(place: Attribute) -> bool:
    """CUSTOM can't be scoped by caller or token (rejected by Istio's webhook)."""
    return place == SOURCE_ID or place.name == "jwt.claims"


def _policies(
    rules: Sequence[Rule],
    action: str,
    provider: Mapping[str, object],
    workload: Workload,
    scope: Scope,
    bundle: str,
    part: str,
) -> list[Manifest]:
    """As few policies as the limits allow: rules, sources of a rule, characters of an object."""
    found = []
    for chunk in _chunks([smaller for rule in rules for smaller in _split(rule)]) or [[]]:
        spec: dict[str, object] = {**scope.selection, "action": action, **provider}
        if chunk:
            spec["rules"] = [rule.document for rule in chunk]
        origins = tuple(rule.origins for rule in chunk)
        body = {"spec": spec}
        place = (workload.namespace, workload.name, scope.target, part, bundle)
        found.append(manifest(API, "AuthorizationPolicy", *place, body, origins))
    return found


def _split(rule: Rule) -> list[Rule]:
    """A rule within the limits on sources and on the size of its lists of callers."""
    sources = rule.document.get("from")
    if not isinstance(sources, list):
        return [rule]
    smaller: list[object] = []
    for source in sources:
        fields = source["source"]
        parts = _portions(fields.get("principals", []))
        if len(parts) <= 1:
            smaller.append(source)
        else:
            smaller += [{"source": fields | {"principals": part}} for part in parts]
    per_rule = max(1, MAX_SOURCES if len(smaller) == len(sources) else 1)
    pieces = [smaller[at : at + per_rule] for at in range(0, len(smaller), per_rule)]
    return [Rule({**rule.document, "from": piece}, rule.origins) for piece in pieces]


def _portions(callers: Sequence[str]) -> list[list[str]]:
    """A list of callers in pieces that fit an object with room for the rest of the rule."""
    found: list[list[str]] = []
    size = 0
    for caller in callers:
        size += len(caller) + 12
        if not found or size > MAX_OBJECT_CHARACTERS // 2:
            found.append([])
            size = len(caller) + 12
        found[-1].append(caller)
    return found


def _chunks(rules: Sequence[Rule]) -> list[list[Rule]]:
    found: list[list[Rule]] = []
    size = 0
    for rule in rules:
        length = len(json.dumps(rule.document)) * 3 // 2  # YAML's indentation included
        if not found or len(found[-1]) >= MAX_RULES or size + length > MAX_OBJECT_CHARACTERS:
            found.append([])
            size = 0
        found[-1].append(rule)
        size += length
    return found


def selector(workload: Workload, inventory: Inventory) -> Mapping[str, object] | str:
    """A selector that takes just this workload; a sentence where its labels take others too."""
    taken = [one.key for one in inventory.selected_by(workload.namespace, workload.labels)]
    others = [key for key in taken if key != workload.key]
    if others:
        shown = ", ".join(others[:3])
        return (
            f"the labels of {workload.key} select {shown} as well: policies for one would admit to the other"
        )
    return {"selector": {"matchLabels": dict(workload.labels)}}
