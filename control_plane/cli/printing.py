"""How an answer becomes text: JSON as it is, tables and key-value lists for people.

One object or array per command in JSON, with the words of the specifications as keys, times as unix seconds
in `…_at`. For people, times are shown in UTC and with the distance from now.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from control_plane.runtime.clock import SystemClock
from control_plane.runtime.output import Form, Output, escaped

Human = Callable[[], None]


def emit(output: Form, answer: Any, human: Human) -> None:
    """Prints `answer` as JSON, or lets `human` print it."""
    if output is Form.JSON:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        human()


def line(text: str) -> None:
    """One line for people."""
    typer.echo(escaped(text))


def paragraph(text: str, indent: int) -> None:
    """A sentence or a list for people, folded where a terminal would break it; one line where it is piped."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    margin = " " * indent
    if len(margin) + len(text) <= width or not width:
        line(margin + text)
        return
    folded = textwrap.wrap(
        escaped(text), max(width, 40), initial_indent=margin, subsequent_indent=margin + "  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for part in folded:
        line(part)


def document(text: str) -> None:
    """A result of several lines that is printed as it is, such as PEM."""
    Output().text(text)


def note(text: str) -> None:
    """A remark for people, on standard error so that what is piped on stays clean."""
    Output().remark(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Several things for people, one a row; `empty` is said when there is none."""
    Output().table(columns, [dict(zip(columns, row, strict=True)) for row in rows], empty=empty)


def record(fields: Mapping[str, object]) -> None:
    """One thing for people, a field a line."""
    Output().record(fields)


def counted(number: int, one: str) -> str:
    """A number of things, of which one is called `one`: `1 file`, `2 files`, `2 entries`."""
    if number == 1:
        return f"1 {one}"
    return f"{number} {one.removesuffix('y')}ies" if one.endswith("ry") else f"{number} {one}s"


def moment(unix_seconds: int, *, never: str = "never") -> str:
    """A time for people: `2026-11-21 11:05:00Z (in 23h)`; zero is `never`, and what no calendar has the
    number of seconds."""
    if unix_seconds == 0:
        return never
    clock = SystemClock()
    try:
        shown = clock.now().fromtimestamp(unix_seconds, tz=clock.now().tzinfo).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        shown = f"second {unix_seconds}"
    distance = unix_seconds - clock.unix()
    if distance == 0:
        return f"{shown} (now)"
    return f"{shown} (in {span(distance)})" if distance > 0 else f"{shown} ({span(-distance)} ago)"


def span(seconds: int) -> str:
    """A length of time in its largest fitting unit: `42s`, `17m`, `23h`, `12d`."""
    for unit, length in (("d", 2 * 86_400), ("h", 2 * 3_600), ("m", 120)):
        if seconds >= length:
            return f"{seconds // {'d': 86_400, 'h': 3_600, 'm': 60}[unit]}{unit}"
    return f"{seconds}s"
