"""Rego text into tokens.

One compiled pattern finds every token; template strings (`$"…{x}…"`) are cut into pieces here, so that
the parser sees a flat list. Bad characters and bad strings become diagnostics and lexing goes on, so that
one run finds several. Sizes are bounded before anything grows: see the MAX_ constants.

Not here: any grammar. Keywords are tokens of their own kind; the parser lets them be names where Rego does.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Final

from policies.language.diagnostics import MAX_SHOWN, Diagnostic, Diagnostics, ErrorCode
from policies.language.source import Source, Span
from policies.language.syntax.ast import Comment

MAX_CHARACTERS: Final = 8 * 1024 * 1024
MAX_TOKENS: Final = 3_000_000
MAX_BRACKETS: Final = 60
"""So many brackets may be open at once; the parser recurses once for each."""

KEYWORDS: Final = frozenset(
    [
        "as",
        "contains",
        "default",
        "else",
        "every",
        "false",
        "if",
        "import",
        "in",
        "not",
        "null",
        "package",
        "some",
        "true",
        "with",
    ]
)

NAME, NUMBER, STRING, RAW, EOF = "name", "number", "string", "raw string", "end of file"
TEMPLATE_START, TEMPLATE_TEXT, TEMPLATE_OPEN, TEMPLATE_CLOSE, TEMPLATE_END = (
    "template", "template text", "template {", "template }", "end of template",
)  # fmt: skip
BAD: Final = "unreadable text"

_MASTER: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<punct>:=|==|!=|<=|>=|[-+*/%&|<>=;:,.()\[\]{}])
    |(?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*")
    |(?P<number>[0-9](?:[eE][+-]?[0-9]+|[0-9A-Za-z_]|\.[0-9])*)
    |(?P<comment>\#[^\n]*)
    |(?P<raw>`[^`]*`)
    |(?P<template>\$["`])
    """,
    re.VERBOSE,
)
_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TEMPLATE_TEXT: Final = re.compile(r'[^"\\{\n]*(?:\\.[^"\\{\n]*)*')
_RAW_TEMPLATE_TEXT: Final = re.compile(r"[^`\\{]*(?:\\\{?[^`\\{]*)*")
_BAD_ESCAPE: Final = re.compile(r'\\(?:u(?![0-9A-Fa-f]{4})|[^"\\/bfnrtu])')
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_QUOTES: Final = frozenset("'‘’“”«»´")


@dataclass(slots=True)
class Tokens:
    """The tokens of a source as parallel lists, ended by one EOF.

    `kinds` holds NAME, NUMBER, STRING … or the text of a keyword or punctuation mark; `values` the
    decoded text of strings and the text of the others; `newline[i]` tells whether a line end came before
    token i. Tokens i and i+1 touch when `ends[i] == starts[i + 1]`.
    """

    source: Source
    kinds: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    newline: list[bool] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def span(self, index: int) -> Span:
        """Where one token stands."""
        return Span(self.source, self.starts[index], self.ends[index])


