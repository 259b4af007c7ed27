"""The part of the parser that reads what stands in brackets: arrays, sets, objects, comprehensions,
grouped terms, template strings.

Not here: what stands around and between brackets (parser_terms).
"""

from policies.language.syntax import ast
from policies.language.syntax.ast import Term
from policies.language.syntax.cursor import Cursor
from policies.language.syntax.lexer import TEMPLATE_CLOSE, TEMPLATE_END, TEMPLATE_OPEN, TEMPLATE_TEXT


class BracketParser(Cursor):
    """Reads brackets by means of the layers above it."""

    def parse_bracket(self, kind: str, start: int) -> Term:
        """What stands in ( ), [ ], { } or a template string."""
        self.index += 1
        if kind == "(":
            term = self.parse_operation()
            self.expect(")", "`)`")
            if isinstance(term, ast.Call):
                return ast.Call(term.operator, term.arguments, self.span_from(start), term.notation, True)
            return term
        if kind == "[":
            return self.parse_array(start)
        if kind == "{":
            return self.parse_braces(start)
        return self.parse_template(start)

    def parse_array(self, start: int) -> Term:
        """`[a, b]` or `[a | body]`, behind the opening bracket."""
        body = self.comprehension_body("]")
        if body is not None:
            return ast.ArrayComprehension(body[0], body[1], self.span_from(start))
        return ast.Array(tuple(self.parse_list("]")), self.span_from(start))

    def parse_braces(self, start: int) -> Term:
        """An object, a set or one of their comprehensions, behind the opening brace."""
        if self.kinds[self.index] == "}":
            self.index += 1
            return ast.Object((), self.span_from(start))
        body = self.comprehension_body("}")
        if body is not None:
            return ast.SetComprehension(body[0], body[1], self.span_from(start))
        first = self.parse_infix()
        if self.kinds[self.index] != ":":
            return ast.Set((first, *self.parse_rest("}")), self.span_from(start))
        self.index += 1
        at = self.index
        body = self.comprehension_body("}")
        if body is not None:
            return ast.ObjectComprehension(first, body[0], body[1], self.span_from(start))
        self.index = at
        entries = [(first, self.parse_infix())]
        while self.kinds[self.index] == ",":
            self.index += 1
            if self.kinds[self.index] == "}":
                break
            key = self.parse_infix()
            self.expect(":", "`:` between key and value")
            entries.append((key, self.parse_infix()))
        self.expect("}", "`,` or `}`")
        return ast.Object(tuple(entries), self.span_from(start))

    def comprehension_body(self, closing: str) -> tuple[Term, ast.Body] | None:
        """The head and body of a comprehension, or None (nothing consumed) where there is none.

        A head is a single operand: `[x | …]` is always a comprehension and never the operator `|`.
        """
        at = self.index
        if self.kinds[at] == closing:
            return None
        # Most brackets hold no `|` right after their first operand; a look at the operand's first token
        # is cheap, reading it twice is not, so operands that are brackets themselves are skipped over.
        end = self.end_of_operand(at)
        if self.kinds[end] != "|":
            return None
        head = self.parse_operand()
        if self.index != end:
            self.unexpected("`|` and the body of the comprehension")
        self.index += 1
        body = self.parse_body(closing)
        self.expect(closing)
        return head, body

    def parse_list(self, closing: str) -> list[Term]:
        """Terms up to the closing bracket, which is consumed; a comma at the end is fine."""
        if self.kinds[self.index] == closing:
            self.index += 1
            return []
        first = self.parse_infix()
        return [first, *self.parse_rest(closing)]

    def parse_rest(self, closing: str) -> list[Term]:
        """The terms behind the first of a list."""
        terms = []
        while self.kinds[self.index] == ",":
            self.index += 1
            if self.kinds[self.index] == closing:
                break
            terms.append(self.parse_infix())
        self.expect(closing, f"`,` or `{closing}`")
        return terms

    def parse_template(self, start: int) -> Term:
        """The parts of a template string."""
        raw = self.values[self.index - 1] == "`"
        parts: list[str | ast.Expr] = []
        while self.kinds[self.index] != TEMPLATE_END:
            if self.kinds[self.index] == TEMPLATE_TEXT:
                parts.append(self.values[self.index])
                self.index += 1
                continue
            opening = self.expect(TEMPLATE_OPEN, "text or {expression}")
            if self.kinds[self.index] == TEMPLATE_CLOSE:
                span = self.tokens.span(opening).to(self.tokens.span(self.index))
                self.fail(
                    span,
                    "invalid template string: empty expression",
                    "an expression",
                    "a brace as text is written \\{",
                )
            parts.append(self.parse_interpolation())
            self.expect(TEMPLATE_CLOSE, "`}` after the expression of a template string")
        self.index += 1
        return ast.TemplateString(tuple(parts), self.span_from(start), raw)

    # --- what the next layers add

    def parse_operand(self) -> Term:
        """A term without operators around it."""
        raise NotImplementedError

    def parse_infix(self, loosest: int = 1) -> Term:
        """A term with operators."""
        raise NotImplementedError

    def parse_operation(self) -> Term:
        """A term with operators, and `k, v in xs` as well."""
        raise NotImplementedError

    def parse_body(self, closing: str) -> ast.Body:
        """Statements up to (not including) the closing bracket."""
        raise NotImplementedError

    def parse_interpolation(self) -> ast.Expr:
        """The expression between the braces of a template string."""
        raise NotImplementedError
