"""Flags that many commands share, and the folder that they point to.

The data folder is `--data-dir`, else `GATEHOUSE_DATA_DIR`, else `.gatehouse` in the current folder where that
exists (so that commands in a clone reach what `make up` started), else `$XDG_STATE_HOME/gatehouse`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.runtime.command_line import MAX_WAIT_SECONDS, finite
from control_plane.runtime.output import Form as Output

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "DataDirFlag",
    "Output",
    "OutputFlag",
    "TimeoutFlag",
    "command",
    "data_dir_of",
    "group",
]

DataDirFlag = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="GATEHOUSE_DATA_DIR",
        help="Folder of the server's state and sockets.",
        show_default=".gatehouse here, else the XDG state folder",
    ),
]
OutputFlag = Annotated[Output, typer.Option("--output", help="How to print the answer.")]
TimeoutFlag = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.1, max=MAX_WAIT_SECONDS, callback=finite, help="Seconds to wait for the server."
    ),
]
DEFAULT_TIMEOUT_SECONDS = 10.0


def data_dir_of(given: Path | None) -> Path:
    """The data folder that a command works with; it need not exist."""
    if given is not None:
        return given
    here = Path(".gatehouse")
    if here.is_dir():
        return here
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "gatehouse"


_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
"""Help as plain text, and tracebacks without the values of variables: they may be secrets."""


def group(text: str) -> typer.Typer:
    """An empty group of commands in our style, with its help."""
    made = typer.Typer(no_args_is_help=True, add_completion=False, **_PLAIN)
    made.callback(help=text)(_nothing)
    return made


def command() -> typer.Typer:
    """An app that is one command instead of a group."""
    return typer.Typer(add_completion=False, **_PLAIN)


def _nothing() -> None:
    """A group needs a callback to stay a group when it has one command."""
