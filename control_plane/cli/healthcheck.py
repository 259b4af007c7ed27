"""`gatehouse healthcheck`: is the server serving? Exit code 0 when it is."""

from __future__ import annotations

from typing import Any

import typer

from control_plane.cli import printing
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, TimeoutFlag, command
from control_plane.cli.remote import Exit, Remote, with_server
from control_plane.proto.grpc.health.v1 import health_pb2

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
SERVING = health_pb2.HealthCheckResponse.SERVING

app = command()


@app.command()
def healthcheck(
    data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN, timeout: TimeoutFlag = 5.0
) -> None:
    """Asks the server whether it serves."""

    async def work(server: Remote) -> Any:
        return await server.call(HEALTH, "Check", health_pb2.HealthCheckRequest())

    status = with_server(work, data_dir=data_dir, output=output, timeout_seconds=timeout).status
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status).lower().replace("_", " ")
    printing.emit(output, {"status": name}, lambda: printing.line(f"the server is {name}"))
    if status != SERVING:
        raise typer.Exit(Exit.FAILED)
