"""Statements in an order in which each finds its variables bound, and terms lowered to single values.

The order is the author's, except that a statement waits for those that bind what it needs. When a
statement's turn has come, references in it that iterate are bound by generated unifications before it, and
so is, under the default meaning of `not`, everything that OPA evaluates outside of the negation: calls,
and references anywhere but directly on a side of `=` or `==`.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from heapq import heappop, heappush

from policies.language.compiler.names import Names
from policies.language.compiler.safety import ArityOf, needs, outputs
from policies.language.compiler.terms import ROOTS, direct_vars, node_terms, rebuilt, unification
from policies.language.diagnostics import MAX_SHOWN, Diagnostic, ErrorCode, did_you_mean
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Call, Expr, Ref, Term, Var, dotted

_EQUALITIES = ("eq", "equal")
_DASHED = re.compile(r"([\w.]+)\.(\w+)-\Z")


class Order:
    """Orders and lowers the bodies of one rule."""

    def __init__(self, names: Names, arity: ArityOf, relations: frozenset[str], strict_not: bool) -> None:
        self.names = names
        self.arity = arity
        self.relations = relations
        self.strict_not = strict_not
        self.diagnostics: list[Diagnostic] = []
        self.newly_bound: set[str] = set()  # since the statement at hand was taken up

    # --- bodies

    def body(self, body: Body, bound: set[str], outer: set[str], heads: Iterable[Term] = ()) -> list[Expr]:
        """The body in order; `bound` grows by what it binds. Unsafe variables are reported.

        `outer` are the variables of this body and those around it (what nested bodies may mention);
        `heads` are terms evaluated afterwards, which may bind by iteration what the body lacks.
        """
        outer = outer | {v.name for e in body for t in node_terms(e.node) for v in direct_vars(t)}
        outer |= {variable.name for head in heads for variable in direct_vars(head)}
        outer -= ROOTS
        waiting = [part for expression in body for part in self.prepared(expression)]
        ordered: list[Expr] = []
        waiting = self.settle(waiting, bound, outer, ordered)
        if waiting:
            extra = [self.bind_head(head) for head in heads if isinstance(head, Ref | Call)]
            waiting = self.settle([*waiting, *extra], bound, outer, ordered)
        if waiting:
            self.report_unsafe(waiting, bound, outer)
        return ordered

    def settle(
        self, waiting: list[Expr], bound: set[str], outer: set[str], ordered: list[Expr]
    ) -> list[Expr]:
        """Moves what can be evaluated to `ordered`, the author's first statement first; gives what is left.

        A statement that must wait is looked at again only when one of the variables that it waits for is
        bound, so that a long body takes time in proportion to its variables.
        """
        watchers: dict[str, list[int]] = {}
        left = dict(enumerate(waiting))
        ready: list[int] = []

        def look(index: int) -> None:
            missing = self.missing(left[index], bound, outer)
            if not missing:
                heappush(ready, index)
            for name in missing:
                watchers.setdefault(name, []).append(index)

        enclosing, self.newly_bound = self.newly_bound, set()
        for index in range(len(waiting)):
            look(index)
        while ready:
            index = heappop(ready)
            if index not in left:
                continue
            self.newly_bound = set()
            self.lower(left.pop(index), bound, outer, ordered)
            woken = {i for name in self.newly_bound for i in watchers.pop(name, ()) if i in left}
            for other in sorted(woken):
                look(other)
        self.newly_bound = enclosing
        return list(left.values())

    def bind(self, bound: set[str], names: set[str]) -> None:
        """Variables become bound in the body at hand."""
        bound |= names
        self.newly_bound |= names

    def missing(self, expression: Expr, bound: set[str], outer: set[str]) -> dict[str, Var]:
        """The variables a statement waits for, those of its `with` values included."""
        missing = needs(expression.node, bound, outer, self.arity)
        for modifier in expression.modifiers:
            if not self.names_builtin(modifier.value):
                missing.update(needs(modifier.value, bound, outer, self.arity))
        return missing

    def names_builtin(self, value: Term) -> bool:
        """Whether the value of a `with` is the name of a built-in (which is no variable)."""
        return isinstance(value, Ref) and dotted(value) in self.names.builtins

    def bind_head(self, head: Term) -> Expr:
        """A statement that evaluates a head term for the variables that it binds."""
        value = Var(self.names.fresh(), head.span)
        return Expr(unification(value, head, head), (), head.span, generated=True)

    def report_unsafe(self, waiting: list[Expr], bound: set[str], outer: set[str]) -> None:
        """One error for each variable that nothing binds."""
        seen: set[str] = set()
        for expression in waiting:
            missing = self.missing(expression, bound, outer)
            for name, variable in missing.items():
                # A generated variable lacks its value because the author's variables in it do.
                echo = name.startswith("~") and any(not other.startswith("~") for other in missing)
                if name not in seen and not echo and len(self.diagnostics) < MAX_SHOWN:
                    seen.add(name)
                    self.unsafe(variable, expression)

    def unsafe(self, variable: Var, expression: Expr | None = None) -> None:
        """Reports one unsafe variable with the likeliest reason; without a statement it stands in a head."""
        name = variable.name.split("~")[0] or "_"
        message, hint = f"var {name} is unsafe", ""
        start = variable.span.start
        dashed = _DASHED.search(variable.span.source.text[max(0, start - 200) : start])
        if name == "_" and expression is not None and isinstance(expression.node, ast.Not):
            hint = "not can't iterate: make that a rule of its own or, with future.keywords.not, a not { … }"
        elif dashed is not None:
            hint = f'a minus is an operator: write {dashed.group(1)}["{dashed.group(2)}-{name}"]'
        elif expression is None and name not in self.names.globals:
            hint = f"bind it in the body: {name} := …, or some {name} in …"
        else:
            near = did_you_mean(name, self.names.globals) if len(name) > 2 else ""
            hint = f"no rule, import or bound variable has this name; {near or f'bind it: {name} := …'}"
        self.diagnostics.append(Diagnostic(variable.span, ErrorCode.UNSAFE_VAR, message, hint=hint))

    # --- statements

    def prepared(self, expression: Expr) -> list[Expr]:
        """A statement after the rewriting that comes before safety: under the default meaning of `not`,
        calls nested in a negation are evaluated before it.
        """
        node = expression.node
        if not isinstance(node, ast.Not) or node.explicit_body or self.strict_not:
            return [expression]
        [inner] = node.body
        before: list[Expr] = []
        term = inner.node
        if isinstance(term, ast.Some | ast.SomeIn | ast.Every | ast.Not):
            return [expression]

        def pulled(part: Term) -> Term:
            part = rebuilt(part, pulled)
            if not isinstance(part, Call):
                return part
            value = Var(self.names.fresh(), part.span)
            node = unification(value, part, part)
            before.append(Expr(node, expression.modifiers, part.span, generated=True))
            return value

        negated = replace(inner, node=rebuilt(term, pulled))
        return [*before, replace(expression, node=replace(node, body=(negated,)))]

    def lower(self, expression: Expr, bound: set[str], outer: set[str], ordered: list[Expr]) -> None:
        """Appends a statement whose needs are met, with the generated ones before it."""
        modifiers: list[ast.With] = []
        for modifier in expression.modifiers:
            if self.names_builtin(modifier.value):
                modifiers.append(modifier)
                continue
            value = self.single(modifier.value, bound, outer, (), ordered)
            modifiers.append(replace(modifier, value=value))
        lowering = _Lowering(self, bound, outer, tuple(modifiers), ordered)
        node = lowering.statement(expression.node)
        self.bind(bound, outputs(node, bound, self.arity))
        ordered.append(Expr(node, tuple(modifiers), expression.span, expression.generated))

    def single(
        self,
        term: Term,
        bound: set[str],
        outer: set[str],
        modifiers: tuple[ast.With, ...],
        ordered: list[Expr],
    ) -> Term:
        """A term of at most one value; what iterates in it is bound by statements added to `ordered`."""
        return _Lowering(self, bound, outer, modifiers, ordered).single(term)


class _Lowering:
    """One statement on its way into the compiled body."""

    def __init__(
        self,
        order: Order,
        bound: set[str],
        outer: set[str],
        modifiers: tuple[ast.With, ...],
        ordered: list[Expr],
    ) -> None:
        self.order = order
        self.bound = bound
        self.outer = outer
        self.modifiers = modifiers
        self.ordered = ordered

    def statement(self, node: ast.ExprNode) -> ast.ExprNode:
        """The node as the evaluators see it."""
        if isinstance(node, ast.Every):
            return self.every(node)
        if isinstance(node, ast.Not):
            return self.negation(node)
        assert not isinstance(node, ast.Some | ast.SomeIn)
        if isinstance(node, Call) and node.name in _EQUALITIES and len(node.arguments) == 2:
            return unification(self.side(node.arguments[0]), self.side(node.arguments[1]), node)
        if isinstance(node, Call):
            declared = self.order.arity(node)
            if declared is not None and len(node.arguments) == declared + 1:
                call = Call(node.operator, node.arguments[:-1], node.span)
                return unification(self.side(node.arguments[-1]), self.side(call), node)
        return self.side(node)

    def side(self, term: Term) -> Term:
        """A whole statement or a side of `=`: a reference may iterate here, a literal may be a pattern."""
        if isinstance(term, Ref):
            return self.reference(term)
        if isinstance(term, Call):
            return rebuilt(term, self.single)
        if isinstance(term, ast.Array):
            return rebuilt(term, self.pattern_item)
        if isinstance(term, ast.Object):
            entries = tuple((self.single(key), self.pattern_item(value)) for key, value in term.entries)
            return ast.Object(entries, term.span)
        if isinstance(term, Var):
            return term
        return self.single(term)

    def pattern_item(self, term: Term) -> Term:
        """A part of a literal on a side of `=`."""
        return self.side(term) if isinstance(term, Var | ast.Array | ast.Object) else self.single(term)

    def reference(self, term: Ref) -> Ref:
        """A reference whose operands are single values or unbound variables."""
        head = term.head
        if not isinstance(head, Var):
            head = self.generated(self.side(head))
        operands = tuple(self.operand(operand) for operand in term.operands)
        return Ref(head, operands, term.span)

    def operand(self, term: Term) -> Term:
        if isinstance(term, ast.String | Var):
            return term
        if isinstance(term, ast.Array | ast.Object):
            return self.side(term)
        return self.single(term)

    def single(self, term: Term) -> Term:
        """A term of at most one value."""
        if isinstance(term, Ref):
            reference = self.reference(term)
            if any(v.name not in self.bound and v.name not in ROOTS for v in direct_vars(reference)):
                return self.generated(reference)
            return reference
        if isinstance(term, Call):
            call = rebuilt(term, self.single)
            return (
                self.generated(call) if isinstance(call, Call) and call.name in self.order.relations else call
            )
        if isinstance(term, ast.ArrayComprehension | ast.SetComprehension):
            body, (head,) = self.nested(term.body, (term.term,))
            return type(term)(head, body, term.span)
        if isinstance(term, ast.ObjectComprehension):
            body, (key, value) = self.nested(term.body, (term.key, term.value))
            return ast.ObjectComprehension(key, value, body, term.span)
        return rebuilt(term, self.single)

    def generated(self, term: Term) -> Var:
        """A new variable unified with a term by a statement before this one."""
        value = Var(self.order.names.fresh(), term.span)
        node = unification(value, term, term)
        self.order.bind(self.bound, outputs(node, self.bound, self.order.arity))
        self.ordered.append(Expr(node, self.modifiers, term.span, generated=True))
        return value

    def nested(self, body: Body, heads: tuple[Term, ...]) -> tuple[Body, tuple[Term, ...]]:
        """A comprehension's body and heads."""
        bound = set(self.bound)
        ordered = self.order.body(body, bound, self.outer, heads)
        lowered = tuple(lower_head(self.order, head, bound, self.outer, ordered) for head in heads)
        return tuple(ordered), lowered

    def every(self, node: ast.Every) -> ast.Every:
        """`every`: the domain is one value, the body a body of its own."""
        domain = self.single(node.domain)
        bound = self.bound | {node.value.name} | ({node.key.name} if node.key else set())
        body = self.order.body(node.body, bound, self.outer)
        return ast.Every(node.key, node.value, domain, tuple(body), node.span)

    def negation(self, node: ast.Not) -> ast.Not:
        """`not`, by the meaning that the module chose."""
        if node.explicit_body or self.order.strict_not:
            inner = self.order.body(node.body, set(self.bound), self.outer)
            return ast.Not(tuple(inner), node.explicit_body, node.span)
        [expression] = node.body
        negated = replace(expression, node=self.hoisted(expression.node))
        return ast.Not((negated,), False, node.span)

    def hoisted(self, node: ast.ExprNode) -> ast.ExprNode:
        """A negated statement with everything bound before it that OPA binds before it."""
        if isinstance(node, ast.Every | ast.Not):
            return self.statement(node)
        assert not isinstance(node, ast.Some | ast.SomeIn)
        if isinstance(node, Call):
            declared = self.order.arity(node)
            if node.name in _EQUALITIES and len(node.arguments) == 2:
                return unification(self.kept(node.arguments[0]), self.kept(node.arguments[1]), node)
            if declared is not None and len(node.arguments) == declared + 1:
                arguments = tuple(map(self.before, node.arguments[:-1]))
                call = Call(node.operator, arguments, node.span)
                return unification(self.before(node.arguments[-1]), call, node)
            return rebuilt(node, self.before)
        return self.kept(node)

    def kept(self, term: Term) -> Term:
        """A side of `=` under `not`: a plain reference stays, what is inside of it goes before."""
        if isinstance(term, Ref):
            head = term.head if isinstance(term.head, Var) else self.before(term.head)
            return Ref(head, tuple(map(self.before, term.operands)), term.span)
        return self.before(term)

    def before(self, term: Term) -> Term:
        """A term that is evaluated before the negation wherever it could be undefined."""
        if isinstance(term, Ref):
            return self.generated(self.reference(term))
        if isinstance(term, Call):
            return self.generated(rebuilt(term, self.single))
        if isinstance(term, ast.Comprehension):
            return self.single(term)
        return rebuilt(term, self.before)


def lower_head(order: Order, head: Term, bound: set[str], outer: set[str], ordered: list[Expr]) -> Term:
    """A head term as a single value, after the body; unsafe variables in it are reported."""
    missing = needs(head, bound, outer | {v.name for v in direct_vars(head)}, order.arity)
    if missing:
        for variable in missing.values():
            order.unsafe(variable)
        return head
    return order.single(head, bound, outer, (), ordered)
