"""The part of the parser that reads terms: literals, references, calls, operators, comprehensions.

Operators are read by precedence climbing in one loop, all of them left-associative, loosest first:
`in`, comparisons, `|`, `&`, `+ -`, `* / %`. The height of every tree is counted while it grows, so that
whoever walks a parsed tree by recursion is safe: no tree is higher than MAX_HEIGHT.

Not here: statements and rules, which stand on this.
"""

from typing import Final, NoReturn

from policies.language import ast
from policies.language.ast import Notation, Ref, String, Term, Var
from policies.language.diagnostics import Diagnostic, ErrorCode
from policies.language.lexer import (
    EOF,
    KEYWORDS,
    NAME,
    NUMBER,
    RAW,
    STRING,
    TEMPLATE_CLOSE,
    TEMPLATE_END,
    TEMPLATE_OPEN,
    TEMPLATE_START,
    TEMPLATE_TEXT,
    Tokens,
)
from policies.language.source import Span

MAX_HEIGHT: Final = 120
"""Levels of a term tree; a chain of n operators has n levels."""

_OPERATORS: Final[dict[str, tuple[int, str]]] = {
    "in": (1, "internal.member_2"),
    "==": (2, "equal"),
    "!=": (2, "neq"),
    "<": (2, "lt"),
    "<=": (2, "lte"),
    ">": (2, "gt"),
    ">=": (2, "gte"),
    "|": (3, "or"),
    "&": (4, "and"),
    "+": (5, "plus"),
    "-": (5, "minus"),
    "*": (6, "mul"),
    "/": (6, "div"),
    "%": (6, "rem"),
}
_TIGHTER_THAN_IN: Final = 2
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", TEMPLATE_OPEN: TEMPLATE_CLOSE}
_NO_REFERENCE: Final = (ast.Null, ast.Boolean, ast.Number, ast.String, ast.TemplateString)


