"""Terms as `opa fmt` writes them.

Collections that the author spread over several rows stay spread, row by row; others are written on one
line. Where OPA's formatter drops parentheses that matter (`a == (b == c)` as a statement), ours keeps them.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from policies.language.compiler.terms import walk
from policies.language.layout.beginnings import (
    ASSIGNABLE,
    COMPARISONS,
    KEYED_MEMBERSHIP,
    MEMBERSHIP,
    SYMBOLS,
)
from policies.language.layout.writer import LineWriter
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Expr, Ref, String, Term, Var
from policies.language.syntax.lexer import KEYWORDS

_MADE: Final = "__local"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a collection: where it stood, and what writes it."""

    row: int
    write: Callable[[], None]
    end_row: int


class TermFormatter(ABC):
    """Writes terms through a LineWriter; what writes the statements inside them derives from it."""

    def __init__(self, writer: LineWriter, strict_not: bool) -> None:
        self.out = writer
        self.strict_not = strict_not
        self._any_made: bool | None = None
        self.kept: Term | None = None  # in its parentheses, whoever writes it

    @abstractmethod
    def expression(self, expression: Expr) -> None:
        """One statement with its modifiers; comprehensions and template strings hold them."""

    @abstractmethod
    def body(self, body: ast.Body) -> None:
        """Statements on lines of their own."""

    @abstractmethod
    def inline(self, body: ast.Body) -> None:
        """Statements on one line."""

    def term(self, term: Term, *, nested: bool = False) -> None:
        """A term; `nested` as an operand of an operator."""
        out = self.out
        if isinstance(term, Var):
            out.write(term.name)
        elif isinstance(term, String | ast.Number | ast.Boolean | ast.Null):
            out.write(f"({_scalar(term)})" if term is self.kept else _scalar(term))
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
        self.term(reference.head, nested=True)
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
        nested = nested or call is self.kept
        if name == MEMBERSHIP and len(arguments) == 2:
            self.out.write("(" if nested else "")
            self.membership(call, statement)
            self.out.write(")" if nested else "")
        elif name == KEYED_MEMBERSHIP and len(arguments) == 3:
            if not statement:
                self.out.write("(")
            self.operand(arguments[0], name, statement=False, left=True)
            self.out.write(", ")
            self.operand(arguments[1], name, statement=False, left=True)
            self.out.write(" in ")
            self.operand(arguments[2], name, statement=False, left=False)
            if not statement:
                self.out.write(")")
        elif name in SYMBOLS and len(arguments) == 2:
            if nested:
                self.out.write("(")
            self.operand(arguments[0], name, statement=statement, left=True)
            self.out.write(f" {SYMBOLS[name]} ")
            self.operand(arguments[1], name, statement=statement, left=False)
            if nested:
                self.out.write(")")
        elif statement and name in ASSIGNABLE and len(arguments) == 3:
            self.term(arguments[2])
            self.out.write(" = ")
            self.call(replace(call, arguments=arguments[:2]))
        else:
            self.reference(call.operator)
            self.sequence("(", arguments, ")", call)

    def membership(self, call: Call, statement: bool) -> None:
        """`x in xs`; on the left OPA never writes parentheses, and needs none."""
        left, right = call.arguments
        self.term(left, nested=not (isinstance(left, Call) and left.name == MEMBERSHIP))
        self.out.write(" in ")
        self.operand(right, call.name, statement=False, left=False)

    def beside_in(self, term: Term) -> None:
        """A part of `some … in …` and `every … in …`: another `in` keeps its parentheses."""
        self.term(term, nested=isinstance(term, Call) and term.name == MEMBERSHIP)

    def operand(self, term: Term, operator: str, *, statement: bool, left: bool) -> None:
        """An operand of an operator with the parentheses that OPA writes, and those that matter."""
        if not isinstance(term, Call):
            self.term(term)
            return
        name = term.name
        is_in = name == MEMBERSHIP
        if operator in ("assign", "eq"):
            self.term(term)
        elif statement:
            # OPA writes the operands of a statement bare; a comparison on the right, and `in` on either
            # side of another operator, would then be read differently.
            matters = is_in or (name in COMPARISONS and (not left or operator not in COMPARISONS))
            matters = matters or (operator not in COMPARISONS and name in SYMBOLS)
            self.term(term, nested=matters)
        else:
            self.term(term, nested=is_in or name in SYMBOLS)

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
        self.collection(opening, parts, closing, whole)

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
        self.collection("{", parts, "}", term)

    def collection(self, opening: str, parts: Sequence[_Part], closing: str, whole: Term) -> None:
        """Brackets and what is in them.

        What OPA would write on one line stays as it is when the author wrote a comment inside.
        """
        groups = _by_rows(parts, whole.span.row)
        spread = len(groups) > 1
        if not spread and opening != "(":
            if self.out.has_comment_between(whole.span.row, whole.span.end_row):
                self.out.as_written(whole.span)
                return
            spread = bool(parts) and parts[0].row > whole.span.row
        self.out.write(opening)
        if spread:
            self.lines_of(groups, whole)
        else:
            self.line_of(parts)
        self.out.write(closing)

    def lines_of(self, groups: Sequence[Sequence[_Part]], whole: Term) -> None:
        """Parts on lines of their own; parts of one row share a line."""
        if groups[0][0].row > whole.span.row:
            self.out.comments_on(whole.span.row)
        # OPA writes a comment that stood behind the bracket behind the first line below it.
        self.out.end_line(with_comments=False)
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
        """A template string."""
        quote = "`" if term.raw else '"'
        self.out.write("$" + quote)
        for part in term.parts:
            if isinstance(part, str):
                self.out.write((part if term.raw else _escaped(part)).replace("{", "\\{"))
                continue
            self.out.write("{")
            self.out.level += 1
            self.expression(part)
            self.out.level -= 1
            self.out.write("}")
        self.out.write(quote)

    def comprehension(self, term: ast.Comprehension) -> None:
        """A comprehension; with a body on several rows, each statement on its own line."""
        is_array = isinstance(term, ast.ArrayComprehension)
        self.out.write("[" if is_array else "{")
        if isinstance(term, ast.ObjectComprehension):
            self.element(term.key, first=True)
            self.out.write(": ")
            self.term(term.value, nested=True)
        else:
            self.term(term.term, nested=True)
        self.out.write(" |")
        if term.body[-1].span.row == term.span.row:
            self.out.write(" ")
            self.inline(term.body)
        else:
            head = term.value if isinstance(term, ast.ObjectComprehension) else term.term
            if term.body[0].span.row > head.span.end_row:
                self.out.comments_on(head.span.end_row)
            self.out.end_line()
            self.out.level += 1
            self.body(term.body)
            self.out.comments_before(term.span.end_row)
            self.out.level -= 1
        self.out.write("]" if is_array else "}")


def _by_rows(parts: Sequence[_Part], row: int) -> list[list[_Part]]:
    """Parts of a collection that begins in `row`, those of one row together."""
    groups: list[list[_Part]] = [[]]
    for part in parts:
        if part.row > row and groups[-1]:
            groups.append([])
        row = part.row
        groups[-1].append(part)
    return groups


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


def _escaped(text: str) -> str:
    """Text as it stands between quotes; what can't be seen is written by number."""
    written = json.dumps(text, ensure_ascii=False)[1:-1]
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in written)


def _is_made(term: Term) -> bool:
    """Whether a variable of the compiler's (`__local0__`) is in the term."""
    return any(isinstance(part, Var) and part.name.startswith(_MADE) for part in walk(term))


def _dotted(operand: String) -> bool:
    if not _NAME.fullmatch(operand.value):
        return False
    # A keyword keeps the notation of the author: after a dot or in brackets.
    return operand.value not in KEYWORDS or not operand.span.text.startswith(('"', "`"))