def tokenize(source: Source) -> Tokens:
    """All tokens of a source. Raises Diagnostics at once only when a size limit is passed."""
    text = source.text
    if len(text) > MAX_CHARACTERS:
        raise _limit(source, 0, f"the policy has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    return _Lexer(source).run()


class _Lexer:
    """The state of one run: where we are, which brackets are open, which of them end an interpolation."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.tokens = Tokens(source)
        self.depth = 0
        self.templates: list[tuple[int, bool]] = []  # (depth of the interpolation's brace, raw)
        self.fresh_line = True

    def run(self) -> Tokens:
        text, tokens, match_at = self.text, self.tokens, _MASTER.match
        kinds, values, starts = tokens.kinds, tokens.values, tokens.starts
        ends, newline = tokens.ends, tokens.newline
        position = 1 if text.startswith("\ufeff") else 0
        length = len(text)
        while position < length:
            match = match_at(text, position)
            if match is None:
                position = self.bad_character(position)
                continue
            group, end = match.lastgroup, match.end()
            if group == "space":
                if not self.fresh_line and "\n" in match.group():
                    self.fresh_line = True
            elif group == "name":
                value = match.group()
                kinds.append(value if value in KEYWORDS else NAME)
                values.append(value)
                starts.append(position)
                ends.append(end)
                newline.append(self.fresh_line)
                self.fresh_line = False
            elif group == "punct":
                end = self.punctuation(match.group(), position, end)
            elif group == "comment":
                span = Span(self.source, position, end)
                tokens.comments.append(Comment(match.group()[1:].rstrip("\r"), span))
            elif group == "string":
                self.string(position, end)
            elif group == "number":
                self.number(match.group(), position, end)
            elif group == "raw":
                self.add(RAW, text[position + 1 : end - 1], position, end)
            else:
                raw = text[position + 1] == "`"
                self.add(TEMPLATE_START, "`" if raw else '"', position, end)
                end = self.template_text(end, raw)
            position = end
            if len(kinds) > MAX_TOKENS:
                raise _limit(self.source, position, f"the policy has more than {MAX_TOKENS} tokens")
        if self.templates:
            self.report(
                starts[-1] if starts else 0,
                length,
                "template string is not closed",
                "a closing `}` and quote",
            )
        self.add(EOF, "", length, length)
        return tokens

    def add(self, kind: str, value: str, start: int, end: int) -> None:
        tokens = self.tokens
        tokens.kinds.append(kind)
        tokens.values.append(value)
        tokens.starts.append(start)
        tokens.ends.append(end)
        tokens.newline.append(self.fresh_line)
        self.fresh_line = False

    def punctuation(self, mark: str, start: int, end: int) -> int:
        if mark in "([{":
            self.depth += 1
            if self.depth > MAX_BRACKETS:
                raise _limit(self.source, start, f"more than {MAX_BRACKETS} brackets are open here")
        elif mark in ")]}":
            if mark == "}" and self.templates and self.templates[-1][0] == self.depth:
                raw = self.templates.pop()[1]
                self.depth -= 1
                self.add(TEMPLATE_CLOSE, mark, start, end)
                return self.template_text(end, raw)
            self.depth = max(0, self.depth - 1)
        self.add(mark, mark, start, end)
        return end

    def template_text(self, start: int, raw: bool) -> int:
        """Lexes text up to the next interpolation or the end of the template; gives where to go on."""
        pattern = _RAW_TEMPLATE_TEXT if raw else _TEMPLATE_TEXT
        match = pattern.match(self.text, start)
        end = match.end() if match else start
        if end > start:
            self.add(TEMPLATE_TEXT, self.template_value(start, end, raw), start, end)
        mark = self.text[end : end + 1]
        if mark == "{":
            self.depth += 1
            if self.depth > MAX_BRACKETS:
                raise _limit(self.source, end, f"more than {MAX_BRACKETS} brackets are open here")
            self.templates.append((self.depth, raw))
            self.add(TEMPLATE_OPEN, mark, end, end + 1)
            return end + 1
        if mark == ("`" if raw else '"'):
            self.add(TEMPLATE_END, mark, end, end + 1)
            return end + 1
        self.report(start, end, "non-terminated template string", "a closing " + ("`" if raw else '"'))
        self.add(TEMPLATE_END, "", end, end)
        return end

    def template_value(self, start: int, end: int, raw: bool) -> str:
        text = self.text[start:end]
        if raw:
            return text.replace("\\{", "{")
        # Outside of raw templates a brace is escaped like a quote; pairs of backslashes come first.
        plain = re.sub(r"\\(.)", lambda m: "{" if m.group(1) == "{" else m.group(0), text)
        return self.decoded(plain, start, end)

    def string(self, start: int, end: int) -> None:
        self.add(STRING, self.decoded(self.text[start + 1 : end - 1], start, end), start, end)

    def decoded(self, text: str, start: int, end: int) -> str:
        """The value of the inside of a string in double quotes; problems are reported."""
        control = _CONTROL.search(text)
        if control:
            self.report(start, end, "string holds a control character", "an escape such as \\t or \\u0007")
            return text
        if "\\" in text:
            bad = _BAD_ESCAPE.search(re.sub(r"\\\\", "__", text))
            if bad:
                self.report(
                    start, end, f"illegal escape sequence {bad.group()}",
                    'one of \\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX',
                    "patterns read best in back quotes, where a backslash is only a backslash",
                )  # fmt: skip
                return text
            decoded: str = json.loads(f'"{text}"')
            return _SURROGATE.sub("\ufffd", decoded)
        return text

    def number(self, text: str, start: int, end: int) -> None:
        if not _NUMBER.fullmatch(text):
            self.report(start, end, f"illegal number {text[:40]}", "digits such as 0, 12, 1.5 or 2e10")
            text = "0"
        self.add(NUMBER, text, start, end)

    def bad_character(self, start: int) -> int:
        """Reports what can't be read at `start` and gives where to go on."""
        text, mark = self.text, self.text[start]
        line_end = text.find("\n", start)
        line_end = len(text) if line_end < 0 else line_end
        if mark == '"':
            self.report(start, line_end, "non-terminated string", 'a closing " on the same line')
            self.add(STRING, "", start, line_end)
            return line_end
        if mark == "`":
            self.report(start, line_end, "non-terminated string", "a closing ` (raw strings may span lines)")
            self.add(STRING, "", start, len(text))
            return len(text)
        if mark in _QUOTES:
            close = text.find(
                mark if mark in "'´" else {"‘": "’", "“": "”", "«": "»"}.get(mark, mark), start + 1
            )
            end = close + 1 if start < close < line_end else start + 1
            self.report(start, end, "illegal token", 'a string in double quotes: "…"', 'use " around strings')
            self.add(STRING, text[start + 1 : end - 1], start, end)
            return end
        if mark == "!":
            self.report(start, start + 1, "illegal ! character", "", "negation is written `not`")
            self.add("not", "not", start, start + 1)
            return start + 1
        self.report(start, start + 1, f"illegal token {mark!r}", "")
        return start + 1

    def report(self, start: int, end: int, message: str, expected: str, hint: str = "") -> None:
        span = Span(self.source, start, max(end, start + 1))
        self.tokens.diagnostics.append(Diagnostic(span, ErrorCode.PARSE, message, expected, hint))
        if (
            len(self.tokens.diagnostics) >= MAX_SHOWN
        ):  # this is no policy; looking on costs time per character
            raise Diagnostics(self.tokens.diagnostics)


def _limit(source: Source, at: int, message: str) -> Diagnostics:
    span = Span(source, at, at + 1)
    return Diagnostics(
        [Diagnostic(span, ErrorCode.LIMIT, message, hint="split the policy or move tables to data")]
    )
