"""Scopes: which body declares a variable, under which new name, and whether anything reads it.

Each rule has a scope for its arguments and one for each body in it. New names are unique in the rule.

Not here: where in a rule scopes begin and what is declared in them (compile_names).
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from policies.language.compiler.terms import ROOTS, direct_vars, node_terms
from policies.language.diagnostics import Diagnostic, ErrorCode, Related
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Ref, Term, Var


@dataclass(slots=True)
class Local:
    """A declared variable: its new name, where and how it was declared, whether anything reads it."""

    name: str
    span: Span
    how: str  # "argument", "declared", "assigned"
    used: bool = False


@dataclass(slots=True)
class Scope:
    """One body: what it declares and which undeclared names it mentions directly."""

    outer: "Scope | None"
    mentioned: frozenset[str]
    declared: dict[str, Local] = field(default_factory=dict)
    implicit: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # names resolved here before they were declared


class Scopes:
    """The scopes of the rule at hand; `globals` maps rules and imports to full references."""

    def __init__(self, globals_: Mapping[str, Ref], builtins: Container[str] = ()) -> None:
        self.globals = globals_
        self.builtins = builtins
        self.constants: Mapping[
            str, Term
        ] = {}  # calls that the rule at hand makes constant (rego.metadata.…)
        self.used_globals: set[str] = set()
        self.diagnostics: list[Diagnostic] = []
        self.unused: list[Diagnostic] = []  # findings of strict mode
        self.taken: set[str] = set()
        self.counter = 0
        self.scope = Scope(None, frozenset())

    def open(self, body: Body, terms: Iterable[Term] = ()) -> None:
        """Enters a body; `terms` are evaluated in its scope too (the head of a rule or comprehension)."""
        names = {v.name for e in body for t in node_terms(e.node) for v in direct_vars(t)}
        names |= {v.name for e in body for m in e.modifiers for v in direct_vars(m.value)}
        names |= {v.name for t in terms for v in direct_vars(t)}
        self.scope = Scope(self.scope, frozenset(names))

    def close(self) -> None:
        """Leaves a body and notes what it declared in vain."""
        for name, local in self.scope.declared.items():
            if not local.used:
                self.note_unused(name, local)
        assert self.scope.outer is not None
        self.scope = self.scope.outer

    def note_unused(self, name: str, local: Local) -> None:
        """A declared variable that nothing reads: wrong after `some` and `every`, else in strict mode."""
        if local.how == "declared":
            hint = "write _ for what isn't needed"
            self.report(local.span, f"declared var {name} unused", hint=hint)
        else:
            message = f"assigned var {name} unused"
            if local.how == "argument":
                message = f"unused argument {name}. (hint: use _ (wildcard variable) instead)"
            self.unused.append(Diagnostic(local.span, ErrorCode.COMPILE, message))

    def close_arguments(self) -> None:
        """Notes arguments that neither the body nor the head of the function read."""
        for name, local in self.scope.declared.items():
            if not local.used and local.how == "argument":
                self.note_unused(name, local)

    def fresh(self, stem: str = "") -> str:
        """A name that nothing in this rule has yet."""
        if stem not in ("", "_") and stem not in self.taken:
            self.taken.add(stem)
            return stem
        self.counter += 1
        name = f"{stem}~{self.counter}"
        self.taken.add(name)
        return name

    def declare(self, variable: Var, how: str) -> None:
        """Declares a variable in the present scope; a second declaration is an error."""
        name, scope = variable.name, self.scope
        if name in ROOTS:
            self.report(variable.span, f"variables must not shadow {name}", hint="choose another name")
            return
        before = scope.declared.get(name)
        is_argument = scope.outer is not None and scope.outer.outer is None and name in scope.outer.declared
        if before is None and is_argument and scope.outer is not None and how != "every":
            argument = scope.outer.declared[name]
            related = (Related(argument.span, "the argument"),)
            self.report(variable.span, f"arg {name} redeclared", related=related, hint="choose another name")
        elif before is not None:
            related = (Related(before.span, f"{before.how} here"),)
            hint = "a variable has one value; use == to compare or another name"
            self.report(variable.span, f"var {name} {before.how} above", related=related, hint=hint)
            return
        elif name in scope.seen:
            hint = "declare a variable before the statement that uses it"
            self.report(variable.span, f"var {name} referenced above", hint=hint)
        how = "declared" if how == "every" else how
        scope.declared[name] = Local(self.fresh(name), variable.span, how)

    def report(self, span: Span, message: str, *, hint: str = "", related: tuple[Related, ...] = ()) -> None:
        """Notes an error and goes on."""
        self.diagnostics.append(Diagnostic(span, ErrorCode.COMPILE, message, hint=hint, related=related))

    def resolve(self, variable: Var) -> Term:
        """What a name stands for here."""
        name = variable.name
        if name == "_":
            return Var(self.fresh("_"), variable.span)
        scope: Scope | None = self.scope
        while scope is not None:
            local = scope.declared.get(name)
            if local is not None:
                local.used = True
                return Var(local.name, variable.span)
            if name in scope.implicit:
                break
            scope = scope.outer
        target = self.globals.get(name)
        if target is not None:
            self.used_globals.add(name)
            self.scope.seen.add(name)
            if not target.operands:
                return Var(target.head.name, variable.span) if isinstance(target.head, Var) else target
            return Ref(target.head, target.operands, variable.span)
        if name in ROOTS:
            return variable
        self.scope.seen.add(name)
        return Var(self.implicit(name), variable.span)

    def implicit(self, name: str) -> str:
        """The new name of an undeclared variable: that of the outermost body that mentions it directly."""
        owner = self.scope
        scope: Scope | None = self.scope
        while scope is not None:
            if name in scope.implicit:
                return scope.implicit[name]
            if name in scope.mentioned:
                owner = scope
            scope = scope.outer
        owner.implicit[name] = self.fresh(name)
        return owner.implicit[name]


def pattern_vars(pattern: Term) -> list[Var]:
    """The variables that a pattern binds: plain names, and names in array and object literals."""
    if isinstance(pattern, Var):
        return [pattern]
    if isinstance(pattern, ast.Array):
        return [variable for item in pattern.items for variable in pattern_vars(item)]
    if isinstance(pattern, ast.Object):
        return [variable for _, value in pattern.entries for variable in pattern_vars(value)]
    return []
