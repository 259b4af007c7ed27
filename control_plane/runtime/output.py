"""What a command prints: for a human, or with `--output json` one JSON document.

Results go to standard output, remarks to standard error, so that a result can be piped. Text from outside is
escaped before a terminal sees it. No command knows which of the two forms it is writing.
"""

import enum
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise, zip_longest
from typing import Any, TextIO
from unicodedata import combining, east_asian_width

_CONTROL = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)]}
_SURROGATES = frozenset(map(chr, range(0xDC80, 0xDD00)))

PIPED_WIDTH = 10_000
"""Columns when nobody looks: what is piped on is never folded."""


class Form(enum.StrEnum):
    """The value of `--output`."""

    HUMAN = "human"
    JSON = "json"


class Output:
    """Prints results in one of the forms."""

    def __init__(
        self, form: Form = Form.HUMAN, *, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.form = form
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def table(
        self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, empty: str = "none"
    ) -> None:
        """Several things: a table of `columns` for a human, a list of all of each row's fields as JSON."""
        if self.form is Form.JSON:
            self._json(list(rows))
        elif not rows:
            self._line(empty)
        else:
            self._table(columns, [[human(row.get(column)) for column in columns] for row in rows])

    def record(self, fields: Mapping[str, Any]) -> None:
        """One thing with its fields."""
        if self.form is Form.JSON:
            self._json(fields)
            return
        width = max((len(name) for name in fields), default=0)
        for name, value in fields.items():
            first, *rest = human(value).split("\n")
            self._line(f"{_title(name):<{width}}  {first}")
            for line in rest:
                self._line(f"{'':<{width}}  {line}")

    def done(self, text: str, **fields: Any) -> None:
        """A thing was done: a sentence for a human, the fields as JSON."""
        if self.form is Form.JSON:
            self._json(fields)
        else:
            self._line(text)

    def text(self, text: str) -> None:
        """A result that is a document by itself, such as PEM; printed as it is in both forms."""
        self._out.write(text if text.endswith("\n") else text + "\n")

    def remark(self, text: str) -> None:
        """Something beside the result, on standard error in both forms."""
        self._err.write(escaped(text) + "\n")

    def _json(self, value: Any) -> None:
        json.dump(value, self._out, indent=2, ensure_ascii=True, default=str)
        self._out.write("\n")

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")

    def _table(self, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        if not self._out.isatty():
            self._out.writelines(f"{line}\n" for line in _laid_out([[*map(_title, columns)], *cells]))
            return
        from rich.console import Console  # heavy, and only a terminal needs it
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(_title(column), overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=self._out).print(table)


def _laid_out(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in columns, for when nobody looks: what is piped on is never folded, whatever its width."""
    cells = [[cell.split("\n") for cell in row] for row in rows]
    widths = [max(_width(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    for row in cells:
        for lines in zip_longest(*row, fillvalue=""):
            padded = (line + " " * (width - _width(line)) for line, width in zip(lines, widths, strict=True))
            yield "  ".join(padded)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def human(value: Any) -> str:
    """A value as a human reads it: yes and no, lists line by line, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{key}={human(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple | set | frozenset):
        return "\n".join(human(item) for item in value) or "-"
    return escaped(str(value))


def escaped(text: str) -> str:
    """Text without control characters, so that it can't command the terminal."""
    return text.translate(_CONTROL)


def _title(name: str) -> str:
    return name.replace("_", " ")


@contextmanager
def given_as_text(program: str) -> Iterator[None]:
    """Around a whole command: bytes that are no UTF-8, in an argument or in what it reads, end it with 2.

    Python carries such bytes as lone surrogates (PEP 383), which no message and no URL can hold; paths can,
    and so they are not refused before. What was given is not shown: it may be a token.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        if not _SURROGATES & set(error.object[error.start : error.end]):
            raise
        sys.stderr.write(f"{program}: {_not_text(sys.argv)} holds bytes that are not UTF-8: give text\n")
        raise SystemExit(2) from None


def _not_text(arguments: Sequence[str]) -> str:
    """The first argument that isn't UTF-8, by its flag or number; else it was the standard input."""
    for number, (before, word) in enumerate(pairwise(arguments), 1):
        if _SURROGATES & set(word):
            flag = word.partition("=")[0] if word.startswith("-") else before
            return flag if flag.startswith("-") and flag.isascii() else f"argument {number}"
    return "standard input"
