"""Calls against declarations: does the function exist, how many arguments, may it be called at all.

Not here: the types of arguments (checks_types).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from policies.language.compiler.compiled import CompiledRule, RuleGroup, Shape
from policies.language.compiler.graph import Path, nodes_of
from policies.language.compiler.terms import ROOTS, walk
from policies.language.diagnostics import Diagnostic, ErrorCode, Related, did_you_mean
from policies.language.source import Span
from policies.language.syntax.ast import Call, Expr, Ref, String, Var, With, dotted


class DeclaredShape(Protocol):
    """A declared type: `kind` such as "string" or "union", `of` its parts."""

    @property
    def kind(self) -> str: ...
    @property
    def of(self) -> "tuple[DeclaredShape, ...]": ...


class DeclaredSignature(Protocol):
    """Types of arguments and result; `variadic` takes any number."""

    @property
    def arguments(self) -> Sequence[DeclaredShape]: ...
    @property
    def result(self) -> DeclaredShape | None: ...
    @property
    def variadic(self) -> bool: ...


class BuiltinDeclaration(Protocol):
    """What the compiler must know of a built-in function.

    `relation` yields several values; `refusal` says why policies may not call it ("" when they may).
    """

    @property
    def name(self) -> str: ...
    @property
    def signature(self) -> DeclaredSignature: ...
    @property
    def relation(self) -> bool: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def deprecated(self) -> bool: ...
    @property
    def refusal(self) -> str: ...


def check_calls(
    roots: Iterable[CompiledRule | Expr],
    groups: Mapping[Path, RuleGroup],
    builtins: Mapping[str, BuiltinDeclaration],
    found: list[Diagnostic],
) -> None:
    """Reports calls of unknown or refused functions, wrong numbers of arguments, bad `with` targets."""
    calls: list[Call] = []
    replaced: set[str] = set()
    references: list[Ref] = []
    replacements: set[int] = set()
    for root in roots:
        for node in nodes_of(root) if isinstance(root, CompiledRule) else walk(root):
            if isinstance(node, Call):
                calls.append(node)
            elif isinstance(node, Expr):
                for modifier in node.modifiers:
                    replaced.add(dotted(modifier.target))
                    replacements.update((id(modifier.value), id(modifier.target)))
                    _check_target(modifier, groups, builtins, found)
            elif isinstance(node, Ref):
                references.append(node)
    for reference in references:
        if id(reference) not in replacements:  # with may name functions on both sides
            _check_not_function(reference, groups, found)
    known: set[str] = set()
    for call in calls:
        _check_call(call, groups, builtins, replaced, known, found)


def _likely(name: str, groups: Mapping[Path, RuleGroup], builtins: Mapping[str, BuiltinDeclaration]) -> str:
    """What a function that doesn't exist was probably meant to be."""
    owner, _, method = name.rpartition(".")
    if method in builtins and owner.split(".")[0] not in ("", "data"):
        return f"Rego has no methods: write {method}({owner}, …)"
    functions = [path for path, group in groups.items() if group.shape is Shape.FUNCTION]
    if name.startswith("data."):
        near = did_you_mean(name, [".".join(("data", *path)) for path in functions])
        return near or "no module defines it: check the package and the import"
    return did_you_mean(name, [*builtins, *(path[-1] for path in functions)])


def _check_call(
    call: Call,
    groups: Mapping[Path, RuleGroup],
    builtins: Mapping[str, BuiltinDeclaration],
    replaced: set[str],
    known: set[str],
    found: list[Diagnostic],
) -> None:
    name, span = call.name, call.operator.span
    builtin = builtins.get(name)
    if builtin is not None:
        if name not in known:
            if builtin.refusal and name not in replaced:
                message = f"built-in {name} can't be used: {builtin.refusal}"
                found.append(Diagnostic(span, ErrorCode.UNSUPPORTED, message))
            known.add(name)
        _check_builtin_arity(call, builtin, found)
        return
    if name == "eq":
        return
    path = _path(call.operator)
    group = groups.get(path) if path is not None else None
    if group is None or group.shape is not Shape.FUNCTION:
        hint = _likely(name, groups, builtins)
        if group is not None:
            hint = f"{name} is a rule without arguments: use it without ()"
        found.append(Diagnostic(span, ErrorCode.TYPE, f"undefined function {name}", hint=hint))
        return
    given = len(call.arguments)
    if given != group.arity:
        definition = group.rules[0] if group.rules else group.default
        assert definition is not None
        plural = "argument" if given == 1 else "arguments"
        message = f"function {name} has arity {group.arity}, got {given} {plural}"
        related = (Related(definition.span, "defined here"),)
        found.append(
            Diagnostic(call.span, ErrorCode.TYPE, message, expected=_count(group.arity), related=related)
        )


def _check_builtin_arity(call: Call, builtin: BuiltinDeclaration, found: list[Diagnostic]) -> None:
    signature = builtin.signature
    if signature.variadic or len(call.arguments) == len(signature.arguments):
        return
    shown = ", ".join(map(str, signature.arguments))
    message = (
        f"{builtin.name}: arity mismatch, got {len(call.arguments)} of {_count(len(signature.arguments))}"
    )
    found.append(Diagnostic(call.span, ErrorCode.TYPE, message, expected=f"{builtin.name}({shown})"))


def _count(number: int) -> str:
    return f"{number} argument" if number == 1 else f"{number} arguments"


def _check_target(
    modifier: With,
    groups: Mapping[Path, RuleGroup],
    builtins: Mapping[str, BuiltinDeclaration],
    found: list[Diagnostic],
) -> None:
    target = modifier.target
    head = target.head
    constant = all(isinstance(operand, String) for operand in target.operands)
    if isinstance(head, Var) and head.name in ROOTS and constant:
        path = _path(target)
        if path is not None:
            _check_inside_rule(path, target.span, groups, found)
        return
    name = dotted(target)
    if constant and name in builtins:
        return
    message = "with keyword target must reference existing input, data, or a function"
    hint = did_you_mean(name, [*builtins, "input", "data"])
    found.append(Diagnostic(target.span, ErrorCode.TYPE, message, "input…, data… or a function", hint))


def _check_inside_rule(
    path: Path, span: Span, groups: Mapping[Path, RuleGroup], found: list[Diagnostic]
) -> None:
    """A rule can be replaced as a whole only."""
    for length in range(1, len(path)):
        owner = groups.get(path[:length])
        if owner is not None and not any(rule.keys for rule in owner.rules):
            message = "with keyword cannot partially replace virtual document(s)"
            name = ".".join(("data", *path[:length]))
            found.append(Diagnostic(span, ErrorCode.COMPILE, message, hint=f"replace {name} as a whole"))
            return


def _check_not_function(reference: Ref, groups: Mapping[Path, RuleGroup], found: list[Diagnostic]) -> None:
    path = _path(reference)
    if not path:
        return
    for length in range(1, len(path) + 1):
        group = groups.get(path[:length])
        if group is not None and group.shape is Shape.FUNCTION:
            name = ".".join(("data", *path[:length]))
            message = f"function {name} used as reference, not called"
            found.append(Diagnostic(reference.span, ErrorCode.TYPE, message, expected=f"{name}(…)"))
            return


def _path(reference: Ref) -> Path | None:
    if not isinstance(reference.head, Var) or reference.head.name != "data":
        return None
    path = []
    for operand in reference.operands:
        if not isinstance(operand, String):
            break
        path.append(operand.value)
    return tuple(path)
