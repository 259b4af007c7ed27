"""`gatehouse`: the root of all commands.

Each group's module is imported when one of its commands runs, never for `--help`: a command line that answers
at once is used. The one line that says what a group is for therefore stands here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from control_plane.cli.api_access import choose
from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.runtime.command_line import Commands
from control_plane.runtime.output import given_as_text
from control_plane.runtime.version import tell_version

GROUPS: dict[str, tuple[str, str]] = {
    "server": ("control_plane.cli.server", "Run the server."),
    "token": ("control_plane.cli.token", "Join tokens, with which an agent attests once."),
    "entry": ("control_plane.cli.entry", "Registration entries: which process gets which identity."),
    "agent": ("control_plane.cli.agent", "Attested agents."),
    "bundle": ("control_plane.cli.bundle", "Trust bundles, ours and those of federated trust domains."),
    "authority": ("control_plane.cli.authority", "Signing authorities and their rotation."),
    "svid": ("control_plane.cli.svid", "Mint SVIDs by hand."),
    "ledger": ("control_plane.cli.ledger", "What was ever issued, and to whom."),
    "policy": ("control_plane.cli.policy", "Rego policies: check, compile, prove, render."),
    "quarantine": ("control_plane.cli.quarantine", "Cut an identity off, and let it back in."),
    "check": ("control_plane.cli.check", "Check files before they are used."),
    "healthcheck": ("control_plane.cli.healthcheck", "Ask the server whether it serves."),
    "explain": (
        "control_plane.cli.explain",
        "Which identity would these selectors get, and why?",
    ),
}
"""Command → (the module that has it as `app`, its line in `--help`)."""


class LazyGroup(Commands):
    """A group that lists its commands from `GROUPS` and imports one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names in order, without those whose module this build does not have."""
        return [name for name, (module, _) in GROUPS.items() if importlib.util.find_spec(module)]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """A stand-in that has only the name and the one line; `resolve_command` swaps it."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return TyperCommand(cmd_name, help=GROUPS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is going to run, imported."""
        self.commands = {name: TyperCommand(name) for name in self.list_commands(ctx)}  # for "did you mean"
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, None, rest
        return name, typer.main.get_command(importlib.import_module(GROUPS[name][0]).app), rest


app = typer.Typer(
    name="gatehouse",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def gatehouse(
    remote: Annotated[
        str,
        typer.Option(
            envvar="GATEHOUSE_REMOTE",
            metavar="https://HOST:PORT",
            help="A server elsewhere, by its management API on TLS; else the one of --data-dir.",
        ),
    ] = "",
    remote_bundle: Annotated[
        Path | None,
        typer.Option(envvar="GATEHOUSE_REMOTE_BUNDLE", help="The trust bundle by which it is known, PEM."),
    ] = None,
    remote_svid: Annotated[
        Path | None,
        typer.Option(
            envvar="GATEHOUSE_REMOTE_SVID", help="Your X.509-SVID, PEM; not needed where you give a token."
        ),
    ] = None,
    remote_key: Annotated[
        Path | None,
        typer.Option(
            envvar="GATEHOUSE_REMOTE_KEY", help="Its key, PEM.", show_default="the file of the SVID"
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=tell_version, is_eager=True, help="Say which version this is."),
    ] = False,
) -> None:
    """Gatehouse: SPIFFE identities for every workload.

    Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 not found; 4 the server cannot be reached.
    """
    try:
        choose(remote, remote_bundle, remote_svid, remote_key)
    except GatehouseError as error:
        raise typer.BadParameter(str(error)) from error


def main() -> None:
    """Runs the command line; the entry point of the script `gatehouse`."""
    with given_as_text("gatehouse"):
        _run()


def _run() -> None:
    """One command, in a trace where traces are collected."""
    name = "gatehouse" if sys.argv[0].endswith("gatehouse") else None
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        app(prog_name=name)
        return
    # Read here: a command without a collector doesn't pay for traces.
    from control_plane.runtime import tracing

    try:
        tracing.export_from(os.environ, "gatehouse")
    except InvalidInput as error:
        sys.exit(f"gatehouse: {error}")
    words = [word for word in sys.argv[1:3] if word.isalpha()]  # names of commands, nothing that was given
    with tracing.Span(
        " ".join(["gatehouse", *words]), os.environ.get("TRACEPARENT"), tracing.Kind.INTERNAL, begin=True
    ):
        os.environ["TRACEPARENT"] = tracing.outgoing() or ""
        app(prog_name=name)
