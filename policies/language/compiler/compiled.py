"""What the compile stage hands to the evaluators: a small, fully resolved Rego.

Guarantees, over what `ast` says:

Names
  - Every Var other than the roots `input` and `data` is a local variable with a name unique in its rule
    (nested bodies included; wildcards too), so one flat environment per rule evaluation suffices.
  - Every name of a rule, function or import is a full reference: Ref(Var data, (String, …)).
    `Call.name` is "data.a.b.f" for own functions, otherwise the name of a built-in.
  - The head of every Ref is a Var (`input`, `data` or a local variable).

Expressions: `Expr.node` of a compiled body is one of
  - Call: `eq` is unification (either side may hold variables that it binds); every other call is a test
    (its value must be defined and not false), whose arguments are bound when it is reached.
    There is no `assign`; `equal` is left only as a nested call (a boolean value): a statement `a == b`
    became `eq`. Nested calls stay nested. Extra arguments are gone: `f(x, y)` became `eq(y, f(x))`.
  - Ref, Var or another term: must be defined and not false. A Ref with unbound variables iterates.
  - Every: `domain` is bound when it is reached.
  - Not: no solution of the body. Nothing in the body binds a variable for the outside. What must be
    evaluated *before* the negation (the default meaning of `not`) is already a generated Expr before it.
  - Some and SomeIn are gone.
  `modifiers` apply to that expression only; their targets are full references (`input…`, `data…`) or the
  Ref of a built-in or function that is replaced, and their values are bound when it is reached. A value
  that replaces a function is a Ref of a function (`data…`), of a built-in (`Ref(Var count)`) or a value.

Iteration
  - A Ref with a variable that is not bound when it is reached, and a call of a relation (`walk`), stand
    only as a whole expression or as a whole side of `eq`: in every other place a term has at most one
    value. Array and object literals on the sides of `eq`, and those that are operands of a Ref, may hold
    unbound plain variables (patterns; object keys are always bound).
  - Bodies are in an order in which each expression finds what it needs bound.

Template strings are calls of `internal.template_string` with one array argument: each item a String or a
SetComprehension of at most one element (empty: the part is undefined).

rego.metadata.chain() and rego.metadata.rule() are replaced by literals.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from policies.language.diagnostics import Diagnostic
from policies.language.source import NOWHERE, Span
from policies.language.syntax.ast import Annotations, Body, Module, Term


class Shape(Enum):
    """What the rules at one path make together."""

    VALUE = "value"  # complete rules and partial objects: each rule puts `value` at `path` + `keys`
    SET = "set"  # `contains`: each rule adds `member` to the set at `path` + `keys`
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One branch-free rule, its `else` in `otherwise`.

    `path` is the constant beginning of the name, package included, without `data`. `keys` are the
    terms that follow it in the head (empty for most rules): `p.q[k].r := v` in package a has path
    ("a", "p", "q") and keys (Var k, String r). A rule of a set has `member` and no `value`; the others
    have `value`. All of them are evaluated after the body and may be any term of at most one value; a
    head term that is undefined contributes nothing.
    `arguments` are patterns (constants, variables, literals of them) that the actual arguments must
    match; two equal variables need equal values.
    """

    path: tuple[str, ...]
    shape: Shape
    body: Body
    value: Term | None
    keys: tuple[Term, ...] = ()
    member: Term | None = None
    arguments: tuple[Term, ...] = ()
    is_default: bool = False
    otherwise: "CompiledRule | None" = None
    annotations: tuple[Annotations, ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    strict_not: bool = False  # the module's meaning of `not`, for reports only: bodies already show it


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """All rules with the same path (constant beginning of the name).

    A default rule is kept apart. Several groups may lie below one another where heads have keys
    (`p[k]` and `p.x.y`): the document is the union, and unequal values at one place are a conflict.
    """

    path: tuple[str, ...]
    shape: Shape
    rules: tuple[CompiledRule, ...]
    default: CompiledRule | None = None
    arity: int = 0


@dataclass(frozen=True, slots=True)
class RuleTree:
    """A node of the `data` tree made by packages and rules. `group` is None for plain packages."""

    children: Mapping[str, "RuleTree"]
    group: RuleGroup | None = None

    def at(self, path: tuple[str, ...]) -> "RuleTree | None":
        """The node below this one at a path, or None."""
        node: RuleTree | None = self
        for name in path:
            node = node.children.get(name) if node is not None else None
        return node


@dataclass(frozen=True, slots=True)
class CompiledModules:
    """The result of compiling a set of modules; `groups` and `tree` hold the same rules."""

    groups: Mapping[tuple[str, ...], RuleGroup]
    tree: RuleTree
    modules: tuple[Module, ...] = ()
    findings: tuple[Diagnostic, ...] = ()  # what strict mode adds: unused imports, variables, arguments


@dataclass(frozen=True, slots=True)
class CompiledQuery:
    """A query ready to be evaluated. Its results bind `variables`: (name as written, compiled name)."""

    body: Body
    variables: tuple[tuple[str, str], ...]