class Failure(Exception):
    """One syntax error; the parser catches it at the next rule and goes on."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class TermParser:
    """Reads terms from a token list; `index` is the next token."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.kinds = tokens.kinds
        self.values = tokens.values
        self.starts = tokens.starts
        self.ends = tokens.ends
        self.newline = tokens.newline
        self.source = tokens.source
        self.index = 0
        self.height = 1  # of the term read last
        self.highest = 0  # of the terms read since the enclosing bracket

    # --- tokens

    def span_from(self, start: int) -> Span:
        """From the character `start` to the end of the token read last."""
        return Span(self.source, start, self.ends[self.index - 1])

    def touches(self, index: int) -> bool:
        """Whether token `index` follows the one before it without a gap."""
        return self.starts[index] == self.ends[index - 1]

    def expect(self, kind: str, expected: str = "") -> int:
        """Consumes a token of that kind and gives its index."""
        index = self.index
        if self.kinds[index] != kind:
            self.unexpected(expected or f"`{kind}`")
        self.index = index + 1
        return index

    def unexpected(self, expected: str, hint: str = "") -> NoReturn:
        """Fails at the next token."""
        index = self.index
        kind = self.kinds[index]
        if kind == EOF:
            self.unexpected_end(expected)
        shown = self.values[index] if kind not in (STRING, RAW) else f'"{self.values[index][:20]}"'
        message = (
            f"unexpected {shown or kind}" if kind != TEMPLATE_END else "unexpected end of a template string"
        )
        if kind in ("&", "|") and index and self.kinds[index - 1] == kind and self.touches(index):
            message = f"unexpected {'and' if kind == '&' else 'or'} token: Rego has no {kind * 2}"
            hint = (
                "put each condition on its own line, or ; between them"
                if kind == "&"
                else "write a second rule with the same head: rules are alternatives"
            )
        elif kind in KEYWORDS:
            message += f" keyword: {kind} is reserved"
        self.fail(self.tokens.span(index), message, expected, hint)

    def unexpected_end(self, expected: str) -> NoReturn:
        """Fails at the end of the text, naming the bracket that was never closed where there is one."""
        opened: list[int] = []
        for index, kind in enumerate(self.kinds):
            if kind in _CLOSING:
                opened.append(index)
            elif opened and kind in (")", "]", "}", TEMPLATE_CLOSE):
                opened.pop()
        end = self.tokens.span(len(self.kinds) - 1)
        if not opened:
            self.fail(end, "unexpected end of the policy (eof)", expected)
        # A closing bracket that is missing shows where the next rule begins at the left margin.
        bracket = self.kinds[opened[0]]
        self.fail(
            self.tokens.span(opened[0]),
            f"unexpected eof: this {bracket.removeprefix('template ')} is never closed",
            f"`{_CLOSING[bracket].removeprefix('template ')}` before the end of the policy",
        )

    def fail(
        self, span: Span, message: str, expected: str = "", hint: str = "", code: ErrorCode = ErrorCode.PARSE
    ) -> NoReturn:
        """Ends the reading of this rule with one error."""
        raise Failure(Diagnostic(span, code, message, expected, hint))

    # --- operators

    def parse_operation(self) -> Term:
        """A term with operators, and `k, v in xs` as well."""
        start = self.starts[self.index]
        first = self.parse_infix()
        if self.kinds[self.index] != ",":
            return first
        height = self.height
        self.index += 1
        second = self.parse_infix(_TIGHTER_THAN_IN)
        height = max(height, self.height)
        operator = self.expect("in", "`in` after `key, value`")
        domain = self.parse_infix(_TIGHTER_THAN_IN)
        self.grow(max(height, self.height), start)
        triple = ast.Call(
            operator_reference("internal.member_3", self.tokens.span(operator)),
            (first, second, domain),
            self.span_from(start),
            Notation.INFIX,
        )
        return self.parse_operators(triple, start, 1)

    def parse_infix(self, loosest: int = 1) -> Term:
        """Operands joined by operators that bind at least as tightly as `loosest`."""
        start = self.starts[self.index]
        return self.parse_operators(self.parse_operand(), start, loosest)

    def parse_operators(self, left: Term, start: int, loosest: int) -> Term:
        """The operators, with their right operands, behind a term."""
        kinds = self.kinds
        while True:
            entry = _OPERATORS.get(kinds[self.index])
            if entry is None or entry[0] < loosest:
                return left
            if kinds[self.index] == "in" and self.is_keyword_name(self.index):
                return left
            height = self.height
            operator = self.index
            self.index += 1
            right = self.parse_infix(entry[0] + 1)
            self.grow(max(height, self.height), start)
            left = ast.Call(
                operator_reference(entry[1], self.tokens.span(operator)),
                (left, right),
                self.span_from(start),
                Notation.INFIX,
            )

    def grow(self, below: int, start: int) -> None:
        """Notes that a term stands on others of height `below`."""
        self.height = below + 1
        if self.height > MAX_HEIGHT:
            self.fail(
                self.span_from(start),
                f"term of more than {MAX_HEIGHT} levels",
                hint="split it with local variables",
                code=ErrorCode.LIMIT,
            )
        if self.height > self.highest:
            self.highest = self.height

    # --- operands

    def parse_operand(self) -> Term:
        """A term without operators around it: a literal, a name, a reference, a call, brackets."""
        index = self.index
        kind, start = self.kinds[index], self.starts[index]
        self.height = 1
        if kind == NAME or (kind in KEYWORDS and self.is_keyword_name(index)):
            self.index = index + 1
            name = Var(self.values[index], self.tokens.span(index))
            following = self.kinds[index + 1]
            if following in (".", "[", "(") and self.touches(index + 1):
                return self.parse_suffixes(name, start)
            return name
        if kind in (STRING, RAW):
            self.index = index + 1
            return self.literal(String(self.values[index], self.tokens.span(index), kind == RAW))
        if kind == NUMBER:
            self.index = index + 1
            return self.literal(ast.Number(self.values[index], self.tokens.span(index)))
        if kind == "true" or kind == "false":
            self.index = index + 1
            return self.literal(ast.Boolean(kind == "true", self.tokens.span(index)))
        if kind == "null":
            self.index = index + 1
            return self.literal(ast.Null(self.tokens.span(index)))
        if kind == "-":
            return self.parse_negative(start)
        if kind in "([{" or kind == TEMPLATE_START:
            outer, self.highest = self.highest, 0
            term = self.parse_bracket(kind, start)
            self.height, inner = 1, self.highest
            self.highest = outer
            self.grow(inner, start)
            return self.literal(term) if kind == TEMPLATE_START else self.parse_suffixes(term, start)
        return self.unexpected("a term (a value, a name, a call)")

    def literal(self, term: Term) -> Term:
        """Refuses `"text".name` and `1[0]`: a scalar has no parts."""
        index = self.index
        if self.kinds[index] in (".", "[", "(") and self.touches(index):
            self.fail(
                self.tokens.span(index),
                "a scalar value can't be the head of a reference",
                "an operator or the end of the term",
            )
        return term

    def is_keyword_name(self, index: int) -> bool:
        """Whether a keyword here is the head of a reference (`else.foo`) or the function `contains`."""
        if not self.touches(index + 1):
            return False
        following = self.kinds[index + 1]
        if following == "." and self.touches(index + 2):
            return self.kinds[index + 2] == NAME or self.kinds[index + 2] in KEYWORDS
        return following == "(" and self.kinds[index] == "contains"

    def parse_negative(self, start: int) -> Term:
        """Minus signs before an operand; a number keeps its sign."""
        signs = 0
        while self.kinds[self.index] == "-":
            self.index += 1
            signs += 1
        if self.kinds[self.index] == NUMBER:
            number = self.index
            self.index += 1
            signs -= 1
            term: Term = ast.Number("-" + self.values[number], self.span_from(self.starts[number - 1]))
            self.literal(term)
        else:
            term = self.parse_operand()
        height = self.height
        for _ in range(signs):
            self.grow(height, start)
            height = self.height
            term = ast.Call(
                operator_reference("minus", self.span_from(start)),
                (ast.Number("0", self.span_from(start)), term),
                self.span_from(start),
                Notation.UNARY,
            )
        return term

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

    def end_of_operand(self, index: int) -> int:
        """The index behind the operand that starts here, found by matching brackets only."""
        kinds = self.kinds
        while kinds[index] == "-":
            index += 1
        index = self.after_unit(index)
        while self.touches(index):
            if kinds[index] == "." and kinds[index + 1] != EOF:
                index += 2
            elif kinds[index] in ("[", "("):
                index = self.after_unit(index)
            else:
                break
        return index

    def after_unit(self, index: int) -> int:
        """The index behind a token or a whole bracket."""
        kinds = self.kinds
        partners = self.partners()
        if index in partners:
            return partners[index] + 1
        return index + 1 if kinds[index] != EOF else index

    def partners(self) -> dict[int, int]:
        """Opening bracket -> its closing bracket, computed once for the whole text."""
        found: dict[int, int] | None = getattr(self, "_partners", None)
        if found is None:
            found = {}
            opened: list[int] = []
            for index, kind in enumerate(self.kinds):
                if kind in ("(", "[", "{", TEMPLATE_OPEN, TEMPLATE_START):
                    opened.append(index)
                elif kind in (")", "]", "}", TEMPLATE_CLOSE, TEMPLATE_END) and opened:
                    found[opened.pop()] = index
            self._partners = found
        return found

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

    # --- references and calls

    def parse_suffixes(self, head: Term, start: int) -> Term:
        """`.name`, `[term]` and `(arguments)` behind a term, as long as they touch it."""
        term = head
        operands: list[Term] = []
        while self.touches(self.index):
            kind = self.kinds[self.index]
            if kind == ".":
                operands.append(self.parse_dot())
            elif kind == "[":
                operands.append(self.parse_subscript())
            elif kind == "(":
                term = self.parse_call(term, operands, start)
                operands = []
            else:
                break
        return self.reference(term, operands, start)

    def reference(self, term: Term, operands: list[Term], start: int) -> Term:
        """A term with operands behind it; references are flattened."""
        if not operands:
            return term
        if isinstance(term, _NO_REFERENCE):
            self.fail(term.span, "a scalar value can't be the head of a reference")
        if isinstance(term, Ref):
            return Ref(term.head, (*term.operands, *operands), self.span_from(start))
        return Ref(term, tuple(operands), self.span_from(start))

    def parse_dot(self) -> String:
        """`.name`, where the name may be a keyword."""
        self.index += 1
        index = self.index
        kind = self.kinds[index]
        if not (kind == NAME or kind in KEYWORDS) or not self.touches(index):
            self.unexpected("a name right after the dot", 'other keys are written ["key"]')
        self.index = index + 1
        return String(self.values[index], self.tokens.span(index))

    def parse_subscript(self) -> Term:
        """`[term]`."""
        self.index += 1
        if self.kinds[self.index] == "]":
            self.unexpected("a key or index between the brackets", "to iterate, write [_]")
        outer, self.highest = self.highest, 0
        operand = self.parse_infix()
        inner, self.highest = self.highest, outer
        self.grow(inner, self.starts[self.index - 1])
        self.expect("]")
        return operand

    def parse_call(self, term: Term, operands: list[Term], start: int) -> Term:
        """`(arguments)` behind a function's name."""
        name_span = self.span_from(start)
        if not isinstance(term, Var) or not all(isinstance(operand, String) for operand in operands):
            self.fail(name_span, "only a named function can be called", "a function's name before `(`")
        self.index += 1
        outer, self.highest = self.highest, 0
        arguments = tuple(self.parse_list(")"))
        inner, self.highest = self.highest, outer
        self.grow(inner, start)
        if not operands and term.name == "set" and not arguments:
            return ast.Set((), self.span_from(start))
        return ast.Call(Ref(term, tuple(operands), name_span), arguments, self.span_from(start))

    # --- what the next layers add

    def parse_body(self, closing: str) -> ast.Body:
        """Statements up to (not including) the closing bracket."""
        raise NotImplementedError

    def parse_interpolation(self) -> ast.Expr:
        """The expression between the braces of a template string."""
        raise NotImplementedError


def operator_reference(name: str, span: Span) -> Ref:
    head, *rest = name.split(".")
    return Ref(Var(head, span), tuple(String(part, span) for part in rest), span)
