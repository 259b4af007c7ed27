"""`gatehouse-agent`: runs the agent, and asks a running one.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 nothing found (no identity); 4 nobody answers at
the socket. Everything heavy is imported by the command that needs it: `--help` answers at once.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli_envoy import envoy
from agent.cli_shared import (
    MAX_PID,
    DataDirFlag,
    Errors,
    Exit,
    OutputFlag,
    SocketFlag,
    TimeoutFlag,
    admin_socket,
    group,
    workload_socket,
)
from control_plane.runtime.command_line import Commands
from control_plane.runtime.output import Form, given_as_text
from control_plane.runtime.version import tell_version

app = group("The node agent of Gatehouse: identities for the processes of this machine.", Commands)
api = group("Ask the Workload API, as a workload would.")
fetch = group("Fetch once.")
validate = group("Have something checked.")
check = group("Check files before they are used.")
app.add_typer(check, name="check")
app.add_typer(api, name="api")
app.add_typer(envoy, name="envoy")
api.add_typer(fetch, name="fetch")
api.add_typer(validate, name="validate")


@app.callback()
def gatehouse_agent(
    version: Annotated[
        bool,
        typer.Option("--version", callback=tell_version, is_eager=True, help="Say which version this is."),
    ] = False,
) -> None:
    """What is said before a command."""


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
    output: OutputFlag = Form.HUMAN,
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
    with Errors(output):
        run_from_flags(flags, config, os.environ)


@check.command("config")
def check_config(
    file: Annotated[Path, typer.Argument(help="Settings of the agent, in TOML.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="As `run` will be given it.", show_default="as there")
    ] = None,
    trust_domain: Annotated[str | None, typer.Option(help="As `run` will be given it.")] = None,
    output: OutputFlag = Form.HUMAN,
) -> None:
    """Check settings of the agent: every problem is told, and nothing is started."""
    with Errors(output):
        from agent import cli_check

        flags = {"data_dir": None if data_dir is None else str(data_dir), "trust_domain": trust_domain}
        cli_check.check_config(file, flags, output)


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
    with Errors(output):
        from agent import cli_api

        cli_api.fetch_x509(workload_socket(socket_path, data_dir), write, output, timeout)


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
    with Errors(output):
        from agent import cli_api

        cli_api.fetch_jwt(workload_socket(socket_path, data_dir), audience, spiffe_id, output, timeout)


@fetch.command("bundles")
def fetch_bundles(
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Fetch the trust bundles that this process may know."""
    with Errors(output):
        from agent import cli_api

        cli_api.fetch_bundles(workload_socket(socket_path, data_dir), output, timeout)


@api.command("watch")
def watch(
    socket_path: SocketFlag = None, data_dir: DataDirFlag = None, output: OutputFlag = Form.HUMAN
) -> None:
    """Print each update of this process's X.509-SVIDs as it comes."""
    with Errors(output):
        from agent import cli_api

        cli_api.watch(workload_socket(socket_path, data_dir), output)


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
    with Errors(output):
        from agent import cli_api

        cli_api.validate_jwt(workload_socket(socket_path, data_dir), audience, svid, output, timeout)


@app.command()
def explain(
    pid: Annotated[int | None, typer.Option(min=1, max=MAX_PID, help="The process to ask about.")] = None,
    selector: Annotated[list[str] | None, typer.Option(help="Or selectors, type:value; repeatable.")] = None,
    admin_socket_path: Annotated[Path | None, typer.Option(help="Admin socket.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Why does a process get its identities, or none? Ends with 3 when it gets none."""
    if (pid is None) == (not selector):
        raise typer.BadParameter("give either --pid or --selector")
    with Errors(output):
        from agent import cli_admin

        found = cli_admin.explain(
            admin_socket(admin_socket_path, data_dir), pid or 0, selector or [], output, timeout
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
    with Errors(output):
        from agent import cli_admin

        cli_admin.list_identities(admin_socket(admin_socket_path, data_dir), output, timeout)


@app.command("policy")
def show_policy(
    admin_socket_path: Annotated[Path | None, typer.Option(help="Admin socket.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 15.0,
) -> None:
    """Show which policy this node enforces, and the Rego line of each rule."""
    with Errors(output):
        from agent import cli_admin

        cli_admin.show_policy(admin_socket(admin_socket_path, data_dir), output, timeout)


@app.command()
def healthcheck(
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
    timeout: TimeoutFlag = 5.0,
) -> None:
    """Is the agent serving? Exit code 0 if it is."""
    with Errors(output):
        from agent import cli_admin

        if not cli_admin.healthcheck(
            workload_socket(socket_path, data_dir, environment=False), output, timeout
        ):
            raise typer.Exit(Exit.FAILED)


def main() -> None:
    """The entry point of the script `gatehouse-agent`."""
    with given_as_text("gatehouse-agent"):
        app(prog_name="gatehouse-agent")
