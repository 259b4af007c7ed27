"""Terms and statements as `opa fmt` writes them.

Collections that the author spread over several rows stay spread, row by row; others are written on one
line. Where OPA's formatter drops parentheses that matter (`a == (b == c)` as a statement), ours keeps them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from policies.language.compiler.terms import walk
from policies.language.layout.writer import LineWriter
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Expr, Ref, String, Term, Var
from policies.language.syntax.lexer import KEYWORDS

_SYMBOLS: Final = {
    "equal": "==", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "or": "|", "and": "&",
    "plus": "+", "minus": "-", "mul": "*", "div": "/", "rem": "%", "assign": ":=", "eq": "=",
}  # fmt: skip
_COMPARISONS: Final = frozenset(("equal", "neq", "lt", "lte", "gt", "gte"))
_MADE: Final = "__local"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a collection: where it stood, and what writes it."""

    row: int
    write: Callable[[], None]
    end_row: int


class TermFormatter:
    """Writes terms and statements through a LineWriter."""

    def __init__(self, writer: LineWriter) -> None:
        self.out = writer
        self._any_made: bool | None = None

    # --- statements

    def body(self, body: ast.Body) -> None:
        """Statements on lines of their own, an empty line kept where there was one."""
        last_row = 0
        for expression in body:
            row = expression.span.row
            if last_row:
                first = row
                if self.out.has_comment_before(row):
                    first = self.out.comments[self.out.next_comment][0]
                if first - last_row > 1:
                    self.out.blank()
            self.out.comments_before(row)
            self.expression(expression)
            last_row = expression.span.end_row
            self.out.comments_on(last_row)
            self.out.end_line()

    def expression(self, expression: Expr) -> None:
        """One statement with its modifiers."""
        self.statement(expression.node)
        row = expression.modifiers[0].span.row if expression.modifiers else 0
        if expression.modifiers:
            row = _end_row(expression.node)
        indented = False
        for modifier in expression.modifiers:
            if modifier.span.row > row:
                self.out.comments_on(row)
                self.out.end_line()
                if not indented:
                    self.out.level += 1
                    indented = True
                row = modifier.span.row
            else:
                self.out.write(" ")
            self.out.write("with ")
            self.term(modifier.target)
            self.out.write(" as ")
            self.term(modifier.value)
            row = max(row, modifier.span.end_row)
        if indented:
            self.out.level -= 1

    def statement(self, node: ast.ExprNode) -> None:
        """A statement without modifiers."""
        out = self.out
        if isinstance(node, ast.Some):
            out.write("some " + ", ".join(variable.name for variable in node.variables))
        elif isinstance(node, ast.SomeIn):
            out.write("some ")
            if node.key is not None:
                self.term(node.key)
                out.write(", ")
            self.term(node.value)
            out.write(" in ")
            self.term(node.domain)
        elif isinstance(node, ast.Every):
            self.every(node)
        elif isinstance(node, ast.Not):
            self.negation(node)
        elif isinstance(node, Call):
            self.call(node, statement=True)
        else:
            self.term(node)

    def every(self, node: ast.Every) -> None:
        names = [node.value] if node.key is None else [node.key, node.value]
        self.out.write(f"every {', '.join(name.name for name in names)} in ")
        self.term(node.domain)
        rows = {expression.span.row for expression in node.body}
        if rows == {node.span.row} and node.span.end_row == node.span.row:
            # OPA leaves out the last blank when there are several statements.
            self.out.write(" { ")
            self.inline(node.body)
            self.out.write(" }" if len(node.body) == 1 else "}")
        else:
            self.out.write(" {")
            self.block(node.body, node.span.row, node.span.end_row)

    def negation(self, node: ast.Not) -> None:
        self.out.write("not ")
        if node.explicit_body:
            self.out.write("{")
            if node.span.row == node.span.end_row:
                self.out.write(" ")
                self.inline(node.body)
                self.out.write(" }")
            else:
                self.block(node.body, node.span.row, node.span.end_row)
        else:
            self.statement(node.body[0].node)

    def block(self, body: ast.Body, row: int, end_row: int) -> None:
        """Statements between braces that are already open; the closing brace is written too."""
        self.out.comments_on(row if body[0].span.row > row else 0)
        self.out.end_line()
        self.out.level += 1
        self.body(body)
        self.out.comments_before(end_row)
        if self.out.lines and not self.out.lines[-1]:
            self.out.lines.pop()
        self.out.level -= 1
        self.out.write("}")

    def inline(self, body: ast.Body) -> None:
        """Statements on one line."""
        for index, expression in enumerate(body):
            if index:
                self.out.write("; ")
            self.expression(expression)

    # --- terms

    def term(self, term: Term, *, nested: bool = False) -> None:
        """A term; `nested` as an operand of an operator."""
        out = self.out
        if isinstance(term, Var):
            out.write(term.name)
        elif isinstance(term, String | ast.Number | ast.Boolean | ast.Null):
            out.write(_scalar(term))
        elif isinstance(term, Ref):
            self.reference(term)
        elif isinstance(term, Call):
            self.call(term, nested=nested)
        elif isinstance(term, ast.Array):
            self.sequence("[", term.items, "]", term)
        elif isinstance(term, ast.Set):
            if term.items:
                self.sequence("{", term.items, "}", term)
            else:
                out.write("set()")
        elif isinstance(term, ast.Object):
            self.object(term)
        elif isinstance(term, ast.TemplateString):
            self.template(term)
        else:
            self.comprehension(term)

    def reference(self, reference: Ref) -> None:
        """A reference; constant keys that are names are written with a dot."""
        self.term(reference.head)
        for operand in reference.operands:
            if isinstance(operand, String) and _dotted(operand):
                self.out.write("." + operand.value)
            else:
                self.out.write("[")
                self.term(operand)
                self.out.write("]")

    def call(self, call: Call, *, nested: bool = False, statement: bool = False) -> None:
        """A call: operators between their operands, functions with parentheses."""
        name, arguments = call.name, call.arguments
        if name == "internal.member_2" and len(arguments) == 2:
            self.membership(call, statement)
        elif name == "internal.member_3" and len(arguments) == 3:
            if not statement:
                self.out.write("(")
            self.operand(arguments[0], name, statement=False, left=True)
            self.out.write(", ")
            self.operand(arguments[1], name, statement=False, left=True)
            self.out.write(" in ")
            self.operand(arguments[2], name, statement=False, left=False)
            if not statement:
                self.out.write(")")
        elif name in _SYMBOLS and len(arguments) == 2:
            if nested:
                self.out.write("(")
            self.operand(arguments[0], name, statement=statement, left=True)
            self.out.write(f" {_SYMBOLS[name]} ")
            self.operand(arguments[1], name, statement=statement, left=False)
            if nested:
                self.out.write(")")
        else:
            self.reference(call.operator)
            self.sequence("(", arguments, ")", call)

    def membership(self, call: Call, statement: bool) -> None:
        """`x in xs`; on the left OPA never writes parentheses, and needs none."""
        left, right = call.arguments
        self.term(left, nested=not (isinstance(left, Call) and left.name == "internal.member_2"))
        self.out.write(" in ")
        self.operand(right, call.name, statement=False, left=False)

    def operand(self, term: Term, operator: str, *, statement: bool, left: bool) -> None:
        """An operand of an operator with the parentheses that OPA writes, and those that matter."""
        if not isinstance(term, Call):
            self.term(term)
            return
        name = term.name
        is_in = name == "internal.member_2"
        if operator in ("assign", "eq"):
            self.term(term)
        elif statement:
            # OPA writes the operands of a statement bare; a comparison on the right, and `in` on either
            # side of another operator, would then be read differently.
            matters = is_in or (name in _COMPARISONS and (not left or operator not in _COMPARISONS))
            matters = matters or (operator not in _COMPARISONS and name in _SYMBOLS)
            if matters and is_in:
                self.out.write("(")
                self.term(term)
                self.out.write(")")
            else:
                self.term(term, nested=matters)
        elif is_in:
            self.out.write("(")
            self.term(term)
            self.out.write(")")
        else:
            self.term(term, nested=name in _SYMBOLS)

    def sequence(self, opening: str, items: Sequence[Term], closing: str, whole: Term) -> None:
        """Items between brackets: on one line, or by rows when the author used several.

        Among items with a variable that OPA's compiler made rows don't count: such a text isn't an author's.
        """
        if self._any_made is None:
            self._any_made = _MADE in whole.span.source.text  # walking the terms costs more than this once
        made = self._any_made and any(_is_made(item) for item in items)
        parts = [
            _Part(
                items[0].span.row if made else item.span.row,
                partial(self.element, item, first=not index and opening != "("),
                item.span.end_row,
            )
            for index, item in enumerate(items)
        ]
        self.out.write(opening)
        self.rows(parts, whole, spread_first=opening != "(")
        self.out.write(closing)

    def element(self, term: Term, *, first: bool) -> None:
        """A part of a collection. In the first one `x | y` would begin a comprehension: it keeps its ( )."""
        self.term(term, nested=first and isinstance(term, Call) and term.name == "or")

    def entry(self, key: Term, value: Term, *, first: bool) -> None:
        """A key and its value."""
        self.element(key, first=first)
        self.out.write(": ")
        self.element(value, first=first)

    def object(self, term: ast.Object) -> None:
        """`{key: value}`."""
        parts = [
            _Part(key.span.row, partial(self.entry, key, value, first=not index), value.span.end_row)
            for index, (key, value) in enumerate(term.entries)
        ]
        self.out.write("{")
        self.rows(parts, term, spread_first=True)
        self.out.write("}")

    def rows(self, parts: Sequence[_Part], whole: Term, *, spread_first: bool) -> None:
        """Writes the parts of a collection; parts of one row share a line."""
        if not parts:
            return
        row = whole.span.row
        groups: list[list[_Part]] = [[]]
        for index, part in enumerate(parts):
            if part.row > row and index:
                groups.append([])
            row = part.row
            groups[-1].append(part)
        if len(groups) == 1 and not (spread_first and parts[0].row > whole.span.row):
            self.line_of(parts)
            return
        if parts[0].row > whole.span.row:
            self.out.comments_on(whole.span.row)
        self.out.end_line()
        self.out.level += 1
        for group in groups:
            self.out.comments_before(group[0].row)
            self.line_of(group)
            self.out.write(",")
            self.out.comments_on(group[-1].end_row)
            self.out.end_line()
        self.out.comments_before(whole.span.end_row)
        self.out.level -= 1

    def line_of(self, parts: Sequence[_Part]) -> None:
        """Parts with commas between them."""
        for index, part in enumerate(parts):
            if index:
                self.out.write(", ")
            part.write()

    def template(self, term: ast.TemplateString) -> None:
        """A template string; its text is written as the author did."""
        out = self.out
        quote = "`" if term.raw else '"'
        out.write("$" + quote)
        at = term.span.start + 2
        text = term.span.source.text
        for part in term.parts:
            if isinstance(part, str):
                end = _text_end(text, at, raw=term.raw)
                out.write(text[at:end])
                at = end
            else:
                out.write("{")
                self.expression(part)
                out.write("}")
                at = text.index("}", part.span.end) + 1
        out.write(quote)

    def comprehension(self, term: ast.Comprehension) -> None:
        """A comprehension; with a body on several rows, each statement on its own line."""
        is_array = isinstance(term, ast.ArrayComprehension)
        self.out.write("[" if is_array else "{")
        if isinstance(term, ast.ObjectComprehension):
            self.term(term.key)
            self.out.write(": ")
            self.term(term.value, nested=True)
        else:
            self.term(term.term, nested=True)
        self.out.write(" |")
        if term.body[-1].span.row == term.span.row:
            self.out.write(" ")
            self.inline(term.body)
        else:
            if term.body[0].span.row > term.span.row:
                self.out.comments_on(term.span.row)
            self.out.end_line()
            self.out.level += 1
            self.body(term.body)
            self.out.comments_before(term.span.end_row)
            self.out.level -= 1
        self.out.write("]" if is_array else "}")


def _scalar(term: ast.Scalar) -> str:
    if isinstance(term, String):
        # As written: escapes and raw quotes are the author's choice.
        written = term.span.text
        return written if written[:1] in ('"', "`") else '"' + term.value + '"'
    if isinstance(term, ast.Number):
        return term.text
    if isinstance(term, ast.Boolean):
        return "true" if term.value else "false"
    return "null"


def _is_made(term: Term) -> bool:
    """Whether a variable of the compiler's (`__local0__`) is in the term."""
    return any(isinstance(part, Var) and part.name.startswith(_MADE) for part in walk(term))


def _dotted(operand: String) -> bool:
    if not _NAME.fullmatch(operand.value):
        return False
    # A keyword keeps the notation of the author: after a dot or in brackets.
    return operand.value not in KEYWORDS or not operand.span.text.startswith(('"', "`"))


def _text_end(text: str, at: int, *, raw: bool) -> int:
    """Where the text piece of a template string that begins at `at` ends."""
    while text[at] not in ("{", "`" if raw else '"'):
        at += 2 if text[at] == "\\" and (not raw or text[at + 1] == "{") else 1
    return at


def _end_row(node: ast.ExprNode) -> int:
    return node.span.end_row
