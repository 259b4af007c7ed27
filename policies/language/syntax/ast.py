"""The syntax tree of Rego v1: what the parser makes and the compile stage rewrites.

Every node is an immutable value. Two nodes are equal when they mean the same, wherever they were
written: spans, layout hints and generated marks do not take part in comparison.

How the surface syntax is represented (parsed tree; `compiled` describes what is left after rewriting):

    x := 1            Expr(Call(assign, (Var x, Number 1)))
    x = y             Expr(Call(eq, (x, y)))             unification
    x == y            Expr(Call(equal, (x, y)))          comparison
    a != b  < <= > >= Call(neq | lt | lte | gt | gte)
    a + b  - * / %    Call(plus | minus | mul | div | rem)
    a & b  a | b      Call(and | or)
    -x                Call(minus, (Number 0, x), notation=UNARY); but `-1` is Number("-1")
    x in xs           Call(internal.member_2, (x, xs))
    k, v in xs        Call(internal.member_3, (k, v, xs))
    some x, y         Expr(Some((x, y)))
    some x in xs      Expr(SomeIn(key=None, value=x, domain=xs))
    some k, v in xs   Expr(SomeIn(key=k, value=v, domain=xs))
    every v in xs {…} Expr(Every(key=None, value=v, domain=xs, body=…))
    not e             Expr(Not((Expr e,), explicit_body=False))
    not { a; b }      Expr(Not((Expr a, Expr b), explicit_body=True))
    e with t as v     Expr(…, modifiers=(With(t, v),)); with `not e with …` they sit on the outer Expr
    f(x)              Call(Ref(Var f), (x,));  data.a.f(x): Call(Ref(Var data, (String a, String f)), (x,))
    input.a["b"][c]   Ref(Var input, (String a, String b, Var c))
    f(x).y, [1][0]    Ref(Call …, (String y,)), Ref(Array …, (Number 0,))
    _                 Var("_"), every occurrence another variable
    $"a{x}b"          TemplateString(("a", Expr(Var x), "b"))

A call operator is always a Ref; `Call.name` gives its dotted text ("eq", "internal.member_2",
"data.a.f", "startswith").
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from policies.language.source import NOWHERE, Source, Span

# --- terms ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Null:
    """`null`."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Boolean:
    """`true` or `false`."""

    value: bool
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """A number literal. `text` is the author's spelling ("1e2", "-1", "0.10"), never a float."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class String:
    """A string. `value` is the text it stands for; `raw` tells that it was written in back quotes."""

    value: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    raw: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TemplateString:
    """`$"…{expression}…"`. `parts` mix decoded text and expressions (whose node is a term)."""

    parts: tuple["str | Expr", ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    raw: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Var:
    """A name: a local variable, a rule, an import, `input`, `data`, or the wildcard `_`."""

    name: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Ref:
    """`head.operand[operand]…`. A dotted name is a String operand, exactly as `["name"]`.

    `operands` may be empty only as the operator of a Call and as a rule head (`allow`).
    """

    head: "Term"
    operands: tuple["Term", ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Array:
    """`[a, b]`."""

    items: tuple["Term", ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Object:
    """`{k: v}` in the author's order; keys may repeat and may be any term."""

    entries: tuple[tuple["Term", "Term"], ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Set:
    """`{a, b}` in the author's order; `set()` is a Set without items."""

    items: tuple["Term", ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


class Notation(Enum):
    """How a call was written; the meaning is the same."""

    CALL = "call"
    INFIX = "infix"
    UNARY = "unary"


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or function applied to arguments (see the table above)."""

    operator: Ref
    arguments: tuple["Term", ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    notation: Notation = field(default=Notation.CALL, compare=False, repr=False)
    grouped: bool = field(default=False, compare=False, repr=False)  # the author put ( ) around it

    @property
    def name(self) -> str:
        """The dotted name of the operator."""
        return dotted(self.operator)


@dataclass(frozen=True, slots=True)
class ArrayComprehension:
    """`[term | body]`."""

    term: "Term"
    body: "Body"
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SetComprehension:
    """`{term | body}`."""

    term: "Term"
    body: "Body"
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ObjectComprehension:
    """`{key: value | body}`."""

    key: "Term"
    value: "Term"
    body: "Body"
    span: Span = field(default=NOWHERE, compare=False, repr=False)


Comprehension: TypeAlias = ArrayComprehension | SetComprehension | ObjectComprehension
Scalar: TypeAlias = Null | Boolean | Number | String
Term: TypeAlias = (
    Null
    | Boolean
    | Number
    | String
    | TemplateString
    | Var
    | Ref
    | Array
    | Object
    | Set
    | Call
    | ArrayComprehension
    | SetComprehension
    | ObjectComprehension
)


# --- expressions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Some:
    """`some x, y`: declares local variables."""

    variables: tuple[Var, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SomeIn:
    """`some [key,] value in domain`; key and value are patterns whose variables are declared here."""

    key: "Term | None"
    value: Term
    domain: Term
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Every:
    """`every [key,] value in domain { body }`."""

    key: Var | None
    value: Var
    domain: Term
    body: "Body"
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Not:
    """A negation. Without `explicit_body` the body is exactly one expression."""

    body: "Body"
    explicit_body: bool
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class With:
    """`with target as value`. The target is `input`, `data`, a path below them, or a function name."""

    target: Ref
    value: Term
    span: Span = field(default=NOWHERE, compare=False, repr=False)


ExprNode: TypeAlias = Term | Some | SomeIn | Every | Not


@dataclass(frozen=True, slots=True)
class Expr:
    """One statement of a body. `generated` marks what the compile stage added."""

    node: ExprNode
    modifiers: tuple[With, ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    generated: bool = field(default=False, compare=False)


Body: TypeAlias = tuple[Expr, ...]


# --- rules and modules ---------------------------------------------------------------------------------


class RuleKind(Enum):
    """What a rule defines."""

    COMPLETE = "complete"  # allow := true if …; a.b.c := 1
    PARTIAL_SET = "partial set"  # deny contains x if …
    PARTIAL_OBJECT = "partial object"  # p[k] := v if …; p.q[k].r := v if …; p[k] if …
    FUNCTION = "function"  # f(x) := y if …


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a rule.

    `reference` is the name as written: `p` is Ref(Var p), `p.q[k]` is Ref(Var p, (String q, Var k)).
    `arguments` is None unless the rule is a function (which may have no arguments at all).
    `key` is the term after `contains`. `value` is None where none is written (it means `true`);
    `assigned` is ":=", "=" or "" as written.
    """

    reference: Ref
    arguments: tuple[Term, ...] | None = None
    key: Term | None = None
    value: Term | None = None
    assigned: str = field(default="", compare=False)
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Annotations:
    """One `# METADATA` block as parsed from its YAML. `scope` is rule, document, package or subpackages."""

    scope: str
    title: str = ""
    description: str = ""
    entrypoint: bool = False
    organizations: tuple[str, ...] = ()
    authors: tuple[tuple[str, str], ...] = ()  # (name, email)
    related_resources: tuple[tuple[str, str], ...] = ()  # (reference, description)
    schemas: tuple[tuple[str, object], ...] = ()  # (dotted path, schema reference or inline definition)
    custom: object = None  # plain JSON value
    labels: object = None
    compile_unknowns: tuple[str, ...] = ()
    compile_mask_rule: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. An empty body means that the rule has none and always holds.

    `otherwise` is the next branch of an `else` chain: it repeats the head's reference and arguments
    and has its own value and body.
    """

    kind: RuleKind
    head: Head
    body: Body = ()
    is_default: bool = False
    otherwise: "Rule | None" = None
    annotations: tuple[Annotations, ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Package:
    """`package a.b`; `path` is ("a", "b"), without `data`."""

    path: tuple[str, ...]
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Import:
    """`import path [as alias]`; `path` begins with data, input, rego or future."""

    path: tuple[str, ...]
    alias: str | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name under which the module knows what is imported."""
        return self.alias if self.alias is not None else self.path[-1]


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment; `text` is what follows the `#`."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed file. `annotations` are those of package and subpackages scope.

    `strict_not` tells that the module imports future.keywords.not, which changes what `not` means.
    """

    package: Package
    imports: tuple[Import, ...]
    rules: tuple[Rule, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False, repr=False)
    annotations: tuple[Annotations, ...] = ()
    source: Source = field(default=NOWHERE.source, compare=False, repr=False)

    @property
    def strict_not(self) -> bool:
        """Whether `not` negates the whole expression, arguments included (OPA 1.17 and later)."""
        return any(entry.path == ("future", "keywords", "not") for entry in self.imports)


def dotted(reference: Ref) -> str:
    """The text of a ground reference: `data.a.f`, `a["b c"]`; other operands appear as `[…]`."""
    head = reference.head
    text = head.name if isinstance(head, Var) else "…"
    for operand in reference.operands:
        if not isinstance(operand, String):
            text += "[…]"
        elif operand.value.isidentifier() and operand.value.isascii():
            text += "." + operand.value
        else:
            text += f'["{operand.value}"]'
    return text
