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

LOOK_SECONDS: Final = 2.0  # between two looks whether the files are still what was written
MAX_FOREIGN: Final = 20  # places of a file that are told
MAX_FILE_BYTES: Final = 64 << 20

_log = get_logger(__name__)


class Written:
    """What was written into a folder, and what to do about what others write there.

    A file that isn't what was written is written again: it is the agent's answer that counts, and a policy
    that somebody loosened by hand would be Envoy's policy. What was foreign is logged, by place, not content.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: dict[str, str] = {}

    def write(self, name: str, document: Json) -> None:
        """Replaces one file. Raises FailedPrecondition."""
        replace(self._folder / name, document)
        self._texts[name] = _text(document)

    def heal(self) -> list[str]:
        """Writes again what isn't as it was written; gives the names. Raises FailedPrecondition."""
        healed = []
        for name, text in self._texts.items():
            path = self._folder / name
            try:
                with path.open("rb") as file:
                    found: str | None = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
            except OSError:
                found = None
            if found == text:
                continue
            _log.error("envoy_file_healed", file=str(path), foreign=foreign(text, found))
            replace(path, json.loads(text))
            healed.append(name)
        return healed

    async def watch(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.heal()
            except GatehouseError as error:
                _log.error("envoy_file_not_healed", folder=str(self._folder), error=str(error))


def foreign(expected: str, found: str | None) -> list[str]:
    """Where a file differs from what was written, as JSON pointers (RFC 6901), at most `MAX_FOREIGN`."""
    if found is None:
        return ["the file is gone"]
    try:
        document = json.loads(found)
    except (ValueError, RecursionError):
        return ["the file is no JSON"]
    places: list[str] = []
    _compare(json.loads(expected), document, "", places)
    return places[:MAX_FOREIGN] or ["only its form"]


def _compare(expected: Any, found: Any, place: str, places: list[str]) -> None:
    if len(places) >= MAX_FOREIGN or expected == found:
        return
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            step = f"{place}/{key[:100].replace('~', '~0').replace('/', '~1')}"
            if key not in expected:
                places.append(f"{step} was added")
            elif key not in found:
                places.append(f"{step} is gone")
            else:
                _compare(expected[key], found[key], step, places)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            _compare(one, other, f"{place}/{number}", places)
    else:
        places.append(f"{place} was changed")


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
    """Writes the files each time the agent has news, for ever; `once`: until all were written. What others
    write into them is written over.

    While the agent can't be asked, the files stay as they are. Raises GatehouseError only with `once`.
    """
    files = Written(folder)
    watching = None if once else asyncio.create_task(files.watch())
    attempt = 0
    try:
        while True:
            try:
                async with Channel.unix(socket) as channel:
                    if await _follow(channel, node, folder, files, once=once):
                        return
                    attempt = 0
            except GatehouseError as error:
                if once:
                    raise
                attempt += 1
                _log.warning("envoy_files_not_followed", folder=str(folder), error=str(error))
            await asyncio.sleep(RETRY.delay(attempt, str(folder)))
    finally:
        if watching is not None:
            watching.cancel()


async def _follow(channel: Channel, node: Json, folder: Path, files: Written, *, once: bool) -> bool:
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
                files.write(name, document)
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
        new.write_text(_text(document), encoding="utf-8")
        os.replace(new, path)  # noqa: PTH105 - as Envoy's documentation has it: a move into the folder
    except OSError as error:
        raise FailedPrecondition(f"writing {path}: {error.strerror}") from error


def _text(document: Json) -> str:
    return json.dumps(document, indent=2) + "\n"


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
