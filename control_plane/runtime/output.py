"""What a command prints: for a human, or with `--output json` one JSON document.

Results go to standard output, remarks to standard error, so that a result can be piped. Text from outside is
escaped before a terminal sees it. No command knows which of the two forms it is writing.
"""

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

_CONTROL = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)]}


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
        from rich.console import Console  # heavy, and JSON never needs it
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(_title(column), overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        width = None if self._out.isatty() else PIPED_WIDTH
        Console(file=self._out, width=width).print(table)


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
