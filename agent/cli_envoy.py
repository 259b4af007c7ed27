"""`gatehouse-agent envoy`: puts an Envoy in front of a service.

The configuration holds no secret and no policy: both come from the agent once Envoy runs. Everything heavy is
imported by the command that needs it.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli_shared import DataDirFlag, Errors, OutputFlag, SocketFlag, group, workload_socket
from control_plane.runtime.output import Form

if TYPE_CHECKING:
    from agent.envoy.address import Address
    from agent.envoy.description import ServiceDescription
    from agent.envoy.names import Json

envoy = group("Put an Envoy in front of a service.")

ServiceFlag = Annotated[
    Path, typer.Option("--service", help="Description of the service, TOML or YAML; - reads standard input.")
]
AdminFlag = Annotated[
    str,
    typer.Option(
        "--admin",
        help="Envoy's admin interface: unix:/path, or a loopback address and port.",
        show_default="a unix socket beside the configuration",
    ),
]
StateOfTheWorldFlag = Annotated[
    bool, typer.Option("--sotw", help="Speak the state-of-the-world protocol instead of delta.")
]


@envoy.command()
def bootstrap(
    service: ServiceFlag,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None,
    admin: AdminFlag = "",
    sotw: StateOfTheWorldFlag = False,
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
) -> None:
    """Write the configuration that Envoy is started with."""
    import json
    import shlex

    from control_plane.runtime.output import escaped

    with Errors(output):
        from agent.envoy.bootstrap import ALONE, FLAGS

        description = _described(service)
        folder = (out.parent if out is not None else Path()).absolute()
        socket = workload_socket(socket_path, data_dir)
        text = json.dumps(_configured(description, socket, admin, folder, sotw), indent=2) + "\n"
        if out is None:
            typer.echo(text, nl=False)
        else:
            _write(out, text)
            start = shlex.join(["envoy", "-c", str(out), *FLAGS, ALONE])
            typer.echo(f"wrote {escaped(str(out))}; start Envoy with:\n  {escaped(start)}", err=True)


@envoy.command()
def run(
    service: ServiceFlag,
    folder: Annotated[
        Path, typer.Option("--run-dir", help="Folder for the configuration and the admin socket.")
    ],
    binary: Annotated[
        str | None,
        typer.Option(
            "--envoy", envvar="GATEHOUSE_ENVOY", help="The program.", show_default="envoy in the PATH"
        ),
    ] = None,
    admin: AdminFlag = "",
    sotw: StateOfTheWorldFlag = False,
    hot_restart: Annotated[
        bool,
        typer.Option(
            "--hot-restart",
            help="Take over from the one that runs here, which finishes and ends; and let the next do so.",
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Worker threads.")] = 1,
    log_level: Annotated[str, typer.Option(help="Envoy's own.")] = "warning",
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
) -> None:
    """Write the configuration and become Envoy: this process is replaced by it."""
    import asyncio
    import json

    with Errors(output):
        from agent.envoy import takeover
        from agent.envoy.bootstrap import ALONE, FLAGS
        from agent.envoy.program import find_envoy

        description = _described(service)
        program = find_envoy(binary)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        out = folder.absolute() / f"{description.name}.envoy.json"
        socket = workload_socket(socket_path, data_dir)
        at = _admin(admin, description, out.parent)
        epoch = asyncio.run(takeover.next_epoch(at, take_over=hot_restart))
        configuration = _configured(description, socket, admin, out.parent, sotw)
        _write(out, json.dumps(configuration, indent=2) + "\n")
        options = ["--concurrency", str(concurrency), "--log-level", log_level]
        options += takeover.flags(out.parent, description.name, epoch) if hot_restart else [ALONE]
        os.execv(program, [str(program), "-c", str(out), *FLAGS, *options])  # noqa: S606 - no shell


@envoy.command()
def files(
    service: ServiceFlag,
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    once: Annotated[bool, typer.Option("--once", help="Write them once and end.")] = False,
    admin: AdminFlag = "",
    socket_path: SocketFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Form.HUMAN,
) -> None:
    """Keep files with Envoy's whole configuration up to date, for an Envoy that watches files."""
    import asyncio
    from contextlib import suppress

    with Errors(output):
        from agent.envoy.files import BOOTSTRAP, follow, from_files, replace

        description = _described(service)
        folder = out.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket = workload_socket(socket_path, data_dir).absolute()
        configuration = _configured(description, socket, admin, folder, sotw=True)
        replace(folder / BOOTSTRAP, from_files(configuration, folder))
        node = configuration["node"]
        assert isinstance(node, dict)
        with suppress(KeyboardInterrupt):
            asyncio.run(follow(socket, node, folder, once=once))


@envoy.command()
def stop(
    admin: Annotated[str, typer.Option("--admin", help="Its admin interface, unix:/path or address:port.")],
    seconds: Annotated[float, typer.Option(min=0, help="Time for what runs to finish.")] = 10.0,
    output: OutputFlag = Form.HUMAN,
) -> None:
    """Stop an Envoy: it takes nothing new, finishes what runs, and ends."""
    import asyncio

    with Errors(output):
        from agent.envoy import stopping
        from agent.envoy.address import Address

        cut = asyncio.run(stopping.stop(Address.parse_local(admin), seconds))
        if cut:
            typer.echo(
                f"{cut} requests or connections were still open after {seconds:g} s and were cut", err=True
            )


def _described(path: Path) -> "ServiceDescription":
    from dataclasses import replace

    from agent.envoy.authorities import system_authorities
    from agent.envoy.description_file import read_description

    found = read_description(path)
    return replace(found, authorities=found.authorities or system_authorities())


def _configured(
    description: "ServiceDescription", socket: Path, admin: str, folder: Path, sotw: bool
) -> "Json":
    from agent.envoy.address import Address
    from agent.envoy.bootstrap import bootstrap

    Address.parse(f"unix:{socket.absolute()}")  # Envoy would only say that the path is too long
    return bootstrap(description, socket.absolute(), _admin(admin, description, folder), delta=not sotw)


def _admin(flag: str, description: "ServiceDescription", folder: Path) -> "Address":
    from agent.envoy.address import Address

    return Address.parse_local(flag or f"unix:{folder / description.name}.admin.sock")


def _write(path: Path, text: str) -> None:
    from control_plane.core.errors import FailedPrecondition

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FailedPrecondition(f"writing {path}: {error.strerror}") from error
