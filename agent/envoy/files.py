"""The second way to configure an Envoy: files that are replaced as the agent's answers change.

For an Envoy that may not hold a discovery stream. The writer (`follow`) asks the agent as an Envoy would, and
is attested as one: it has to be entitled to the service's identity. Envoy watches the files. Certificates
never get there: they still come from the agent's socket.

    envoy.json               what Envoy is started with
    clusters.json            the answers to the three types that the agent owns
    listeners.json
    gatehouse.policy.json    one for each filter that is replaced by itself
    gatehouse.quarantine.json
"""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.backoff import Backoff
from agent.envoy import wire
from agent.envoy.names import CLUSTER, EXTENSION, LISTENER, POLICY, QUARANTINE, Json
from control_plane.core.errors import DeadlineExceeded, FailedPrecondition, GatehouseError
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Channel

BOOTSTRAP: Final = "envoy.json"
CLUSTERS: Final = "clusters.json"
LISTENERS: Final = "listeners.json"
RETRY: Final = Backoff(first_seconds=0.5, ceiling_seconds=10)
FIRST_ANSWER_SECONDS: Final = 20.0
STREAM: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"

_ASKED: Final[Mapping[str, tuple[str, ...]]] = {CLUSTER: (), LISTENER: (), EXTENSION: (QUARANTINE, POLICY)}

_log = get_logger(__name__)


def watched(path: Path) -> Json:
    """A source of configuration that is a file."""
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def from_files(bootstrap: Json, folder: Path) -> Json:
    """The bootstrap of an Envoy that reads its listeners and clusters from the folder."""
    sources = {"cds_config": watched(folder / CLUSTERS), "lds_config": watched(folder / LISTENERS)}
    return {**bootstrap, "dynamic_resources": sources}


def documents(answer: wire.Received, folder: Path) -> dict[str, Json]:
    """The files that an answer becomes, by name."""

    def file(resources: list[Json]) -> Json:
        return {"version_info": answer.version, "resources": resources}

    if answer.type_url == EXTENSION:
        return {f"{one['name']}.json": file([one]) for one in answer.resources}
    if answer.type_url == CLUSTER:
        return {CLUSTERS: file(list(answer.resources))}
    return {LISTENERS: file([_read_filters_from(folder, one) for one in answer.resources])}


async def follow(socket: Path, node: Json, folder: Path, *, once: bool) -> None:
    """Writes the files each time the agent has news, for ever; `once`: until all were written.

    While the agent can't be asked, the files stay as they are. Raises GatehouseError only with `once`.
    """
    attempt = 0
    while True:
        try:
            async with Channel.unix(socket) as channel:
                if await _follow(channel, node, folder, once=once):
                    return
                attempt = 0
        except GatehouseError as error:
            if once:
                raise
            attempt += 1
            _log.warning("envoy_files_not_followed", folder=str(folder), error=str(error))
        await asyncio.sleep(RETRY.delay(attempt, str(folder)))


async def _follow(channel: Channel, node: Json, folder: Path, *, once: bool) -> bool:
    """One stream; True when all was written and that is enough."""
    written: set[str] = set()
    async with channel.stream(STREAM, wire.DiscoveryResponse) as call:
        for type_url, names in _ASKED.items():
            await call.send(wire.state_of_the_world_request(type_url, names, node))
        while True:
            try:
                async with asyncio.timeout(FIRST_ANSWER_SECONDS if once else None):
                    message = await call.receive()
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"asking the agent for configuration: no answer in {FIRST_ANSWER_SECONDS:.0f} s",
                    hint="it says nothing until it knows the policy: gatehouse-agent healthcheck",
                ) from error
            if message is None:
                return False
            answer = wire.received(message)
            for name, document in documents(answer, folder).items():
                replace(folder / name, document)
            written.add(answer.type_url)
            nonce = answer.nonce
            names = _ASKED[answer.type_url]
            await call.send(wire.state_of_the_world_request(answer.type_url, names, node, nonce))
            if once and written == _ASKED.keys():
                return True


def replace(path: Path, document: Json) -> None:
    """Replaces a file as a whole; Envoy sees the rename. Raises FailedPrecondition."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        os.replace(new, path)  # noqa: PTH105 - as Envoy's documentation has it: a move into the folder
    except OSError as error:
        raise FailedPrecondition(f"writing {path}: {error.strerror}") from error


def _read_filters_from(folder: Path, node: Any) -> Any:
    """A listener whose replaceable filters come from files."""
    if isinstance(node, list):
        return [_read_filters_from(folder, one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _read_filters_from(folder, one) for name, one in node.items()}
    discovery = found.get("config_discovery")
    if isinstance(discovery, dict):
        found["config_discovery"] = {**discovery, "config_source": watched(folder / f"{found['name']}.json")}
    return found
