"""Which variables a statement needs and which it binds (OPA's rule of safe variables).

A variable is safe when something binds it: a unification with a value whose variables are safe, an operand
of a reference whose head is safe (iteration), an argument of the function, a `some`. Nested bodies bind
nothing for the outside and need the outer variables that they mention.

Not here: the order of statements (compile_order).
"""

from collections.abc import Callable, Set

from policies.language.compiler.terms import ROOTS, all_vars, children, closures, direct_vars, node_terms
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Call, Ref, Term, Var

ArityOf = Callable[[Call], "int | None"]
"""The declared number of arguments of a call's function, or None where it isn't known."""


def needs(node: ast.ExprNode, bound: Set[str], outer: Set[str], arity: ArityOf) -> dict[str, Var]:
    """The variables that keep a statement from being evaluated with `bound`, by name.

    `outer` are the variables of the enclosing bodies as far as nested bodies may mention them.
    """
    provided = outputs(node, bound, arity)
    missing: dict[str, Var] = {}
    for term in node_terms(node):
        for variable in direct_vars(term):
            name = variable.name
            if name not in bound and name not in provided and name not in ROOTS:
                missing.setdefault(name, variable)
    for body in nested_bodies(node):
        for name in (all_vars(body) & outer) - bound - ROOTS:
            missing.setdefault(name, Var(name, body[0].span))
    return missing


def nested_bodies(node: ast.ExprNode) -> list[Body]:
    """The bodies in a statement, the head of a comprehension counted to its body."""
    found: list[Body] = []
    if isinstance(node, ast.Every) or (isinstance(node, ast.Not) and node.explicit_body):
        found.append(node.body)
    for term in node_terms(node):
        for comprehension in closures(term):
            heads = (
                (comprehension.key, comprehension.value)
                if isinstance(comprehension, ast.ObjectComprehension)
                else (comprehension.term,)
            )
            found.append((*comprehension.body, *(ast.Expr(head, (), comprehension.span) for head in heads)))
    return found


def outputs(node: ast.ExprNode, bound: Set[str], arity: ArityOf) -> set[str]:
    """The variables that a statement binds when it is evaluated with `bound`."""
    found: set[str] = set()
    if isinstance(node, ast.Every):
        _reference_outputs(node.domain, bound, found)  # `every x in xs[_]` asks it of each of the xs
        return found
    if isinstance(node, ast.Not | ast.Some | ast.SomeIn):
        return found
    _reference_outputs(node, bound, found)
    if isinstance(node, Call):
        if node.name == "eq" and len(node.arguments) == 2:
            _unify(node.arguments[0], node.arguments[1], bound, found)
        else:
            declared = arity(node)
            if declared is not None and len(node.arguments) == declared + 1:
                inputs = node.arguments[:-1]
                if all(_safe(argument, bound, found) for argument in inputs):
                    _bind(node.arguments[-1], found, bound)
    return found


def _reference_outputs(term: Term, bound: Set[str], found: set[str]) -> None:
    """Iteration: operands of references with a safe head, however deep in the term."""
    stack = [term]
    references: list[Ref] = []
    while stack:
        current = stack.pop()
        if isinstance(current, Ref):
            references.append(current)
        stack.extend(children(current))
    # A reference may have its head bound by another one's iteration: xs[i], ys = xs[i]; ys[j] in one term
    # can't occur, but a[b[i]] and a call's references may come in any order.
    progress = True
    while progress and references:
        progress = False
        for reference in references[:]:
            if not _head_safe(reference.head, bound, found):
                continue
            for operand in reference.operands:
                _bind(operand, found, bound)
            references.remove(reference)
            progress = True


def _head_safe(head: Term, bound: Set[str], found: Set[str]) -> bool:
    if isinstance(head, Var):
        return head.name in bound or head.name in found or head.name in ROOTS
    return _safe(head, bound, found)


def _safe(term: Term, bound: Set[str], found: Set[str]) -> bool:
    """Whether every direct variable of a term is bound."""
    return all(v.name in bound or v.name in found or v.name in ROOTS for v in direct_vars(term))


def _bind(pattern: Term, found: set[str], bound: Set[str]) -> None:
    """The variables of a pattern become bound."""
    if isinstance(pattern, Var):
        if pattern.name not in bound and pattern.name not in ROOTS:
            found.add(pattern.name)
    elif isinstance(pattern, ast.Array):
        for item in pattern.items:
            _bind(item, found, bound)
    elif isinstance(pattern, ast.Object):
        for _, value in pattern.entries:
            _bind(value, found, bound)


def _unify(left: Term, right: Term, bound: Set[str], found: set[str]) -> None:
    """What `left = right` binds, given what is bound so far."""
    if isinstance(left, ast.Array) and isinstance(right, ast.Array) and len(left.items) == len(right.items):
        before = -1
        while before != len(found):  # one item may bind what another needs
            before = len(found)
            for first, second in zip(left.items, right.items, strict=True):
                _unify(first, second, bound, found)
        return
    if isinstance(left, ast.Object) and isinstance(right, ast.Object):
        values = dict(right.entries)
        before = -1
        while before != len(found):
            before = len(found)
            for key, value in left.entries:
                if key in values:
                    _unify(value, values[key], bound, found)
        return
    if _safe(left, bound, found):
        _bind(right, found, bound)
    elif _safe(right, bound, found):
        _bind(left, found, bound)
