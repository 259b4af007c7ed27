"""Parsed modules into the small language of `compiled`, and queries likewise.

The steps: names (compile_names), order and safety (compile_order), the tree of rules and recursion
(compile_graph), then calls against the declarations of the built-ins (compile_calls). Everything that is
wrong in a step is reported together; a later step runs only when the earlier ones found nothing, because
its findings would be echoes.

Not here: types (checks_types), advice (checks) and evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from policies.language.compiler.calls import BuiltinDeclaration, check_calls
from policies.language.compiler.compiled import CompiledModules, CompiledQuery, CompiledRule, Shape
from policies.language.compiler.graph import Path, check_recursion, grouped, tree_of
from policies.language.compiler.metadata import metadata
from policies.language.compiler.names import Names
from policies.language.compiler.order import Order, lower_head
from policies.language.compiler.terms import ROOTS, direct_vars, node_terms, unification
from policies.language.diagnostics import Diagnostic, Diagnostics, ErrorCode, Related
from policies.language.syntax import ast
from policies.language.syntax.ast import (
    Body,
    Boolean,
    Call,
    Expr,
    Head,
    Import,
    Module,
    Ref,
    Rule,
    RuleKind,
    String,
    Term,
    Var,
)
from policies.language.syntax.parser import too_deep

_SHAPES = {RuleKind.FUNCTION: Shape.FUNCTION, RuleKind.PARTIAL_SET: Shape.SET}


def compile_modules(
    modules: Sequence[Module], builtins: Mapping[str, BuiltinDeclaration], *, strict: bool = False
) -> CompiledModules:
    """The modules compiled together. Raises Diagnostics; `strict` adds what `opa check --strict` adds."""
    compiler = _Compiler(modules, builtins)
    try:
        compiled = compiler.run()
    except RecursionError as error:
        raise too_deep(modules[0].source) from error
    if strict and compiled.findings:
        raise Diagnostics(compiled.findings)
    return compiled


def compile_query(
    query: Body,
    compiled: CompiledModules,
    builtins: Mapping[str, BuiltinDeclaration],
    *,
    package: Path = (),
    imports: Sequence[Import] = (),
    strict_not: bool = False,
) -> CompiledQuery:
    """A query over compiled modules, its names seen from `package`. Raises Diagnostics."""
    found: list[Diagnostic] = []
    rule_names = [path[len(package)] for path in compiled.groups if path[: len(package)] == package != path]
    names = Names(_globals(package if package else None, rule_names, imports, found), builtins)
    names.start_rule(())
    names.open(query)
    renamed = names.body(query)
    scope = names.scope
    arities = {path: group.arity for path, group in compiled.groups.items() if group.shape is Shape.FUNCTION}
    order = _order(names, arities, builtins, strict_not)
    ordered = order.body(renamed, set(), set())
    found.extend((*names.diagnostics, *order.diagnostics))
    if not found:
        check_calls(ordered, compiled.groups, builtins, found)
    if found:
        raise Diagnostics(found)
    declared = {name: local.name for name, local in scope.declared.items()}
    return CompiledQuery(tuple(ordered), tuple({**scope.implicit, **declared}.items()))


def _order(
    names: Names, arities: Mapping[Path, int], builtins: Mapping[str, BuiltinDeclaration], strict_not: bool
) -> Order:
    relations = frozenset(name for name, builtin in builtins.items() if builtin.relation)

    def arity(call: Call) -> int | None:
        name = call.name
        builtin = builtins.get(name)
        if builtin is not None:
            return None if builtin.signature.variadic else len(builtin.signature.arguments)
        if name.startswith("data."):
            return arities.get(tuple(o.value for o in call.operator.operands if isinstance(o, String)))
        return None

    return Order(names, arity, relations, strict_not)


def _globals(
    package: Path | None, rule_names: Sequence[str], imports: Sequence[Import], found: list[Diagnostic]
) -> dict[str, Ref]:
    """What the names of a module stand for outside of its rules."""
    result: dict[str, Ref] = {}
    if package is not None:
        for name in rule_names:
            result[name] = Ref(Var("data"), tuple(String(part) for part in (*package, name)))
    taken: dict[str, Import] = {}
    for entry in imports:
        if entry.path[0] in ("rego", "future"):
            continue
        if entry.name in taken:
            earlier = taken[entry.name]
            message = f"import must not shadow import {'.'.join(earlier.path)}"
            related = (Related(earlier.span, "imported here"),)
            found.append(Diagnostic(entry.span, ErrorCode.COMPILE, message, hint="use `as`", related=related))
            continue
        if entry.alias in ROOTS:
            message = f"imports must not shadow {entry.alias}"
            found.append(Diagnostic(entry.span, ErrorCode.COMPILE, message, hint="use another alias"))
        taken[entry.name] = entry
        result[entry.name] = Ref(
            Var(entry.path[0]), tuple(String(part) for part in entry.path[1:]), entry.span
        )
    return result


class _Compiler:
    """One run over a set of modules."""

    def __init__(self, modules: Sequence[Module], builtins: Mapping[str, BuiltinDeclaration]) -> None:
        self.modules = modules
        self.builtins = builtins
        self.found: list[Diagnostic] = []
        self.findings: list[Diagnostic] = []
        self.rule_names: dict[Path, list[str]] = {}
        for module in modules:
            names = self.rule_names.setdefault(module.package.path, [])
            names.extend(dict.fromkeys(_head_name(rule) for rule in module.rules))
        self.arities = {
            path_of(module, rule): len(rule.head.arguments)
            for module in modules
            for rule in module.rules
            if rule.head.arguments is not None
        }

    def run(self) -> CompiledModules:
        rules: list[CompiledRule] = []
        for module in self.modules:
            rules.extend(self.module(module))
        groups = grouped(rules, self.found)
        packages = [module.package.path for module in self.modules]
        tree = tree_of(groups, packages, self.found)
        self.stop_if_wrong()
        self.check_calls(rules, groups)
        check_recursion(groups, tree, self.found)
        self.stop_if_wrong()
        return CompiledModules(groups, tree, tuple(self.modules), tuple(self.findings))

    def check_calls(self, rules: Sequence[CompiledRule], groups: Mapping[Path, object]) -> None:
        """Calls and `with` targets of every rule."""
        check_calls(rules, groups, self.builtins, self.found)  # type: ignore[arg-type]

    def stop_if_wrong(self) -> None:
        if self.found:
            raise Diagnostics(self.found)

    def module(self, module: Module) -> list[CompiledRule]:
        """The rules of one module."""
        rule_names = self.rule_names[module.package.path]
        globals_ = _globals(module.package.path, rule_names, module.imports, self.found)
        names = Names(globals_, self.builtins)
        order = _order(names, self.arities, self.builtins, module.strict_not)
        uses_metadata = "rego.metadata" in module.source.text
        compiled = []
        for rule in module.rules:
            if _head_name(rule) in ROOTS:
                message = f"rules must not shadow {_head_name(rule)}"
                self.found.append(
                    Diagnostic(rule.head.span, ErrorCode.COMPILE, message, hint="rename the rule")
                )
                continue
            if uses_metadata:
                names.constants = metadata(self.modules, module, rule, path_of)
            compiled.append(_RuleCompiler(module, rule, names, order).run())
        # A name that is declared wrongly makes variables unsafe, too: that would be the same error twice.
        self.found.extend(names.diagnostics or order.diagnostics)
        self.findings.extend(names.unused)
        for entry in module.imports:
            if entry.path[0] not in ("rego", "future") and entry.name not in names.used_globals:
                message = f"import {'.'.join(entry.path)} unused"
                self.findings.append(Diagnostic(entry.span, ErrorCode.COMPILE, message, hint="remove it"))
        return compiled


class _RuleCompiler:
    """One rule with its branches."""

    def __init__(self, module: Module, rule: Rule, names: Names, order: Order) -> None:
        self.module = module
        self.rule = rule
        self.names = names
        self.order = order
        self.before: list[Expr] = []  # what arguments that are no patterns add to each branch

    def run(self) -> CompiledRule:
        patterns = [self.argument(argument) for argument in self.rule.head.arguments or ()]
        arguments = self.names.start_rule(patterns)
        bound = {v.name for a in arguments for v in direct_vars(a)}
        compiled: CompiledRule | None = None
        chain = []
        branch: Rule | None = self.rule
        while branch is not None:
            chain.append(branch)
            branch = branch.otherwise
        results = [self.branch(part, arguments, bound) for part in chain]
        self.names.close_arguments()
        for result in reversed(results):
            compiled = replace(result, otherwise=compiled)
        assert compiled is not None
        return compiled

    def argument(self, argument: Term) -> Term:
        """A pattern; a part that must be computed becomes a variable that each branch compares."""
        if isinstance(argument, ast.Array):
            return ast.Array(tuple(map(self.argument, argument.items)), argument.span)
        if isinstance(argument, ast.Object):
            entries = tuple((key, self.argument(value)) for key, value in argument.entries)
            return ast.Object(entries, argument.span)
        if isinstance(argument, Var):
            if argument.name in ROOTS:
                hint = "rename the argument"
                self.names.report(argument.span, f"args must not shadow {argument.name}", hint=hint)
            return argument
        if isinstance(argument, ast.Null | Boolean | ast.Number | String):
            return argument
        value = Var(f"argument~{len(self.before)}", argument.span)
        self.before.append(Expr(unification(value, argument, argument), (), argument.span, generated=True))
        return value

    def branch(self, rule: Rule, arguments: tuple[Term, ...], bound_arguments: set[str]) -> CompiledRule:
        """One branch: its body, then its head in the body's scope."""
        head = rule.head
        heads = _head_terms(head)
        written = (*self.before, *rule.body)
        self.names.open(written, heads)
        body = self.names.body(written)
        renamed = [self.names.term(term) for term in heads]
        self.names.close()
        bound = set(bound_arguments)
        ordered = self.order.body(body, bound, set(bound_arguments), renamed)
        outer = bound | {v.name for e in body for t in node_terms(e.node) for v in direct_vars(t)}
        unsafe = bool(self.order.diagnostics)
        lowered = renamed if unsafe else [lower_head(self.order, t, bound, outer, ordered) for t in renamed]
        keys = tuple(lowered[: len(_keys(head))])
        rest = lowered[len(keys) :]
        is_set = rule.kind is RuleKind.PARTIAL_SET
        return CompiledRule(
            path=path_of(self.module, rule),
            shape=_SHAPES.get(rule.kind, Shape.VALUE),
            body=tuple(ordered),
            value=None if is_set else rest[0] if rest else Boolean(True, head.span),
            keys=keys,
            member=rest[0] if is_set else None,
            arguments=arguments,
            is_default=rule.is_default,
            annotations=rule.annotations,
            span=rule.span,
            strict_not=self.module.strict_not,
        )


def _head_terms(head: Head) -> tuple[Term, ...]:
    """The terms of a head that are evaluated after the body: keys, then the member or the value."""
    last = head.key if head.key is not None else head.value
    return (*_keys(head), *((last,) if last is not None else ()))


def _keys(head: Head) -> tuple[Term, ...]:
    operands = head.reference.operands
    for index, operand in enumerate(operands):
        if not isinstance(operand, String):
            return operands[index:]
    return ()


def _head_name(rule: Rule) -> str:
    head = rule.head.reference.head
    assert isinstance(head, Var)
    return head.name


def path_of(module: Module, rule: Rule) -> Path:
    """The constant beginning of a rule's name, package included."""
    operands = rule.head.reference.operands
    constant = operands[: len(operands) - len(_keys(rule.head))]
    return (*module.package.path, _head_name(rule), *(o.value for o in constant if isinstance(o, String)))
