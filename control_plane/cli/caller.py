"""Flags of commands that change something: who says so, and whether a rule is overridden."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.options import Output
from control_plane.cli.remote import reported
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.runtime.files import read_text_bounded

MAX_TOKEN_BYTES = 16_384

ReasonFlag = Annotated[str, typer.Option("--reason", "-m", help="Why, in a sentence; others read it.")]
TokenFileFlag = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="GATEHOUSE_TOKEN_FILE",
        help="File with your OIDC token; without it and GATEHOUSE_TOKEN you are the user of this process.",
    ),
]
BreakGlassFlag = Annotated[
    bool,
    typer.Option("--break-glass", help="Override who may do this: for root on this machine only; recorded."),
]


def caller_headers(token_file: Path | None, output: Output, *, break_glass: bool = False) -> dict[str, str]:
    """What says who calls. Ends the program with one line if the token can't be read."""
    headers = {"gatehouse-break-glass": "1"} if break_glass else {}
    if token_file is None:
        return headers
    with reported(output):
        try:
            token = read_text_bounded(token_file, 2 * MAX_TOKEN_BYTES, "ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NotFound(f"reading the token file {token_file}: {error}") from error
        if not token or len(token) > MAX_TOKEN_BYTES or any(character.isspace() for character in token):
            raise InvalidInput(f"reading the token file {token_file}: it doesn't hold one token")
    return {**headers, "authorization": f"Bearer {token}"}
