"""A place in a token list: looking at tokens, finding bracket partners, failing with a position.

Not here: any grammar.
"""

from typing import Final, NoReturn

from policies.language.diagnostics import Diagnostic, ErrorCode
from policies.language.source import Span
from policies.language.syntax.lexer import (
    EOF,
    KEYWORDS,
    NAME,
    RAW,
    STRING,
    TEMPLATE_CLOSE,
    TEMPLATE_END,
    TEMPLATE_OPEN,
    TEMPLATE_START,
    Tokens,
)

_CLOSING: Final = {"(": ")", "[": "]", "{": "}", TEMPLATE_OPEN: TEMPLATE_CLOSE}
FOREIGN_WORDS: Final = {
    "and": "put each condition on its own line, or ; between them",
    "or": "write a second rule with the same head: rules are alternatives",
    "for": "Rego has no loops: write some x in xs, or every x in xs { … }",
    "return": "rules return nothing: write name := value if { … }",
    "when": "conditions follow `if`",
    "then": "conditions follow `if`, and the value stands in the head: name := value if { … }",
}
"""Words of other languages, and what Rego has for them."""


class Failure(Exception):
    """One syntax error; the parser catches it at the next rule and goes on."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Cursor:
    """Walks over a token list; `index` is the next token."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.kinds = tokens.kinds
        self.values = tokens.values
        self.starts = tokens.starts
        self.ends = tokens.ends
        self.newline = tokens.newline
        self.source = tokens.source
        self.index = 0
        self._partners: dict[int, int] | None = None

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
            hint = FOREIGN_WORDS["and" if kind == "&" else "or"]
        elif kind in KEYWORDS:
            message += f" keyword: {kind} is reserved"
        words = (self.values[index], self.values[index - 1] if index else "")
        hint = hint or next((FOREIGN_WORDS[word] for word in words if word in FOREIGN_WORDS), "")
        if kind == "=" and index and self.kinds[index - 1] in ("==", "!=") and self.touches(index):
            hint = f"Rego has no {self.kinds[index - 1]}=: == and != compare types as well"
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

    def is_keyword_name(self, index: int) -> bool:
        """Whether a keyword here is the head of a reference (`else.foo`) or the function `contains`."""
        if not self.touches(index + 1):
            return False
        following = self.kinds[index + 1]
        if following == "." and self.touches(index + 2):
            return self.kinds[index + 2] == NAME or self.kinds[index + 2] in KEYWORDS
        return following == "(" and self.kinds[index] == "contains"

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
        found = self._partners
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
