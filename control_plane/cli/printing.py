"""How an answer becomes text: JSON as it is, tables and key-value lists for people.

One object or array per command in JSON, with the words of the specifications as keys, times as unix seconds
in `…_at`. For people, times are shown in UTC and with the distance from now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from control_plane.cli.options import Output
from control_plane.runtime.clock import SystemClock

Human = Callable[[], None]


def emit(output: Output, answer: Any, human: Human) -> None:
    """Prints `answer` as JSON, or lets `human` print it."""
    if output is Output.JSON:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        human()


def line(text: str) -> None:
    """One line for people."""
    typer.echo(text)


def note(text: str) -> None:
    """A remark for people, on standard error so that what is piped on stays clean."""
    typer.echo(text, err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Columns aligned by spaces, as wide as their contents; `empty` is said when there is no row.

    Plain text rather than boxes: it can be cut, searched and pasted, and a SPIFFE ID is never folded.
    """
    if not rows:
        line(empty)
        return
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[index]) for row in cells)) for index, name in enumerate(columns)]
    for row in [[name.upper() for name in columns], *cells]:
        line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def record(fields: Mapping[str, object]) -> None:
    """One thing as `name: value` lines, names aligned; a sequence takes a line an element."""
    width = max(len(name) for name in fields) + 1
    for name, value in fields.items():
        values = [_cell(each) for each in value] if isinstance(value, list | tuple) else [_cell(value)]
        for index, text in enumerate(values or ["-"]):
            line(f"{(name + ':') if index == 0 else '':<{width}} {text}".rstrip())


def moment(unix_seconds: int, *, never: str = "never") -> str:
    """A time for people: `2026-11-21 11:05:00Z (in 23h)`; zero is `never`."""
    if unix_seconds == 0:
        return never
    clock = SystemClock()
    shown = clock.now().fromtimestamp(unix_seconds, tz=clock.now().tzinfo).strftime("%Y-%m-%d %H:%M:%SZ")
    distance = unix_seconds - clock.unix()
    return f"{shown} (in {span(distance)})" if distance >= 0 else f"{shown} ({span(-distance)} ago)"


def span(seconds: int) -> str:
    """A length of time in its largest fitting unit: `42s`, `17m`, `23h`, `12d`."""
    for unit, length in (("d", 2 * 86_400), ("h", 2 * 3_600), ("m", 120)):
        if seconds >= length:
            return f"{seconds // {'d': 86_400, 'h': 3_600, 'm': 60}[unit]}{unit}"
    return f"{seconds}s"


def _cell(value: object) -> str:
    """One value as text in one line; what is empty is a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "" if value is None else str(value)
    printable = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return printable or "-"
