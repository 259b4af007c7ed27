"""The part of the parser that reads statements: expressions, `some`, `every`, `not`, `with`, bodies.

Statements of a body are separated by `;` or a line end. An operator at the start of a line continues the
statement before it, as in OPA.
"""

from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Expr, Ref, Term, Var
from policies.language.syntax.lexer import NAME, TEMPLATE_CLOSE, Tokens
from policies.language.syntax.terms import TermParser, operator_reference

_INFIX_STATEMENTS = {":=": "assign", "=": "eq"}


class StatementParser(TermParser):
    """Reads bodies; `strict_not` tells that the module imports future.keywords.not."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__(tokens)
        self.strict_not = False

    def parse_body(self, closing: str) -> Body:
        """Statements up to (not including) the closing bracket; at least one."""
        if self.kinds[self.index] == closing:
            self.unexpected("a statement", "a body can't be empty; write `true` for one that always holds")
        statements = [self.parse_statement()]
        while True:
            kind = self.kinds[self.index]
            if kind == ";":
                self.index += 1
                if self.kinds[self.index] == closing:
                    break
            elif kind == closing:
                break
            elif not self.newline[self.index]:
                self.unexpected(f"a line end, `;` or `{closing}`")
            statements.append(self.parse_statement())
        return tuple(statements)

    def parse_statement(self) -> Expr:
        """One statement with its `with` modifiers."""
        index = self.index
        kind, start = self.kinds[index], self.starts[index]
        node: ast.ExprNode
        if kind in ("not", "some", "every") and not self.is_keyword_name(index):
            self.index = index + 1
            if kind == "not":
                node = self.parse_not(start)
            else:
                node = self.parse_some(start) if kind == "some" else self.parse_every(start)
        else:
            node = self.parse_expression()
        modifiers = self.parse_modifiers()
        return Expr(node, modifiers, self.span_from(start))

    def parse_expression(self) -> Term:
        """A term, or two of them joined by `:=` or `=`."""
        start = self.starts[self.index]
        left = self.parse_operation()
        index = self.index
        name = _INFIX_STATEMENTS.get(self.kinds[index])
        if name is None:
            return left
        self.index = index + 1
        right = self.parse_operation()
        if self.kinds[self.index] in _INFIX_STATEMENTS:
            self.unexpected("the end of the statement", "one statement holds one `:=` or `=`")
        operator = operator_reference(name, self.tokens.span(index))
        return ast.Call(operator, (left, right), self.span_from(start), ast.Notation.INFIX)

    def parse_interpolation(self) -> Expr:
        """The expression of a template string: a term, perhaps with `with`."""
        start = self.starts[self.index]
        term = self.parse_operation()
        if self.kinds[self.index] in _INFIX_STATEMENTS:
            self.unexpected("`}`", "a template string shows values; assign before it")
        modifiers = self.parse_modifiers()
        if self.kinds[self.index] != TEMPLATE_CLOSE:
            self.unexpected("`}` after the expression of a template string")
        return Expr(term, modifiers, self.span_from(start))

    def parse_not(self, start: int) -> ast.Not:
        """What follows `not`."""
        kind = self.kinds[self.index]
        if kind in ("some", "every", "not") and not self.is_keyword_name(self.index):
            self.fail(
                self.tokens.span(self.index),
                f"unexpected {kind} keyword: not can't be followed by {kind}",
                "an expression",
                "put the negated part into a rule of its own and negate that"
                + ("" if kind == "not" else ", or import future.keywords.not and write not { … }"),
            )
        if self.strict_not and kind == "{":
            self.index += 1
            block = self.parse_body("}")
            self.expect("}")
            return ast.Not(block, True, self.span_from(start))
        at = self.starts[self.index]
        expression = Expr(self.parse_expression(), (), self.span_from(at))
        return ast.Not((expression,), False, self.span_from(start))

    def parse_block(self) -> Body | None:
        """`{ body }` where a term may stand as well; None, with nothing consumed, when it is a term.

        A literal wins where both readings fit, except that a set is a body: `{ x }` is a body of one
        statement, `{}` the empty object, `{x | y}` a comprehension and `{1} == x` a comparison.
        """
        at = self.index
        literal_end = self.after_unit(at)
        if self.kinds[at + 1] == "}":
            return None
        if self.kinds[literal_end] in _CONTINUES and not self.newline[literal_end]:
            return None
        if self.kinds[self.end_of_operand(at + 1)] in ("|", ":"):
            return None
        self.index = at + 1
        body = self.parse_body("}")
        self.expect("}")
        return body

    def parse_some(self, start: int) -> ast.Some | ast.SomeIn:
        """What follows `some`."""
        terms = [self.parse_infix(2)]
        while self.kinds[self.index] == ",":
            self.index += 1
            terms.append(self.parse_infix(2))
        if self.kinds[self.index] == "in":
            if len(terms) > 2:
                self.unexpected("at most two variables before `in`: some key, value in collection")
            self.index += 1
            domain = self.parse_infix(2)
            key = terms[0] if len(terms) == 2 else None
            return ast.SomeIn(key, terms[-1], domain, self.span_from(start))
        variables = []
        for term in terms:
            if not isinstance(term, Var):
                self.fail(term.span, "illegal some declaration", "variables: some x, y, or some x in xs")
            variables.append(term)
        return ast.Some(tuple(variables), self.span_from(start))

    def parse_every(self, start: int) -> ast.Every:
        """What follows `every`."""
        names = [self.parse_variable()]
        if self.kinds[self.index] == ",":
            self.index += 1
            names.append(self.parse_variable())
        self.expect("in", "`in` after the variable of every")
        domain = self.parse_infix(2)
        self.expect("{", "`{` and the body of every")
        body = self.parse_body("}")
        self.expect("}")
        key = names[0] if len(names) == 2 else None
        return ast.Every(key, names[-1], domain, body, self.span_from(start))

    def parse_variable(self) -> Var:
        """A plain name."""
        index = self.expect(NAME, "a variable")
        return Var(self.values[index], self.tokens.span(index))

    def parse_modifiers(self) -> tuple[ast.With, ...]:
        """`with target as value`, any number of times."""
        if self.kinds[self.index] != "with" or self.is_keyword_name(self.index):
            return ()
        modifiers = []
        while self.kinds[self.index] == "with" and not self.is_keyword_name(self.index):
            start = self.starts[self.index]
            self.index += 1
            target = self.parse_operand()
            if isinstance(target, Var):
                target = Ref(target, (), target.span)
            if not isinstance(target, Ref):
                self.fail(
                    target.span, "with keyword target must be a reference", "input…, data… or a function"
                )
            self.expect("as", "`as` and a value")
            value = self.parse_infix()
            modifiers.append(ast.With(target, value, self.span_from(start)))
        return tuple(modifiers)


_CONTINUES = frozenset(
    ("==", "!=", "<", "<=", ">", ">=", "|", "&", "+", "-", "*", "/", "%", "in", ":=", "=", ".", "[", ",")
)
