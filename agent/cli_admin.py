"""`gatehouse-agent explain`, `list` and `healthcheck`: the administrator's view, on the command line."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.cli_client import call, moment
from control_plane.core.selectors import Selector
from control_plane.proto.gatehouse.agent.v1 import admin_pb2 as pb
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.proto.spire.api.types import selector_pb2
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.output import Form, Output, escaped
from control_plane.runtime.transport import Channel

ADMIN = "/gatehouse.agent.v1.Admin/"


def explain(socket: Path, pid: int, selectors: Sequence[str], form: Form, timeout: float) -> bool:
    """Prints why; true if the process or the selectors have an identity."""
    wanted = [Selector.parse(text) for text in selectors]
    request = pb.ExplainRequest(
        pid=pid, selectors=[selector_pb2.Selector(type=each.type, value=each.value) for each in wanted]
    )

    async def work(channel: Channel) -> pb.ExplainResponse:
        return await channel.unary(ADMIN + "Explain", request, pb.ExplainResponse, timeout=timeout)

    response = call(socket, work)
    output = Output(form)
    if form is Form.JSON:
        output.record(_as_json(response))
    else:
        _tell(response, pid, output)
    return bool(response.matches)


def list_identities(socket: Path, form: Form, timeout: float) -> None:
    """Prints all entries with their SVIDs."""

    async def work(channel: Channel) -> pb.ListIdentitiesResponse:
        return await channel.unary(
            ADMIN + "ListIdentities", pb.ListIdentitiesRequest(), pb.ListIdentitiesResponse, timeout=timeout
        )

    response = call(socket, work)
    now = SystemClock().unix()
    rows: list[dict[str, Any]] = []
    for each in response.identities:
        times: dict[str, Any] = {"expires_at": each.expires_at, "renews_at": each.renews_at}
        if form is Form.HUMAN:
            times = {"expires": moment(each.expires_at, now), "renews": moment(each.renews_at, now)}
        rows.append(
            {
                "spiffe_id": each.spiffe_id,
                "entry_id": each.entry_id,
                "selectors": _texts(each.selectors),
                **times,
                "serial": each.serial,
                "streams": each.subscribers,
            }
        )
    columns = ("spiffe_id", "selectors", "expires", "renews", "streams")
    Output(form).table(columns, rows, empty="this agent holds no identity")


def show_policy(socket: Path, form: Form, timeout: float) -> None:
    """Prints what this node enforces."""

    async def work(channel: Channel) -> pb.ShowPolicyResponse:
        return await channel.unary(
            ADMIN + "ShowPolicy", pb.ShowPolicyRequest(), pb.ShowPolicyResponse, timeout=timeout
        )

    response = call(socket, work)
    output = Output(form)
    rows: list[dict[str, Any]] = [
        {
            "workload": each.workload,
            "spiffe_id": each.spiffe_id,
            "judged_by_agent": each.judged_by_agent,
            "rules": {rule.rule: list(rule.lines) for rule in each.rules},
        }
        for each in response.workloads
    ]
    if form is Form.JSON:
        known = {
            name: getattr(response, name)
            for name in ("sequence", "version", "digest", "issued_at", "settled", "error")
        }
        output.record({**known, "quarantined": list(response.quarantined), "workloads": rows})
        return
    if not response.sequence:
        output.text("no policy is in force on this node: everything is denied")
    else:
        age = moment(response.issued_at, SystemClock().unix())
        output.text(f"version {response.version} is in force (assignment {response.sequence}, made {age})")
    if response.error:
        output.text(escaped(f"what came last isn't enforced: {response.error}"))
    for spiffe_id in response.quarantined:
        output.text(f"quarantined: {spiffe_id}")
    lines = [
        {
            "workload": row["workload"],
            "rule": rule + (" (judged by the agent)" if row["judged_by_agent"] else ""),
            "lines": ", ".join(found),
        }
        for row in rows
        for rule, found in sorted(row["rules"].items())
    ]
    output.table(("workload", "rule", "lines"), lines, empty="no workload of this node is in the inventory")


def healthcheck(socket: Path, form: Form, timeout: float) -> bool:
    """Prints whether the agent serves."""

    async def work(channel: Channel) -> health_pb2.HealthCheckResponse:
        return await channel.unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest(),
            health_pb2.HealthCheckResponse,
            timeout=timeout,
        )

    status = call(socket, work).status
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status).lower().replace("_", " ")
    Output(form).done(f"the agent is {name}", status=name)
    return status == health_pb2.HealthCheckResponse.SERVING


def _as_json(response: pb.ExplainResponse) -> dict[str, Any]:
    return {
        "attested": _texts(response.attested),
        "matches": [
            {
                "entry_id": match.entry_id,
                "spiffe_id": match.spiffe_id,
                "svid_expires_at": match.svid_expires_at,
                "renews_at": match.renews_at,
                "is_default": match.is_default,
                "hint": match.hint,
            }
            for match in response.matches
        ],
        "near": [
            {"entry_id": miss.entry_id, "spiffe_id": miss.spiffe_id, "missing": _texts(miss.missing)}
            for miss in response.near
        ],
        "last_sync_at": response.last_sync_at,
        "last_sync_error": response.last_sync_error,
        "agent_id": response.agent_id,
        "attestation_errors": list(response.attestation_errors),
        "process_ended": response.process_ended,
    }


def _tell(response: pb.ExplainResponse, pid: int, output: Output) -> None:
    now = SystemClock().unix()
    who = f"process {pid}" if pid else "a process with these selectors"
    if response.process_ended:
        output.done(f"{who} doesn't run any more")
        return
    if not response.matches:
        output.done(f"{who} gets no identity")
    for match in response.matches:
        default = ", its default" if match.is_default else ""
        state = (
            f"valid until {moment(match.svid_expires_at, now)}" if match.svid_expires_at else "not signed yet"
        )
        renewal = f"; renewed {moment(match.renews_at, now)}" if match.renews_at else ""
        output.done(f"{who} gets {match.spiffe_id}{default}: {state}{renewal} (entry {match.entry_id})")
    if response.near:
        output.done("\nnearest entries that don't match:")
        for miss in response.near:
            output.done(
                f"  {miss.spiffe_id} (entry {miss.entry_id}) misses {', '.join(_texts(miss.missing))}"
            )
    if not response.matches and not response.near:
        output.done(
            "\nno entry that this agent may serve comes near. It may serve those whose --parent-id is its"
            "\nown ID (below) or that of a node set of its; `gatehouse explain` knows all entries."
        )
    output.done("\nattested selectors:" if response.attested else "\nno selectors could be attested")
    for text in _texts(response.attested):
        output.done(f"  {text}")
    for error in response.attestation_errors:
        output.done(f"  ! {error}")
    output.done(f"\nagent {response.agent_id or '(not attested)'}")
    output.done(f"last heard from the server: {moment(response.last_sync_at, now)}")
    if response.last_sync_error:
        output.done(f"  ! {response.last_sync_error}")


def _texts(selectors: Iterable[selector_pb2.Selector]) -> list[str]:
    return [f"{selector.type}:{selector.value}" for selector in selectors]
