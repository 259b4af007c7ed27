"""`gatehouse-agent`: runs the agent, and asks a running one.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 nothing found (no identity); 4 nobody answers at
the socket. Everything heavy is imported by the command that needs it: `--help` answers at once.
"""

import os
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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


def _group(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


app = _group("The node agent of Gatehouse: identities for the processes of this machine.")
api = _group("Ask the Workload API, as a workload would.")
fetch = _group("Fetch once.")
validate = _group("Have something checked.")
check = _group("Check files before they are used.")
app.add_typer(check, name="check")
app.add_typer(api, name="api")
api.add_typer(fetch, name="fetch")
api.add_typer(validate, name="validate")

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
TimeoutFlag = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")]


@app.command()
def run(
    data_dir: DataDirFlag = None,
    trust_domain: Annotated[str | None, typer.Option(help="Trust domain of the server.")] = None,
    server: Annotated[
        str | None, typer.Option(help="Server as host:port.", show_default="127.0.0.1:8081")
    ] = None,
    join_token: Annotated[
        str | None, typer.Option(envvar="GATEHOUSE_AGENT_JOIN_TOKEN", help="One-time token to attest with.")
    ] = None,
    x509pop_certificate: Annotated[
        str | None, typer.Option(help="Node certificate (PEM) to attest with.")
    ] = None,
    x509pop_key: Annotated[str | None, typer.Option(help="Its key (PEM).")] = None,
    trust_bundle: Annotated[
        str | None, typer.Option(help="The server's trust bundle, PEM or SPIFFE JSON, for the first contact.")
    ] = None,
    insecure_bootstrap: Annotated[
        bool | None, typer.Option("--insecure-bootstrap", help="DANGER: trust whatever answers at first.")
    ] = None,
    socket_path: Annotated[
        str | None, typer.Option(help="Workload API socket.", show_default="agent.sock in the data folder")
    ] = None,
    admin_socket_path: Annotated[
        str | None, typer.Option(help="Admin socket.", show_default="agent-admin.sock there")
    ] = None,
    cache_key_file: Annotated[
        str | None, typer.Option(help="Key of the encrypted cache, from elsewhere.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in TOML; flags win over it.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or human.")] = None,
) -> None:
    """Run the agent until it is told to stop."""
    from agent.run import run_from_flags

    flags: dict[str, Any] = {
        "data_dir": str(data_dir) if data_dir else None,
        "trust_domain": trust_domain,
        "server": server,
        "join_token": join_token,
        "x509pop_certificate": x509pop_certificate,
        "x509pop_key": x509pop_key,
        "trust_bundle": trust_bundle,
        "insecure_bootstrap": insecure_bootstrap,
        "socket_path": socket_path,
        "admin_socket_path": admin_socket_path,
        "cache_key_file": cache_key_file,
        "log_level": log_level,
        "log_format": log_format,
    }
    with _Errors(Form.HUMAN):
        run_from_flags(flags, config, os.environ)


@check.command("config")
def check_config(
    file: Annotated[Path, typer.Argument(help="Settings of the agent, in TOML.")],
    output: OutputFlag = Form.HUMAN,
) -> None:
    """Check settings of the agent: every problem is told, and nothing is started."""
    with _Errors(output):
        from agent import cli_check

        cli_check.check_config(file, output)


@fetch.command("x509")
def fetch_x509(
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    write: Annotated[
        Path | None, typer.Option(help="Folder for svid.N.pem, svid.N.key, bundle.N.pem.")
    ] = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Fetch this process's X.509-SVIDs. Keys are only written to files, never printed."""
    with _Errors(output):
        from agent import cli_api

        cli_api.fetch_x509(_socket(socket_path, data_dir), write, output, timeout)


@fetch.command("jwt")
def fetch_jwt(
    audience: Annotated[list[str], typer.Option(help="Whom the token is for; repeatable.")],
    spiffe_id: Annotated[str, typer.Option(help="Only this identity.", show_default="all")] = "",
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Fetch JWT-SVIDs. Whoever has the printed token is this workload until it expires."""
    with _Errors(output):
        from agent import cli_api

        cli_api.fetch_jwt(_socket(socket_path, data_dir), audience, spiffe_id, output, timeout)


@fetch.command("bundles")
def fetch_bundles(
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Fetch the trust bundles that this process may know."""
    with _Errors(output):
        from agent import cli_api

        cli_api.fetch_bundles(_socket(socket_path, data_dir), output, timeout)


@api.command("watch")
def watch(
    socket_path: SocketFlag = None, data_dir: DataDirFlag = None, output: OutputFlag = Form.HUMAN
) -> None:
    """Print each update of this process's X.509-SVIDs as it comes."""
    with _Errors(output):
        from agent import cli_api

        cli_api.watch(_socket(socket_path, data_dir), output)


@validate.command("jwt")
def validate_jwt(
    audience: Annotated[str, typer.Option(help="The audience that the token must be for.")],
    svid: Annotated[str, typer.Option(help="The token; - reads it from standard input.")] = "-",
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Have a JWT-SVID checked, and print its claims."""
    with _Errors(output):
        from agent import cli_api

        cli_api.validate_jwt(_socket(socket_path, data_dir), audience, svid, output, timeout)


@app.command()
def explain(
    pid: Annotated[int | None, typer.Option(min=1, help="The process to ask about.")] = None,
    selector: Annotated[list[str] | None, typer.Option(help="Or selectors, type:value; repeatable.")] = None,
    admin_socket_path: Annotated[Path | None, typer.Option(help="Admin socket.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Why does a process get its identities, or none?"""
    if (pid is None) == (not selector):
        raise typer.BadParameter("give either --pid or --selector")
    with _Errors(output):
        from agent import cli_admin

        found = cli_admin.explain(
            _admin_socket(admin_socket_path, data_dir), pid or 0, selector or [], output, timeout
        )
        if not found:
            raise typer.Exit(Exit.NOTHING)


@app.command("list")
def list_identities(
    admin_socket_path: Annotated[Path | None, typer.Option(help="Admin socket.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """List the identities that this agent holds for its workloads."""
    with _Errors(output):
        from agent import cli_admin

        cli_admin.list_identities(_admin_socket(admin_socket_path, data_dir), output, timeout)


@app.command()
def healthcheck(
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 5.0,
) -> None:
    """Is the agent serving? Exit code 0 if it is."""
    with _Errors(output):
        from agent import cli_admin

        if not cli_admin.healthcheck(_socket(socket_path, data_dir, environment=False), output, timeout):
            raise typer.Exit(Exit.FAILED)


class _Errors:
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
        text = json.dumps({"error": {"kind": error.kind, "message": error.message, "hint": error.hint}})
    else:
        text = f"gatehouse-agent: {escaped(error.message)}"
        text += f"\n  {escaped(error.hint)}" if error.hint else ""
    typer.echo(text, err=True)


def _exit_code(error: "GatehouseError") -> Exit:
    from control_plane.core.errors import DependencyError, NotFound

    if isinstance(error, DependencyError) and error.message.startswith("connecting to "):
        return Exit.UNREACHABLE
    return Exit.NOTHING if isinstance(error, NotFound) else Exit.FAILED


def _socket(given: Path | None, data_dir: Path | None, *, environment: bool = True) -> Path:
    if given is not None:
        return given
    if environment and data_dir is None and "SPIFFE_ENDPOINT_SOCKET" in os.environ:
        from agent.endpoint import parse_endpoint

        return parse_endpoint(os.environ["SPIFFE_ENDPOINT_SOCKET"])
    return _data_dir(data_dir) / "agent.sock"


def _admin_socket(given: Path | None, data_dir: Path | None) -> Path:
    return given if given is not None else _data_dir(data_dir) / "agent-admin.sock"


def _data_dir(given: Path | None) -> Path:
    from agent.settings import default_data_dir

    return given if given is not None else default_data_dir(os.environ)


def main() -> None:
    """The entry point of the script `gatehouse-agent`."""
    app(prog_name="gatehouse-agent")
