"""What all commands of `gatehouse-agent` share: exit codes, flags, sockets, and how errors are told."""

import os
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from control_plane.runtime.command_line import MAX_WAIT_SECONDS, finite
from control_plane.runtime.output import Form

if TYPE_CHECKING:
    from control_plane.core.errors import GatehouseError


class Exit(IntEnum):
    """What the shell gets."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING = 3
    UNREACHABLE = 4


def group(text: str, kind: type[TyperGroup] = TyperGroup) -> typer.Typer:
    return typer.Typer(
        help=text,
        cls=kind,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


OutputFlag = Annotated[Form, typer.Option("--output", help="How to print the answer.")]
DataDirFlag = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="GATEHOUSE_AGENT_DATA_DIR",
        help="Folder of the agent's state and sockets.",
        show_default=".gatehouse here, else the XDG state folder",
    ),
]
SocketFlag = Annotated[
    Path | None,
    typer.Option(
        "--socket-path",
        help="Workload API socket.",
        show_default="SPIFFE_ENDPOINT_SOCKET, else in the data folder",
    ),
]
TimeoutFlag = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.1, max=MAX_WAIT_SECONDS, callback=finite, help="Seconds to wait for an answer."
    ),
]
MAX_PID = 2**22
"""The kernel numbers no process higher (proc_pid_max(5))."""


class Errors:
    """Turns our errors into one line on standard error (or a JSON object) and an exit code."""

    def __init__(self, output: Form) -> None:
        self._output = output

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        from control_plane.core.errors import GatehouseError

        if isinstance(error, GatehouseError):
            _print_error(error, self._output)
            raise typer.Exit(_exit_code(error)) from None
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(130) from None


def _print_error(error: "GatehouseError", output: Form) -> None:
    import json

    from control_plane.runtime.output import escaped

    if output is Form.JSON:
        told = {"error": error.kind, "code": error.code.name, "message": error.message, "hint": error.hint}
        text = json.dumps(told, ensure_ascii=False)
    else:
        text = f"gatehouse-agent: {escaped(error.message)}"
        text += f"\n  {escaped(error.hint)}" if error.hint else ""
    typer.echo(text, err=True)


def _exit_code(error: "GatehouseError") -> Exit:
    from control_plane.core.errors import DependencyError, NotFound

    if isinstance(error, DependencyError) and error.message.startswith("connecting to "):
        return Exit.UNREACHABLE
    return Exit.NOTHING if isinstance(error, NotFound) else Exit.FAILED


def workload_socket(given: Path | None, data_dir: Path | None, *, environment: bool = True) -> Path:
    if given is not None:
        return given
    if environment and data_dir is None and "SPIFFE_ENDPOINT_SOCKET" in os.environ:
        from agent.endpoint import parse_endpoint

        return parse_endpoint(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    return data_dir_of(data_dir) / "agent.sock"


def admin_socket(given: Path | None, data_dir: Path | None) -> Path:
    return given if given is not None else data_dir_of(data_dir) / "agent-admin.sock"


def data_dir_of(given: Path | None) -> Path:
    from agent.settings import default_data_dir

    return given if given is not None else default_data_dir(os.environ)
