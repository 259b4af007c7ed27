"""The part of the parser that reads terms: literals, references, calls, operators, comprehensions.

Operators are read by precedence climbing in one loop, all of them left-associative, loosest first:
`in`, comparisons, `|`, `&`, `+ -`, `* / %`. The height of every tree is counted while it grows, so that
whoever walks a parsed tree by recursion is safe: no tree is higher than MAX_HEIGHT.

Not here: statements and rules, which stand on this.
"""

from typing import Final

from policies.language.diagnostics import ErrorCode
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.syntax.ast import Notation, Ref, String, Term, Var
from policies.language.syntax.brackets import BracketParser
from policies.language.syntax.lexer import KEYWORDS, NAME, NUMBER, RAW, STRING, TEMPLATE_START, Tokens

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
_NO_REFERENCE: Final = (ast.Null, ast.Boolean, ast.Number, ast.String, ast.TemplateString)


class TermParser(BracketParser):
    """Reads terms from a token list."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__(tokens)
        self.height = 1  # of the term read last
        self.highest = 0  # of the terms read since the enclosing bracket

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

    def parse_negative(self, start: int) -> Term:
        """A minus sign: part of a number, or before what a name stands for; before nothing else."""
        self.index += 1
        kind = self.kinds[self.index]
        if kind == NUMBER:
            number = self.index
            self.index += 1
            return self.literal(ast.Number("-" + self.values[number], self.span_from(start)))
        if kind != NAME and not (kind in KEYWORDS and self.is_keyword_name(self.index)):
            return self.unexpected("a number or a name behind the minus sign")
        term = self.parse_operand()
        self.grow(self.height, start)
        return ast.Call(
            operator_reference("minus", self.span_from(start)),
            (ast.Number("0", self.span_from(start)), term),
            self.span_from(start),
            Notation.UNARY,
        )

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


def operator_reference(name: str, span: Span) -> Ref:
    head, *rest = name.split(".")
    return Ref(Var(head, span), tuple(String(part, span) for part in rest), span)
