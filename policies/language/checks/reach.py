"""Rules that can never hold, values that always conflict, rules that nobody asks for.

Works on the compiled form. Contradictions are found only where they are plain: the same attribute equal
to two constants in one body. `policies.unheld` finds others, against an inventory.
"""

import difflib
from collections.abc import Iterable, Iterator, Set
from decimal import Decimal
from typing import Final

from policies.language.compiler.compiled import CompiledModules, CompiledRule, RuleGroup, Shape
from policies.language.compiler.graph import Path, branches, uses
from policies.language.diagnostics import Diagnostic, ErrorCode, Related, Severity
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Call, Ref, String, Term, Var

ENTRY_PACKAGES: Final[tuple[Path, ...]] = (("gatehouse", "authz"), ("gatehouse", "segmentation"))
ENTRY_NAMES: Final = ("allow", "deny")
_WHOLE_PACKAGES: Final[tuple[Path, ...]] = (
    ("gatehouse", "invariants"),
    ("gatehouse", "admission"),
    ("gatehouse", "quotas"),
)
_DECISIONS: Final = frozenset({*ENTRY_NAMES, "never"})
_CONSTANTS = (String, ast.Number, ast.Boolean, ast.Null)


def check_never_holds(compiled: CompiledModules) -> list[Diagnostic]:
    """Warnings for bodies that ask one attribute to be two things."""
    found: list[Diagnostic] = []
    for group in compiled.groups.values():
        for rule in group.rules:
            for branch in branches(rule):
                found.extend(_contradictions(branch.body))
    return found


def _contradictions(body: Body) -> Iterator[Diagnostic]:
    wanted: dict[Ref, tuple[Term, ast.Expr]] = {}
    for expression in body:
        node = expression.node
        if expression.modifiers or not isinstance(node, Call) or node.name != "eq":
            continue
        left, right = node.arguments
        if isinstance(left, _CONSTANTS):
            left, right = right, left
        if not (isinstance(left, Ref) and isinstance(right, _CONSTANTS) and _ground(left)):
            continue
        earlier, where = wanted.setdefault(left, (right, expression))
        if earlier != right and not _same_number(earlier, right):
            related = (Related(where.span, "the other value"),)
            yield Diagnostic(
                expression.span, ErrorCode.LINT, f"this rule can never hold: {left.span.text} can't be both",
                hint="one attribute has one value; for alternatives write two rules or `in {…}`",
                severity=Severity.WARNING, related=related,
            )  # fmt: skip


def _ground(reference: Ref) -> bool:
    return isinstance(reference.head, Var) and all(isinstance(o, _CONSTANTS) for o in reference.operands)


def _same_number(left: Term, right: Term) -> bool:
    """`1` and `1.0` are one number."""
    if not isinstance(left, ast.Number) or not isinstance(right, ast.Number):
        return False
    return Decimal(left.text) == Decimal(right.text)


def check_conflicts(compiled: CompiledModules) -> list[Diagnostic]:
    """Errors for complete rules without conditions that have different constant values."""
    found: list[Diagnostic] = []
    for group in compiled.groups.values():
        if group.shape is not Shape.VALUE:
            continue
        certain = [rule for rule in group.rules if not rule.body and not rule.keys and _constant(rule.value)]
        for other in certain[1:]:
            if other.value != certain[0].value and not _same_number(_value(other), _value(certain[0])):
                name = ".".join(("data", *group.path))
                related = (Related(certain[0].span, "the other value"),)
                message = f"{name} has two values: complete rules must not produce multiple outputs"
                hint = "use contains for a set of values, or conditions that exclude one another"
                found.append(Diagnostic(other.span, ErrorCode.COMPILE, message, hint=hint, related=related))
                break
    return found


def _value(rule: CompiledRule) -> Term:
    assert rule.value is not None
    return rule.value


def _constant(term: Term | None) -> bool:
    return isinstance(term, _CONSTANTS)


def check_unreached(compiled: CompiledModules, entrypoints: Iterable[Path] = ()) -> list[Diagnostic]:
    """Warnings for rules that no entry point needs, where there is an entry point at all.

    Entry points are allow and deny of our packages, everything in packages that are asked as a whole,
    tests, rules annotated `entrypoint: true`, and those given.
    """
    roots = {path for path, group in compiled.groups.items() if _is_entry(path, group)} | set(entrypoints)
    if not any(not _is_test(path) for path in roots):
        return []  # a library: everything may be asked from outside
    reached: set[Path] = set()
    queue = list(roots)
    while queue:
        path = queue.pop()
        if path in reached or path not in compiled.groups:
            continue
        reached.add(path)
        queue.extend(uses(compiled.groups[path], compiled.tree))
    found: list[Diagnostic] = []
    for path, group in compiled.groups.items():
        if path in reached:
            continue
        rule = group.rules[0] if group.rules else group.default
        if rule is not None:
            message = f"no query reaches {'.'.join(('data', *path))}"
            hint = "remove it, use it, or annotate it with `entrypoint: true`"
            found.append(Diagnostic(rule.span, ErrorCode.LINT, message, hint=hint, severity=Severity.WARNING))
    return found


def check_unasked(compiled: CompiledModules, foreign: Set[str] = frozenset()) -> list[Diagnostic]:
    """Warnings for decisions in packages that nothing asks: the package is misspelt, or another program's.

    Files in `foreign` decide about another input and are asked by somebody else.
    """
    used = {path for group in compiled.groups.values() for path in uses(group, compiled.tree)}
    asked = [*ENTRY_PACKAGES, *_WHOLE_PACKAGES]
    names = [".".join(package) for package in asked]
    found: list[Diagnostic] = []
    for path, group in compiled.groups.items():
        rule = group.rules[0] if group.rules else group.default
        if rule is None or path[-1] not in _DECISIONS or path in used or _is_entry(path, group):
            continue
        package = ".".join(path[:-1])
        if path[:-1] in asked or rule.span.source.file in foreign:
            continue
        near = difflib.get_close_matches(package, names, 1, 0.75)
        hint = (
            f"did you mean package {near[0]}?" if near else "a request is decided by package gatehouse.authz"
        )
        message = f"nothing asks data.{package}.{path[-1]}"
        found.append(Diagnostic(rule.span, ErrorCode.LINT, message, hint=hint, severity=Severity.WARNING))
    return found


def _is_entry(path: Path, group: RuleGroup) -> bool:
    if _is_test(path):
        return True
    if any(path[: len(package)] == package for package in _WHOLE_PACKAGES):
        return True
    if path[:-1] in ENTRY_PACKAGES and path[-1] in ENTRY_NAMES:
        return True
    default = () if group.default is None else (group.default,)
    return any(a.entrypoint for rule in (*group.rules, *default) for a in rule.annotations)


def _is_test(path: Path) -> bool:
    return path[-1].startswith(("test_", "todo_test_"))
