"""What both command lines have in common: wrong usage told as JSON where that is asked, bounds of numbers.

Typer tells wrong usage as text, for people. A program that asks for `--output json` gets an object instead,
of the form that every other error has. Nothing here knows a command.
"""

import json
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import typer
from typer.core import TyperGroup

USAGE: Final = 2
"""The exit code of wrong usage."""
MAX_INT32: Final = 2**31 - 1
MAX_INT64: Final = 2**63 - 1
MAX_WAIT_SECONDS: Final = 86_400.0
UsageError: Final[type[Exception]] = typer.BadParameter.__bases__[0]
"""What every kind of wrong usage is; typer has no public name for it."""


class Commands(TyperGroup):
    """The root of a command line. Wrong usage is JSON on standard error where the words ask for JSON."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs one command and, unless `standalone_mode` is false, ends the program with its exit code."""
        words = sys.argv[1:] if args is None else list(args)
        as_json = standalone_mode and _asks_for_json(words)
        try:
            ended = super().main(
                args, prog_name, complete_var, standalone_mode and not as_json, windows_expand_args, **extra
            )
        except UsageError as error:
            if not as_json:
                raise
            sys.stderr.write(json.dumps(_told(error), ensure_ascii=False) + "\n")
            sys.exit(USAGE)
        except typer.Abort:
            if not as_json:
                raise
            sys.exit(1)
        if as_json:
            sys.exit(ended if isinstance(ended, int) else 0)
        return ended


def finite(seconds: float) -> float:
    """A length of time as a flag gives it. Raises typer's usage error for NaN, which no range keeps out."""
    if math.isnan(seconds):
        raise typer.BadParameter("nan is not a length of time")
    return seconds


def _asks_for_json(words: Sequence[str]) -> bool:
    return "--output=json" in words or ("--output", "json") in pairwise(words)


def _told(error: Any) -> dict[str, str]:
    place = "" if error.ctx is None else f"{error.ctx.command_path} --help"
    message: str = error.format_message()
    return {"error": "wrong-usage", "code": "INVALID_ARGUMENT", "message": message, "hint": place}
