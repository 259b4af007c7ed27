"""Names: every name of a module becomes a full reference or a local variable with a name of its own.

A name is, in this order: a variable declared in an enclosing body (argument, `some`, `:=`, `every`), a rule
of the package or an import, `input` or `data`, and otherwise a variable that the body uses without
declaring it. Such a variable belongs to the outermost body that mentions it. New names have a `~`, which
no author can write.

On the way `:=` and `some … in` become unifications, and template strings become calls. Not here: the order
of statements and whether their variables are safe (compile_order).
"""

from collections.abc import Iterable

from policies.language.compiler.scopes import Scope, Scopes, pattern_vars
from policies.language.compiler.terms import ROOTS, builtin_call, unification
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Call, Expr, Ref, String, Term, Var, dotted


class Names(Scopes):
    """What the names of a module stand for: `globals` maps rules and imports to full references."""

    # --- scopes

    def start_rule(self, arguments: Iterable[Term]) -> tuple[Term, ...]:
        """Forgets the rule before and declares the arguments of the next; gives them renamed."""
        self.taken = set()
        self.counter = 0
        self.scope = Scope(None, frozenset())
        renamed = []
        for argument in arguments:
            for variable in pattern_vars(argument):
                if (
                    variable.name not in ROOTS
                    and variable.name != "_"
                    and variable.name not in self.scope.declared
                ):
                    self.declare(variable, "argument")
            renamed.append(self.pattern(argument))
        return tuple(renamed)

    # --- resolving

    def term(self, term: Term) -> Term:
        """A term with its names resolved."""
        if isinstance(term, Var):
            return self.resolve(term)
        if isinstance(term, Ref):
            return self.reference(term)
        if isinstance(term, Call):
            if self.constants and not term.arguments and term.name in self.constants:
                return self.constants[term.name]
            arguments = tuple(self.term(argument) for argument in term.arguments)
            return Call(self.operator(term.operator), arguments, term.span, term.notation, term.grouped)
        if isinstance(term, ast.Array):
            return ast.Array(tuple(map(self.term, term.items)), term.span)
        if isinstance(term, ast.Set):
            return ast.Set(tuple(map(self.term, term.items)), term.span)
        if isinstance(term, ast.Object):
            return ast.Object(
                tuple((self.term(key), self.term(value)) for key, value in term.entries), term.span
            )
        if isinstance(term, ast.TemplateString):
            return self.template(term)
        if isinstance(term, ast.ArrayComprehension | ast.SetComprehension):
            body, (head,) = self.nested(term.body, (term.term,))
            return type(term)(head, body, term.span)
        if isinstance(term, ast.ObjectComprehension):
            body, (key, value) = self.nested(term.body, (term.key, term.value))
            return ast.ObjectComprehension(key, value, body, term.span)
        return term

    def reference(self, term: Ref) -> Term:
        """A reference whose head is resolved; references to references become one."""
        head = self.term(term.head)
        operands = tuple(
            operand if isinstance(operand, String) else self.term(operand) for operand in term.operands
        )
        if isinstance(head, Ref):
            return Ref(head.head, (*head.operands, *operands), term.span)
        return Ref(head, operands, term.span)

    def operator(self, operator: Ref) -> Ref:
        """The function that a call names: an own one in full, or the name of a built-in."""
        head = operator.head
        if isinstance(head, Var) and head.name not in ROOTS:
            scope: Scope | None = self.scope
            while scope is not None:
                local = scope.declared.get(head.name)
                if local is not None:
                    local.used = True
                    self.report(
                        operator.span, f"called function {head.name} shadowed", hint="rename the variable"
                    )
                    return operator
                scope = scope.outer
            target = self.globals.get(head.name)
            if target is not None:
                self.used_globals.add(head.name)
                return Ref(target.head, (*target.operands, *operator.operands), operator.span)
        return operator

    def nested(self, body: Body, terms: tuple[Term, ...]) -> tuple[Body, tuple[Term, ...]]:
        """A comprehension: its body first, then its head in the same scope."""
        self.open(body, terms)
        renamed = self.body(body)
        heads = tuple(self.term(term) for term in terms)
        self.close()
        return renamed, heads

    def template(self, term: ast.TemplateString) -> Term:
        """A template string as a call; a part that is undefined must not make the string undefined."""
        parts: list[Term] = []
        for part in term.parts:
            if isinstance(part, str):
                parts.append(String(part, term.span))
                continue
            self.open((part,))
            [statement] = self.body((part,))
            value = Var(self.fresh(), part.span)
            assert not isinstance(statement.node, ast.Some | ast.SomeIn | ast.Every | ast.Not)
            node = unification(value, statement.node, statement.node)
            self.close()
            body = (Expr(node, statement.modifiers, part.span, generated=True),)
            parts.append(ast.SetComprehension(value, body, part.span))
        return builtin_call("internal.template_string", (ast.Array(tuple(parts), term.span),), term)

    # --- statements

    def body(self, body: Body) -> Body:
        """The statements of the scope that was opened last; declarations are gone afterwards."""
        renamed: list[Expr] = []
        for expression in body:
            modifiers = tuple(
                ast.With(self.target(modifier.target), self.replacement(modifier.value), modifier.span)
                for modifier in expression.modifiers
            )
            node = self.statement(expression.node)
            if node is not None:
                renamed.append(Expr(node, modifiers, expression.span, expression.generated))
        return tuple(renamed)

    def statement(self, node: ast.ExprNode) -> ast.ExprNode | None:
        """One statement, or None for a plain declaration."""
        if isinstance(node, ast.Some):
            for variable in node.variables:
                if variable.name != "_":
                    self.declare(variable, "declared")
            return None
        if isinstance(node, ast.SomeIn):
            return self.some_in(node)
        if isinstance(node, ast.Every):
            return self.every(node)
        if isinstance(node, ast.Not):
            if node.explicit_body:
                self.open(node.body)
                inner = self.body(node.body)
                self.close()
                return ast.Not(inner, True, node.span)
            [expression] = node.body
            if isinstance(expression.node, Call) and expression.node.name == "assign":
                self.report(
                    expression.span,
                    "cannot assign vars inside negated expression",
                    hint="assign before it, or use ==",
                )
            return ast.Not(self.body(node.body), False, node.span)
        if isinstance(node, Call) and node.name == "assign" and len(node.arguments) == 2:
            return self.assignment(node)
        if isinstance(node, Call) and node.name == "print" and "print" not in self.globals:
            # It shows values while a policy is debugged and has no part in a decision: even a value that
            # is undefined must not stop the rule.
            self.term(node)
            return ast.Boolean(True, node.span)
        return self.term(node)

    def assignment(self, node: Call) -> Term:
        """`pattern := value`: the value belongs to the scope before, the pattern's variables are new."""
        pattern, value = node.arguments
        renamed = self.term(value)
        if isinstance(pattern, Ref | Call | ast.Comprehension | ast.TemplateString):
            word = {Ref: "ref", Call: "call", ast.TemplateString: "template string"}.get(
                type(pattern), "comprehension"
            )
            hint = "use == to compare" + (", or `with` to replace input or data" if word == "ref" else "")
            self.report(pattern.span, f"cannot assign to {word}", hint=hint)
            return renamed
        for variable in pattern_vars(pattern):
            if variable.name != "_":
                self.declare(variable, "assigned")
        return unification(self.pattern(pattern), renamed, node)

    def pattern(self, pattern: Term) -> Term:
        """Variables of a pattern just declared; reading them here is no use of them."""
        declared = self.scope.declared
        names = {variable.name for variable in pattern_vars(pattern)} & declared.keys()
        used = {name: declared[name].used for name in names}
        renamed = self.term(pattern)
        for name, was_used in used.items():
            declared[name].used = was_used
        return renamed

    def some_in(self, node: ast.SomeIn) -> Term:
        """`some k, v in xs` is `v = xs[k]` with new variables."""
        domain = self.term(node.domain)
        patterns = [node.value] if node.key is None else [node.key, node.value]
        names: set[str] = set()
        for pattern in patterns:
            for variable in pattern_vars(pattern):
                if variable.name != "_" and variable.name not in names:
                    names.add(variable.name)
                    self.declare(variable, "declared")
                    if (local := self.scope.declared.get(variable.name)) is not None:
                        local.used = True  # `some x in xs` alone asks whether there is any
        key: Term = Var(self.fresh("_"), node.span) if node.key is None else self.pattern(node.key)
        value = self.pattern(node.value)
        if isinstance(domain, Ref):
            element = Ref(domain.head, (*domain.operands, key), node.span)
        else:
            element = Ref(domain, (key,), node.span)
        return unification(value, element, element)

    def every(self, node: ast.Every) -> ast.Every:
        """`every k, v in xs { … }`."""
        domain = self.term(node.domain)
        self.open(node.body)
        key: Var | None = None
        if node.key is not None:
            key = self.every_variable(node.key)
        value = self.every_variable(node.value)
        body = self.body(node.body)
        self.close()
        return ast.Every(key, value, domain, body, node.span)

    def every_variable(self, variable: Var) -> Var:
        if variable.name != "_":
            self.declare(variable, "every")
            if (local := self.scope.declared.get(variable.name)) is not None:
                return Var(local.name, variable.span)
        return Var(self.fresh("_"), variable.span)

    def replacement(self, value: Term) -> Term:
        """The value of `with`, which may be the bare name of a built-in."""
        reference = Ref(value, (), value.span) if isinstance(value, Var) else value
        if isinstance(reference, Ref) and isinstance(reference.head, Var):
            name = reference.head.name
            scope: Scope | None = self.scope
            while scope is not None and name not in scope.declared:
                scope = scope.outer
            if scope is None and name not in self.globals and dotted(reference) in self.builtins:
                return reference
        return self.term(value)

    def target(self, target: Ref) -> Ref:
        """The target of `with`: input, data or a function."""
        head = target.head
        if isinstance(head, Var) and head.name not in ROOTS:
            found = self.globals.get(head.name)
            if found is not None:
                self.used_globals.add(head.name)
                return Ref(found.head, (*found.operands, *target.operands), target.span)
        return target
