"""Rules that hold for no workload of an inventory, whatever the request: a name misspelt, or a contradiction.

Found from what evaluation came to: a rule whose formula is false for every workload gives no decision an
origin. So contradictions are seen through functions, sets and data, as far as formulas simplify. Rules whose
callers don't exist are not found; nor are invariants, which had better never hold.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Set
from typing import Final

from policies.formula import Attribute, Origin
from policies.inventory import Inventory
from policies.language.compiler.compiled import CompiledRule
from policies.language.compiler.graph import branches
from policies.language.diagnostics import Diagnostic, ErrorCode, Severity
from policies.language.syntax.ast import Boolean
from policies.questions import AUTHZ, SEGMENTATION, Questions, destination_document

MAX_TOLD: Final = 20


def unheld_rules(questions: Questions, origins: Iterable[Origin]) -> list[Diagnostic]:
    """A warning for each rule that `origins`, those of all decisions, don't name; MAX_TOLD at most."""
    held = {(origin.file, origin.line) for origin in origins}
    found: list[Diagnostic] = []
    for rule in _rules(questions):
        rows = {(branch.span.source.file, branch.span.row) for branch in branches(rule)}
        if held.isdisjoint(rows):
            found.append(_told(rule, questions))
        if len(found) == MAX_TOLD:
            break
    return found


def _rules(questions: Questions) -> Iterator[CompiledRule]:
    """The rules that could allow or deny something."""
    groups = questions.memory.modules.groups
    for package in (AUTHZ, SEGMENTATION):
        if (*package, "allow") not in groups:
            continue
        for name in ("allow", "deny"):
            group = groups.get((*package, name))
            for rule in group.rules if group is not None else ():
                # `allow := false` under a condition decides nothing, and is meant to.
                if all(branch.value in (None, Boolean(True)) for branch in branches(rule)):
                    yield rule


def _told(rule: CompiledRule, questions: Questions) -> Diagnostic:
    hint = f"its conditions rule out each of the {len(questions.inventory.workloads)} workloads"
    for attribute, values in questions.needs(rule):
        known = _known(attribute, questions.inventory)
        if known is not None and known.isdisjoint(map(str, values)):
            asked = " or ".join(map(repr, values))
            near = difflib.get_close_matches(str(values[0]), sorted(known), 1)
            hint = f"no workload has {attribute} {asked}" + (f"; did you mean {near[0]!r}?" if near else "")
            break
    return Diagnostic(
        rule.span, ErrorCode.LINT, "this rule holds for no workload of the inventory, whatever the request",
        hint=hint, severity=Severity.WARNING,
    )  # fmt: skip


def _known(attribute: Attribute, inventory: Inventory) -> Set[str] | None:
    """What the inventory has at an attribute of the destination; None where it doesn't say."""
    _, _, name = attribute.name.partition(".")
    if name == "port":
        return {str(port) for workload in inventory.workloads for port in workload.ports}
    if name == "service":
        return {service.name for workload in inventory.workloads for service in workload.services}
    found: set[str] = set()
    for workload in inventory.workloads:
        value = destination_document(workload, None).get(name)
        for step in attribute.path:
            value = value.get(step) if isinstance(value, dict) else None
        found |= {value} if isinstance(value, str) else set()
    return None if name == "ip" else found
