"""`gatehouse server run`: reads settings and becomes the supervisor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.options import DataDirFlag, Output, OutputFlag, data_dir_of, group
from control_plane.cli.remote import reported
from control_plane.core.errors import InvalidInput
from control_plane.settings import ServerSettings, load_settings

app = group("Run the server.")

ConfigFlag = Annotated[Path | None, typer.Option("--config", help="Settings in TOML; flags win over it.")]


@app.command()
def run(
    data_dir: DataDirFlag = None,
    trust_domain: Annotated[
        str | None, typer.Option("--trust-domain", help="The trust domain that this server signs for.")
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", help="host:port for agents.", show_default="0.0.0.0:8081")
    ] = None,
    api_bind: Annotated[
        str | None,
        typer.Option(
            "--api-bind", help="host:port for the management API over TLS.", show_default="api.sock alone"
        ),
    ] = None,
    issuers: Annotated[
        int | None, typer.Option("--issuers", min=0, help="Issuing processes.", show_default="one a core")
    ] = None,
    config: ConfigFlag = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info, warning or error.")
    ] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="json or human.")] = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Runs the server until it is told to stop: SIGTERM or Ctrl-C end it in order."""
    flags: dict[str, object] = {
        "data_dir": None if data_dir is None else str(data_dir),
        "trust_domain": trust_domain,
        "bind": bind,
        "api.bind": api_bind,
        "issuers": issuers,
        "log_level": log_level,
        "log_format": log_format,
    }
    with reported(output, starting=True):
        settings = settings_of(config, flags)
        from control_plane.wiring import run_server  # the whole server; `--help` does not need it

        run_server(settings)


def settings_of(
    config: Path | None, flags: dict[str, object], environment: Mapping[str, str] = os.environ
) -> ServerSettings:
    """Settings from file, environment and flags; the data folder has a default. Raises `InvalidInput`."""
    try:
        return load_settings(file=config, environment=environment, flags=flags)
    except InvalidInput as error:
        if "data_dir is missing" not in error.message:
            raise
    with_default = flags | {"data_dir": str(data_dir_of(None))}
    return load_settings(file=config, environment=environment, flags=with_default)
