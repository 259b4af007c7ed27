"""Walking and rebuilding terms: the few traversals that every compile step shares.

"Direct" parts of a term or statement are those outside of nested bodies (comprehensions, every, explicit
not): a nested body has variables of its own.
"""

from collections.abc import Callable, Iterator

from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Boolean, Call, Expr, Ref, String, Term, Var

ROOTS = frozenset({"input", "data"})


def children(term: Term) -> tuple[Term, ...]:
    """The direct parts of a term; the head of a reference counts, the operator of a call does not."""
    kind = type(term)  # asked a million times for a large policy: isinstance with a union takes too long
    if kind is Ref:
        return (term.head, *term.operands)  # type: ignore[union-attr]
    if kind is Call:
        return term.arguments  # type: ignore[union-attr]
    if kind is ast.Array or kind is ast.Set:
        return term.items  # type: ignore[union-attr]
    if kind is ast.Object:
        return tuple(part for entry in term.entries for part in entry)  # type: ignore[union-attr]
    return ()


def direct_vars(term: Term) -> list[Var]:
    """The variables of a term outside of nested bodies, roots included, in the order of the text."""
    found: list[Var] = []
    stack = [term]
    while stack:
        current = stack.pop()
        kind = type(current)
        if kind is Var:
            found.append(current)  # type: ignore[arg-type]
        elif kind is not String:
            parts = children(current)
            if parts:
                stack.extend(parts[::-1])
    return found


def node_terms(node: ast.ExprNode) -> tuple[Term, ...]:
    """The terms of a statement that stand outside of nested bodies."""
    if isinstance(node, ast.Some):
        return node.variables
    if isinstance(node, ast.SomeIn):
        return (node.value, node.domain) if node.key is None else (node.key, node.value, node.domain)
    if isinstance(node, ast.Every):
        return (node.domain,)
    if isinstance(node, ast.Not):
        if node.explicit_body:
            return ()
        return tuple(term for inner in node.body for term in node_terms(inner.node))
    return (node,)


def closures(term: Term) -> Iterator[ast.Comprehension]:
    """The outermost comprehensions in a term."""
    stack = [term]
    while stack:
        current = stack.pop()
        if isinstance(current, ast.ArrayComprehension | ast.SetComprehension | ast.ObjectComprehension):
            yield current
        else:
            stack.extend(children(current))


def rebuilt(term: Term, change: Callable[[Term], Term]) -> Term:
    """The same term with `change` applied to its direct parts (not to nested bodies)."""
    if isinstance(term, Ref):
        return Ref(change(term.head), tuple(map(change, term.operands)), term.span)
    if isinstance(term, Call):
        arguments = tuple(map(change, term.arguments))
        return Call(term.operator, arguments, term.span, term.notation, term.grouped)
    if isinstance(term, ast.Array):
        return ast.Array(tuple(map(change, term.items)), term.span)
    if isinstance(term, ast.Set):
        return ast.Set(tuple(map(change, term.items)), term.span)
    if isinstance(term, ast.Object):
        return ast.Object(tuple((change(key), change(value)) for key, value in term.entries), term.span)
    return term


def all_vars(body: Body) -> set[str]:
    """Every variable name in a body, nested bodies included."""
    return {node.name for node in walk_body(body) if type(node) is Var}


def _parts(node: object) -> tuple[object, ...]:
    """Everything below a node, nested bodies included."""
    kind = type(node)
    if kind in _PLAIN:
        return children(node)  # type: ignore[arg-type]
    if isinstance(node, Expr):
        if not node.modifiers:
            return (node.node,)
        return (node.node, *(part for m in node.modifiers for part in (m.target, m.value)))
    if isinstance(node, ast.ArrayComprehension | ast.SetComprehension):
        return (node.term, *node.body)
    if isinstance(node, ast.ObjectComprehension):
        return (node.key, node.value, *node.body)
    if isinstance(node, ast.Every):
        names = (node.value,) if node.key is None else (node.key, node.value)
        return (*names, node.domain, *node.body)
    if isinstance(node, ast.Not):
        return node.body
    if isinstance(node, ast.Some | ast.SomeIn):
        return node_terms(node)
    if isinstance(node, ast.TemplateString):
        return tuple(part for part in node.parts if isinstance(part, Expr))
    return ()


_PLAIN = frozenset((Ref, Call, ast.Array, ast.Set, ast.Object, Var, String, ast.Number, Boolean, ast.Null))


def walk(root: object) -> Iterator[object]:
    """The node itself and everything below it, nested bodies included, in no promised order."""
    stack = [root]
    while stack:
        current = stack.pop()
        yield current
        if type(current) is not String:
            stack.extend(_parts(current))


def walk_body(body: Body) -> Iterator[object]:
    """Every node of a body."""
    for expression in body:
        yield from walk(expression)


def data_path(reference: Ref) -> tuple[str, ...] | None:
    """The constant names behind `data` at the beginning of a reference; None when it is not below data."""
    if not isinstance(reference.head, Var) or reference.head.name != "data":
        return None
    path = []
    for operand in reference.operands:
        if not isinstance(operand, String):
            break
        path.append(operand.value)
    return tuple(path)


def builtin_call(name: str, arguments: tuple[Term, ...], like: Term) -> Call:
    """A call of an operator that stands at the place of another term."""
    head, *rest = name.split(".")
    operator = Ref(Var(head, like.span), tuple(String(part, like.span) for part in rest), like.span)
    return Call(operator, arguments, like.span)


def unification(left: Term, right: Term, like: Term) -> Call:
    """`left = right`."""
    return builtin_call("eq", (left, right), like)


__all__ = [
    "ROOTS", "all_vars", "builtin_call", "children", "closures", "data_path", "direct_vars", "node_terms",
    "rebuilt", "unification", "walk", "walk_body",
]  # fmt: skip
