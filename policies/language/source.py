"""Where a piece of Rego was written: a source text and spans of it.

A span is two character offsets; rows and columns are worked out only when somebody asks, because a
policy of 50,000 lines has a million spans and a handful of error messages.

Not here: how an error looks (diagnostics) and how text becomes tokens (lexer).
"""

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Source:
    """One Rego text with the name under which errors speak of it.

    `file` is only a label and is never opened here.
    """

    file: str
    text: str = field(repr=False)
    _line_starts: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    def position(self, offset: int) -> tuple[int, int]:
        """Row and column of a character offset, both counted from 1; the column counts characters."""
        starts = self._starts()
        row = bisect_right(starts, offset)
        return row, offset - starts[row - 1] + 1

    def line(self, row: int) -> str:
        """The text of a row (from 1) without its line end; empty past the end."""
        starts = self._starts()
        if not 1 <= row <= len(starts):
            return ""
        end = starts[row] - 1 if row < len(starts) else len(self.text)
        return self.text[starts[row - 1] : end].rstrip("\r")

    def _starts(self) -> list[int]:
        # Filled at the first question: a cache, which is why it does not take part in comparison.
        starts = self._line_starts
        if not starts:
            starts.append(0)
            at = self.text.find("\n")
            while at >= 0:
                starts.append(at + 1)
                at = self.text.find("\n", at + 1)
        return starts


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start` up to but not including `end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def row(self) -> int:
        """Row of the first character, from 1."""
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        """Column of the first character, from 1, in characters."""
        return self.source.position(self.start)[1]

    @property
    def end_row(self) -> int:
        """Row of the last character, from 1."""
        return self.source.position(max(self.start, self.end - 1))[0]

    @property
    def text(self) -> str:
        """The source text of the span."""
        return self.source.text[self.start : self.end]

    def to(self, other: "Span") -> "Span":
        """The span from the start of this one to the end of the other."""
        return Span(self.source, self.start, other.end)

    def __str__(self) -> str:
        row, column = self.source.position(self.start)
        return f"{self.source.file}:{row}:{column}"


NOWHERE = Span(Source("(generated)", ""), 0, 0)
"""The span of a node that no author wrote and that stands for nothing an author wrote."""
