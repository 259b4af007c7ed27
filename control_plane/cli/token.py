"""`gatehouse token`: join tokens. A token lets one agent attest once; it is a secret until then."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from control_plane.cli import printing, wire
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import Remote, with_server
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.runtime.command_line import MAX_INT32

AGENT = agent_pb2.DESCRIPTOR.services_by_name["Agent"]

app = group("Join tokens, with which an agent attests once.")


@app.command()
def generate(
    spiffe_id: Annotated[
        str, typer.Option("--spiffe-id", help="Also give the agent this ID, as a parent for entries.")
    ] = "",
    ttl: Annotated[
        int, typer.Option("--ttl", min=1, max=MAX_INT32, help="Seconds in which it must be used.")
    ] = 600,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Makes a join token and prints it."""
    request = agent_pb2.CreateJoinTokenRequest(ttl=ttl)
    if spiffe_id:
        request.agent_id.CopyFrom(wire.spiffe_id(spiffe_id, "--spiffe-id"))

    async def work(server: Remote) -> Any:
        return await server.call(AGENT, "CreateJoinToken", request)

    token = with_server(work, data_dir=data_dir, output=output)
    answer = {"token": token.value, "expires_at": token.expires_at}

    def human() -> None:
        printing.line(token.value)
        printing.note(f"use it until {printing.moment(token.expires_at)}: gatehouse-agent run --join-token …")

    printing.emit(output, answer, human)
