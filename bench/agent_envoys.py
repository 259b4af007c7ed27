"""What the agent weighs with fifty Envoys, each with streams as a real one opens them.

`python -m bench.agent_envoys [--envoys 50]`: a real server and a real agent with as many entries. Each
simulated Envoy has a connection of its own, asks for listeners, clusters and filters of its service by delta
ADS and for its certificate, all trust bundles and that of its server by delta SDS, and keeps the streams. The
agent's resident memory is held to 150 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

from agent.envoy.names import CLUSTER, EXTENSION, LISTENER, POLICY, QUARANTINE, SECRET
from bench import _agent_lab
from bench.report import Result, command_line, tell
from control_plane.runtime.transport import Channel

LIMIT_MIB = 150.0
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
SDS = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"


def description(number: int) -> dict[str, Any]:
    """A service with an HTTP and a TCP port that calls one other."""

    def port(name: str, base: int, protocol: str) -> dict[str, str]:
        at = {"listen": f"127.0.0.1:{base + number}", "upstream": "127.0.0.1:1"}
        return {"name": name, **at, "protocol": protocol}

    return {
        "name": f"s{number}",
        "spiffe_id": f"spiffe://{_agent_lab.TRUST_DOMAIN}/s{number}",
        "inbound": [port("http", 20_000, "http"), port("tcp", 30_000, "tcp")],
        "outbound": [port("other", 40_000, "http") | {"spiffe_id": f"spiffe://{_agent_lab.TRUST_DOMAIN}/s0"}],
    }


def request(type_url: str, names: list[str], node: Any) -> Any:
    """A delta request for these names."""
    fields = {"type_url": type_url, "node": node, "resource_names_subscribe": names}
    return json_format.ParseDict(fields, discovery_pb2.DeltaDiscoveryRequest())


async def envoy(stack: contextlib.AsyncExitStack, socket: str, number: int) -> None:
    """Opens the streams of one Envoy and reads their first answers."""
    service = description(number)
    node = {"id": service["name"], "metadata": {"gatehouse": {"service": service}}}
    channel = await stack.enter_async_context(Channel.unix(socket))
    streams = [(ADS, [(CLUSTER, []), (LISTENER, []), (EXTENSION, [QUARANTINE, POLICY])])]
    secrets = (service["spiffe_id"], "ALL", f"spiffe://{_agent_lab.TRUST_DOMAIN}")
    streams += [(SDS, [(SECRET, [name])]) for name in secrets]
    for path, asked in streams:
        call = await stack.enter_async_context(channel.stream(path, discovery_pb2.DeltaDiscoveryResponse))
        for type_url, names in asked:
            await call.send(request(type_url, names, node))
        for _ in asked:
            answer = await asyncio.wait_for(call.receive(), 60)
            if answer is None or not answer.resources:
                raise RuntimeError(f"{path} gave nothing for {service['name']}")


async def measure(lab: _agent_lab.Lab, count: int) -> tuple[float, float]:
    """MiB at rest and with so many Envoys."""
    async with Channel.unix(lab.server_socket) as channel:
        entries = (_agent_lab.new_entry(f"/s{number}", _agent_lab.uid_selector()) for number in range(count))
        await _agent_lab.create(channel, entries)
    await asyncio.to_thread(_agent_lab.wait_for_identity, lab.socket, b"/s0")
    await asyncio.sleep(3)
    rest = lab.agent_memory_kib() / 1024
    async with contextlib.AsyncExitStack() as stack:
        for number in range(count):
            await envoy(stack, lab.socket, number)
        await asyncio.sleep(2)
        return rest, lab.agent_memory_kib() / 1024


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--envoys", type=int, default=50)
    count = parser.parse_args().envoys
    with _agent_lab.lab() as lab:
        rest, loaded = asyncio.run(measure(lab, count))
    tell(
        Result(
            f"agent with {count} Envoys",
            f"{loaded:.1f} MiB ({rest:.1f} before the first)",
            f"a limit of {LIMIT_MIB:.0f} MiB",
            loaded / LIMIT_MIB,
            1.0,
        )
    )


if __name__ == "__main__":
    main()
