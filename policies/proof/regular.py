"""Regular expressions as syntax trees: a subset of RE2, read for full matches.

What is outside the subset (flags, look-around, named classes, anchors in the middle) raises
UndecidableLanguage: what can't be modelled isn't proved.
"""

from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import Unimplemented, shown


class UndecidableLanguage(Unimplemented):
    """An expression that this module can't turn into an automaton."""


@dataclass(frozen=True, slots=True)
class Characters:
    """A set of characters, or all characters but these."""

    listed: frozenset[str]
    negated: bool = False

    def has(self, character: str) -> bool:
        """Membership."""
        return (character in self.listed) != self.negated


@dataclass(frozen=True, slots=True)
class Expression:
    """A regular expression's syntax tree: `chars`, `seq`, `alt` or `star` over parts."""

    kind: str
    parts: tuple["Expression", ...] = ()
    characters: Characters = Characters(frozenset())


ANY_CHARACTER: Final = Expression("chars", (), Characters(frozenset(), True))
DOT: Final = Expression("chars", (), Characters(frozenset("\n"), True))


def text(literal: str) -> Expression:
    """Exactly this text."""
    return sequence(*(Expression("chars", (), Characters(frozenset(one))) for one in literal))


def sequence(*parts: Expression) -> Expression:
    """One after the other."""
    return Expression("seq", parts)


def either(*parts: Expression) -> Expression:
    """Any of these."""
    return Expression("alt", parts)


def star(part: Expression) -> Expression:
    """Any number of times."""
    return Expression("star", (part,))


def some(part: Expression) -> Expression:
    """Once or more often."""
    return sequence(part, star(part))


def one_of(characters: str, negated: bool = False) -> Expression:
    """One character of a set."""
    return Expression("chars", (), Characters(frozenset(characters), negated))


def parse_expression(expression: str) -> Expression:
    """The tree of an RE2 expression under full match; raises UndecidableLanguage outside the subset."""
    return _Parser(expression).parse()


class _Parser:
    """Recursive descent over the subset: literals, escapes, classes, groups, | * + ? {m,n}, outer ^ $."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._dot_all = False

    def parse(self) -> Expression:
        tree = self._alternatives(0)
        if self._at < len(self._source):
            raise self._refused("unbalanced parenthesis")
        return tree

    def _refused(self, why: str) -> UndecidableLanguage:
        return UndecidableLanguage(f"modelling expression {shown(self._source)} at {self._at}: {why}")

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _take(self, word: str) -> bool:
        if self._source.startswith(word, self._at):
            self._at += len(word)
            return True
        return False

    def _alternatives(self, depth: int) -> Expression:
        if depth > 50:
            raise self._refused("groups nest too deep")
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else either(*parts)

    def _sequence(self, depth: int) -> Expression:
        parts: list[Expression] = []
        while self._at < len(self._source) and self._peek() not in "|)":
            parts.append(self._repeated(self._atom(depth)))
        return sequence(*parts)

    def _repeated(self, part: Expression) -> Expression:
        while True:
            if self._take("*"):
                part = star(part)
            elif self._take("+"):
                part = some(part)
            elif self._take("?"):
                part = either(part, sequence())
            elif self._peek() == "{":
                end = self._source.find("}", self._at)
                low, comma, high = self._source[self._at + 1 : end].partition(",")
                if (
                    end < 0
                    or not low.isdecimal()
                    or not (high.isdecimal() or not high)
                    or int(high or low) > 1000
                ):
                    raise self._refused("an unusual repeat count")
                self._at = end + 1
                tail = [star(part)] if comma and not high else []
                optional = [either(part, sequence())] * (int(high) - int(low) if high else 0)
                part = sequence(*[part] * int(low), *optional, *tail)
            else:
                return part
            if self._peek() in ("*", "+", "?", "{") and self._peek():
                if self._take("?"):
                    continue  # a lazy repeat: the same language
                raise self._refused("a repeat of a repeat")

    def _atom(self, depth: int) -> Expression:
        if self._take("(?s:.)"):
            return ANY_CHARACTER
        if self._take("("):
            before = self._dot_all
            if self._take("?"):
                if self._take("s:"):
                    self._dot_all = True
                elif not self._take(":"):
                    raise self._refused("a group with flags or a name")
            inner = self._alternatives(depth + 1)
            self._dot_all = before
            if not self._take(")"):
                raise self._refused("an open group")
            return inner
        if self._take("["):
            return Expression("chars", (), self._class())
        if self._take("."):
            return ANY_CHARACTER if self._dot_all else DOT
        if self._take("^"):
            if self._at != 1:
                raise self._refused("^ that isn't at the start")
            return sequence()
        if self._take("$"):
            if self._at != len(self._source):
                raise self._refused("$ that isn't at the end")
            return sequence()
        if self._take("\\"):
            return Expression("chars", (), self._escape())
        character = self._peek()
        if character in "*+?{":
            raise self._refused("a repeat of nothing")
        self._at += 1
        return text(character)

    def _escape(self) -> Characters:
        character = self._peek()
        self._at += 1
        kinds = {"d": "0123456789", "w": _WORD, "s": "\t\n\f\r "}
        if character.lower() in kinds:
            return Characters(frozenset(kinds[character.lower()]), character.isupper())
        controls = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
        if character in controls:
            return Characters(frozenset(controls[character]))
        if not character or character.isalnum():
            raise self._refused("an escape outside the subset")
        return Characters(frozenset(character))

    def _class(self) -> Characters:
        negated = self._take("^")
        listed: set[str] = set()
        while not (self._peek() == "]" and listed):
            if self._source.startswith("[:", self._at) or not self._peek():
                raise self._refused("a class outside the subset")
            low = self._member()
            if (
                len(low.listed) == 1
                and not low.negated
                and self._peek() == "-"
                and self._source[self._at + 1 : self._at + 2] != "]"
            ):
                self._at += 1
                high = self._member()
                start, end = ord(min(low.listed)), ord(min(high.listed, default="\0"))
                if len(high.listed) != 1 or high.negated or not start <= end <= start + 0x400:
                    raise self._refused("an unusual range")
                listed.update(map(chr, range(start, end + 1)))
            elif low.negated:
                raise self._refused("a negated class inside a class")
            else:
                listed.update(low.listed)
        self._at += 1
        return Characters(frozenset(listed), negated)

    def _member(self) -> Characters:
        if self._take("\\"):
            return self._escape()
        self._at += 1
        return Characters(frozenset(self._source[self._at - 1 : self._at]))


_WORD: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
