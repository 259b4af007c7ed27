"""Author mistakes that are legal Rego and mean something else than they seem to.

Each check looks at parsed rules; none needs evaluation. Errors are those after which a policy would allow
or deny by accident; the rest are warnings.

Not here: what can never hold or never be reached (requests, reach), types, constants.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from policies.language.compiler.calls import BuiltinDeclaration
from policies.language.compiler.terms import walk, walk_body
from policies.language.diagnostics import Diagnostic, ErrorCode, Related, Severity
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Expr, Module, Ref, Rule, RuleKind, String, Var

_REPLACEMENTS: Final[Mapping[str, str]] = {
    "any": "`true in xs` or a rule with `some`",
    "all": "`every x in xs { x }`",
    "re_match": "regex.match",
    "net.cidr_overlap": "net.cidr_contains",
    "set_diff": "the operator -",
    "cast_array": "a comprehension: [x | some x in xs]",
    "cast_set": "a comprehension: {x | some x in xs}",
}


def check_mistakes(modules: Iterable[Module], builtins: Mapping[str, BuiltinDeclaration]) -> list[Diagnostic]:
    """What is wrong or suspicious in parsed modules, in the order of the texts."""
    found: list[Diagnostic] = []
    seen: dict[object, Rule] = {}
    for module in modules:
        found.extend(_imports(module))
        for rule in module.rules:
            found.extend(_rule(module, rule, builtins, seen))
    return found


def _rule(
    module: Module, rule: Rule, builtins: Mapping[str, BuiltinDeclaration], seen: dict[object, Rule]
) -> Iterator[Diagnostic]:
    yield from _identical(module, rule, seen)
    yield from _head(rule, builtins)
    branch: Rule | None = rule
    while branch is not None:
        yield from _always_true(branch)
        for body in _bodies(branch):
            yield from _different_elements(body)
        for node in walk_body(branch.body):
            if isinstance(node, Call):
                yield from _call(node, builtins)
            elif isinstance(node, Ref):
                yield from _reference(node)
            elif isinstance(node, Expr):
                yield from _statement(node)
        branch = branch.otherwise


def _imports(module: Module) -> Iterator[Diagnostic]:
    for entry in module.imports:
        needless = entry.path == ("rego", "v1") or (entry.path[0] == "future" and entry.path[-1] != "not")
        if needless:
            name = ".".join(entry.path)
            yield _warning(entry, f"import {name} does nothing in Rego v1", "remove it")


def _identical(module: Module, rule: Rule, seen: dict[object, Rule]) -> Iterator[Diagnostic]:
    key = (module.package.path, module.imports, replace(rule, annotations=()))
    earlier = seen.setdefault(key, rule)
    if earlier is not rule:
        related = (Related(earlier.span, "the same rule"),)
        yield replace(_warning(rule.head, "the same rule is written twice", "remove one"), related=related)


def _head(rule: Rule, builtins: Mapping[str, BuiltinDeclaration]) -> Iterator[Diagnostic]:
    head = rule.head
    name = ast.dotted(head.reference)
    if name in builtins:
        hint = f"in this package {name} is now the rule; choose another name"
        yield _warning(head, f"rule {name} hides the built-in of that name", hint)
    operands = head.reference.operands
    is_object = rule.kind is RuleKind.PARTIAL_OBJECT and head.value is None and not rule.is_default
    if is_object and operands and isinstance(operands[-1], Var):
        last = operands[-1].name
        name = ast.dotted(Ref(head.reference.head, operands[:-1]))
        yield _warning(
            head,
            f"this makes an object of true values, not a set: `{last} in {name}` asks for the value {last}",
            f"did you mean contains? {name} contains {last}",
        )


def _always_true(rule: Rule) -> Iterator[Diagnostic]:
    for expression in rule.body:
        node = expression.node
        if isinstance(node, ast.Object) and not node.entries:
            yield Diagnostic(
                expression.span, ErrorCode.LINT, "{} is an empty object, which always holds",
                "conditions between the braces", "write `true` for a rule that shall always hold",
            )  # fmt: skip
        elif isinstance(
            node, ast.Object | ast.Set | ast.Array | ast.Comprehension | ast.TemplateString | String
        ):
            hint = "only false and undefined fail; even an empty collection holds"
            yield _warning(expression, "this statement always holds", hint)
        elif isinstance(node, ast.Boolean) and not node.value:
            yield _warning(expression, "a rule with the statement false can never hold", "remove the rule")


def _bodies(rule: Rule) -> Iterator[ast.Body]:
    yield rule.body
    for node in walk_body(rule.body):
        if isinstance(
            node,
            ast.Every | ast.Not | ast.ArrayComprehension | ast.SetComprehension | ast.ObjectComprehension,
        ):
            yield node.body


def _different_elements(body: ast.Body) -> Iterator[Diagnostic]:
    """`xs[_].a == 1` and `xs[_].b == 2` may speak of two elements."""
    seen: dict[tuple[object, ...], Ref] = {}
    for expression in body:
        if isinstance(expression.node, ast.Not | ast.Every):
            continue
        for node in walk(expression):
            if not isinstance(node, Ref) or Var("_") not in node.operands:
                continue
            at = node.operands.index(Var("_"))
            if at + 1 >= len(node.operands):
                continue
            key = (node.head, node.operands[:at])
            earlier = seen.setdefault(key, node)
            if earlier.span.row != node.span.row and earlier.operands != node.operands:
                related = (Related(earlier.span, "the other element"),)
                hint = "for the same one write: some x in …, then x.a and x.b"
                yield replace(
                    _warning(node, "each _ is another variable: these may be different elements", hint),
                    related=related,
                )


def _statement(expression: Expr) -> Iterator[Diagnostic]:
    node = expression.node
    if not isinstance(node, Call) or len(node.arguments) != 2:
        return
    if node.name == "neq":
        for argument in node.arguments:
            if isinstance(argument, Ref) and Var("_") in argument.operands:
                yield _warning(
                    expression,
                    "this holds as soon as one element differs, not when none is equal",
                    "for none: not value in xs, or every x in xs { x != value }",
                )


def _call(call: Call, builtins: Mapping[str, BuiltinDeclaration]) -> Iterator[Diagnostic]:
    name = call.name
    builtin = builtins.get(name)
    if builtin is not None and builtin.deprecated:
        hint = f"use {_REPLACEMENTS[name]}" if name in _REPLACEMENTS else ""
        message = f"deprecated built-in function calls in expression: {name}"
        yield Diagnostic(call.operator.span, ErrorCode.TYPE, message, hint=hint)
    elif (
        builtin is not None
        and not builtin.signature.variadic
        and len(call.arguments) == len(builtin.signature.arguments) + 1
    ):
        hint = f"write result := {name}(…)"
        yield _warning(call, f"the last argument of {name} takes its result: an old form", hint)
    if name == "regex.match" and len(call.arguments) == 2 and isinstance(call.arguments[0], String):
        pattern = call.arguments[0].value
        if not pattern.startswith(("^", r"\A", ".*")) and not pattern.endswith(("$", r"\z", ".*")):
            hint = "anchor it: ^…$"
            yield _warning(call.arguments[0], "the pattern matches anywhere in the text", hint)


def _reference(reference: Ref) -> Iterator[Diagnostic]:
    head = reference.head
    if not isinstance(head, Var) or head.name != "input" or not reference.operands:
        return
    first = reference.operands[0]
    if not isinstance(first, String):
        yield Diagnostic(
            reference.span, ErrorCode.LINT, "iteration over input itself, whose attributes may be absent",
            "an attribute, such as input.source", "name the attributes that you mean",
        )  # fmt: skip
        return


def _warning(node: object, message: str, hint: str) -> Diagnostic:
    span = getattr(node, "span")  # noqa: B009 - every node has one
    return Diagnostic(span, ErrorCode.LINT, message, hint=hint, severity=Severity.WARNING)
