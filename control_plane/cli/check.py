"""`gatehouse check`: whether a file can be used, before anything is started with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli import printing, vault
from control_plane.cli.options import Output, OutputFlag, group
from control_plane.cli.remote import reported
from control_plane.cli.server import settings_of
from control_plane.runtime.addresses import check_socket_path

app = group("Check files, and what they name, before they are used.")
app.command("vault")(vault.inspect)


@app.command()
def config(
    file: Annotated[Path, typer.Argument(help="Settings of the server, in TOML.")],
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="As `server run` will be given it.", show_default="as there"),
    ] = None,
    trust_domain: Annotated[
        str | None, typer.Option("--trust-domain", help="As `server run` will be given it.")
    ] = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Checks settings of the server: every problem is told, and nothing is started."""
    flags: dict[str, object] = {
        "data_dir": None if data_dir is None else str(data_dir),
        "trust_domain": trust_domain,
    }
    with reported(output):
        settings = settings_of(file, flags, environment={})
        check_socket_path(settings.admin_socket)
    written = settings.written
    answer = {
        "file": str(file),
        "trust_domain": settings.trust_domain.name,
        "data_dir": str(settings.data_dir),
        "bind": written.bind,
        "issuers": settings.issuers,
        "x509_svid_ttl_seconds": written.default_x509_svid_ttl_seconds,
        "agent_ttl_seconds": written.agent_ttl_seconds,
        "ca_ttl_seconds": written.authority.ca_ttl_seconds,
        "root_ttl_seconds": written.authority.root_ttl_seconds,
        "constrain_uris": written.authority.constrain_uris,
    }

    def human() -> None:
        printing.record({name.removesuffix("_seconds"): _told(name, value) for name, value in answer.items()})
        printing.line("the settings are good")

    printing.emit(output, answer, human)


def _told(name: str, value: object) -> object:
    """A length of time in words, anything else as it is."""
    return printing.span(value) if name.endswith("_seconds") and isinstance(value, int) else value
