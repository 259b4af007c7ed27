"""`gatehouse agent`: agents that have attested. The agent's own commands are `gatehouse-agent`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from control_plane.cli import printing, wire
from control_plane.cli.cut_off import those_cut_off, told
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import Remote, with_server
from control_plane.proto.google.protobuf.wrappers_pb2 import BoolValue
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.types import agent_pb2 as types_pb2
from control_plane.runtime.clock import SystemClock

AGENT = agent_pb2.DESCRIPTOR.services_by_name["Agent"]
PAGE_SIZE = 500

app = group("Attested agents.")

SpiffeIdFlag = Annotated[str, typer.Option("--spiffe-id", help="The agent's SPIFFE ID.")]


@app.command("list")
def list_agents(
    banned: Annotated[bool | None, typer.Option("--banned/--not-banned", help="Only these.")] = None,
    attestation_type: Annotated[str, typer.Option("--attestation-type", help="Only these.")] = "",
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Lists agents."""
    wanted = agent_pb2.ListAgentsRequest.Filter(by_attestation_type=attestation_type)
    if banned is not None:
        wanted.by_banned.CopyFrom(BoolValue(value=banned))

    async def work(server: Remote) -> list[dict[str, Any]]:
        return await _with_quarantine(server, await _all(server, wanted))

    agents = with_server(work, data_dir=data_dir, output=output)

    def human() -> None:
        rows = [
            (each["spiffe_id"], each["attestation_type"], printing.moment(each["expires_at"]), _state(each))
            for each in agents
        ]
        everything = banned is None and not attestation_type
        empty = "no agent has attested" if everything else "no agent fits"
        printing.table(("spiffe id", "attested by", "expires", "state"), rows, empty=empty)

    printing.emit(output, {"agents": agents}, human)


@app.command()
def show(spiffe_id: SpiffeIdFlag, data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
    """Shows one agent."""
    request = agent_pb2.GetAgentRequest(id=wire.spiffe_id(spiffe_id, "--spiffe-id"))

    async def work(server: Remote) -> list[dict[str, Any]]:
        return await _with_quarantine(server, [await server.call(AGENT, "GetAgent", request)])

    [agent] = with_server(work, data_dir=data_dir, output=output)

    def human() -> None:
        printing.record(
            {
                "spiffe id": agent["spiffe_id"],
                "attested by": agent["attestation_type"],
                "serial": agent["serial"],
                "expires": printing.moment(agent["expires_at"]),
                "can attest again": agent["can_reattest"],
                "state": _state(agent),
                **({"quarantined": told(agent["quarantined"])} if agent["quarantined"] else {}),
                "version": agent["version"],
                "selectors": agent["selectors"],
            }
        )

    printing.emit(output, agent, human)


@app.command()
def count(data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
    """Counts all agents."""

    async def work(server: Remote) -> Any:
        return await server.call(AGENT, "CountAgents", agent_pb2.CountAgentsRequest())

    number = with_server(work, data_dir=data_dir, output=output).count
    printing.emit(output, {"count": number}, lambda: printing.line(str(number)))


@app.command()
def ban(spiffe_id: SpiffeIdFlag, data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
    """Bans an agent for good: it loses its streams at once and can't attest until it is evicted."""
    request = agent_pb2.BanAgentRequest(id=wire.spiffe_id(spiffe_id, "--spiffe-id"))
    _act("BanAgent", request, "banned", spiffe_id, data_dir, output)


@app.command()
def evict(spiffe_id: SpiffeIdFlag, data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
    """Forgets an agent: it must attest again. Evicting a banned agent lifts the ban."""
    request = agent_pb2.DeleteAgentRequest(id=wire.spiffe_id(spiffe_id, "--spiffe-id"))
    _act("DeleteAgent", request, "evicted", spiffe_id, data_dir, output)


@app.command()
def purge(
    expired_for: Annotated[
        int, typer.Option("--expired-for", min=0, help="Seconds since the agent's certificate expired.")
    ] = 30 * 86_400,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which.")] = False,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Forgets agents that expired long ago and can attest again. Banned ones stay, or the ban would end."""
    before = SystemClock().unix() - expired_for

    async def work(server: Remote) -> list[str]:
        agents = await _all(server, agent_pb2.ListAgentsRequest.Filter())
        due = [
            each
            for each in agents
            if each.can_reattest and not each.banned and 0 < each.x509svid_expires_at < before
        ]
        for each in [] if dry_run else due:
            await server.call(AGENT, "DeleteAgent", agent_pb2.DeleteAgentRequest(id=each.id))
        return [wire.id_text(each.id) for each in due]

    purged = with_server(work, data_dir=data_dir, output=output)
    done = "would purge" if dry_run else "purged"

    def human() -> None:
        for each in purged:
            printing.line(f"{done} {each}")
        printing.line(f"{done} {printing.counted(len(purged), 'agent')}")

    printing.emit(output, {"purged": [] if dry_run else purged, "due": purged}, human)


async def _all(server: Remote, wanted: agent_pb2.ListAgentsRequest.Filter) -> list[types_pb2.Agent]:
    """Every agent that the filter lets through, over all pages."""
    agents: list[types_pb2.Agent] = []
    token = ""
    while True:
        request = agent_pb2.ListAgentsRequest(filter=wanted, page_size=PAGE_SIZE, page_token=token)
        reply = await server.call(AGENT, "ListAgents", request)
        agents.extend(reply.agents)
        token = reply.next_page_token
        if not token:
            return agents


async def _with_quarantine(server: Remote, agents: list[types_pb2.Agent]) -> list[dict[str, Any]]:
    """Agents as commands print them; `quarantined` says why and since when, or is None."""
    shown = [wire.agent_json(each) for each in agents]
    cut_off = await those_cut_off(server, (each["spiffe_id"] for each in shown))
    return [{**each, "quarantined": cut_off.get(each["spiffe_id"])} for each in shown]


def _act(method: str, request: Any, done: str, spiffe_id: str, data_dir: Any, output: Output) -> None:
    """One call that changes an agent, and the line that says so."""

    async def work(server: Remote) -> Any:
        return await server.call(AGENT, method, request)

    with_server(work, data_dir=data_dir, output=output)
    printing.emit(
        output, {"spiffe_id": spiffe_id, "done": done}, lambda: printing.line(f"{done} {spiffe_id}")
    )


def _state(agent: dict[str, Any]) -> str:
    """A word or two about an agent: what keeps it from being served, else whether it still holds."""
    refused = [name for name in ("banned", "quarantined") if agent[name]]
    if refused:
        return ", ".join(refused)
    return "expired" if agent["expires_at"] < SystemClock().unix() else "active"
