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
            members = {_identity(first): first}
            for member in self.parse_rest("}"):
                members.setdefault(_identity(member), member)
            return ast.Set(tuple(members.values()), self.span_from(start))
        self.index += 1
        at = self.index
        body = self.comprehension_body("}")
        if body is not None:
            return ast.ObjectComprehension(first, body[0], body[1], self.span_from(start))
        self.index = at
        entries = {_identity(first): (first, self.parse_infix())}
        while self.kinds[self.index] == ",":
            self.index += 1
            if self.kinds[self.index] == "}":
                break
            key = self.parse_infix()
            self.expect(":", "`:` between key and value")
            known, _ = entries.get(_identity(key), (key, None))
            entries[_identity(key)] = (known, self.parse_infix())
        self.expect("}", "`,` or `}`")
        return ast.Object(tuple(entries.values()), self.span_from(start))

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
        """The parts of a template string; a constant between braces is text."""
        raw = self.values[self.index - 1] == "`"
        parts: list[str | ast.Expr] = []
        while self.kinds[self.index] != TEMPLATE_END:
            if self.kinds[self.index] == TEMPLATE_TEXT:
                _add_part(parts, self.values[self.index])
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
            part = self.parse_interpolation()
            constant = _constant_text(part, raw=raw)
            _add_part(parts, part if constant is None else constant)
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


def _identity(term: Term) -> object:
    """Equal for the same constant or variable, which a set holds once, and an object with its last value.

    Larger terms are told apart by place: to compare them at every level would cost their depth over again.
    """
    if isinstance(term, ast.Scalar) or (isinstance(term, ast.Var) and term.name != "_"):
        return term
    return term.span.start


def _constant_text(part: ast.Expr, *, raw: bool) -> str | None:
    """What a constant shows in a template string; None for what is none, or can't stand in a raw one."""
    node = part.node
    if part.modifiers or not isinstance(node, ast.String | ast.Number | ast.Boolean | ast.Null):
        return None
    if isinstance(node, ast.String):
        return None if raw and ("`" in node.value or "\\" in node.value) else node.value
    return node.span.text


def _add_part(parts: list[str | ast.Expr], part: str | ast.Expr) -> None:
    """Adds a part; text behind text is one part with it."""
    last = parts[-1] if parts else None
    if isinstance(part, str) and isinstance(last, str):
        parts[-1] = last + part
    else:
        parts.append(part)
