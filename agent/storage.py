"""Loads what the agent knew when it last ran, and writes down what it knows now.

The agent's own credential is written at once (`save_agent`); entries and SVIDs `SETTLE_SECONDS` after a
change, so that what comes together is written together, and at most once in `PAUSE_SECONDS`, in a worker
thread. What can't be read is set aside and said; the agent then begins anew. A disk that can't be written
costs the agent its memory, not its service: it is said again with each attempt.
"""

import asyncio
from pathlib import Path
from typing import Final

from agent.cache import AGENT_FILE, WORKLOADS_FILE, CacheFile
from agent.cache_content import (
    AgentContent,
    WorkloadsContent,
    dump_agent,
    dump_workloads,
    parse_agent,
    parse_workloads,
)
from agent.cache_key import CacheKey
from agent.heard import Heard
from agent.identities import Identities
from agent.waiting import wait_any
from control_plane.core.errors import Corrupt, GatehouseError
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

SETTLE_SECONDS: Final = 0.25
PAUSE_SECONDS: Final = 2.0

_log = get_logger(__name__)


class Storage:
    """Both cache files of one agent. `dirty` is set by whoever changed something worth keeping."""

    def __init__(
        self, data_dir: Path, identities: Identities, heard: Heard, key: CacheKey, clock: Clock
    ) -> None:
        self.dirty = asyncio.Event()
        self._identities = identities
        self._heard = heard
        self._trust_domain = identities.trust_domain
        self._agent = CacheFile(data_dir / AGENT_FILE, key)
        self._workloads = CacheFile(data_dir / WORKLOADS_FILE, key)
        self._clock = clock

    def load_agent(self) -> AgentContent | None:
        """The agent's credential and bundle, if there are any that can be read."""
        try:
            text = self._agent.load()
            content = parse_agent(text) if text is not None else None
            if content is not None and content.trust_domain != self._trust_domain:
                raise Corrupt(f"it is of trust domain {content.trust_domain}, not {self._trust_domain}")
        except Corrupt as error:
            self._set_aside(self._agent, error)
            return None
        return content

    def load_workloads(self) -> WorkloadsContent | None:
        """Entries and SVIDs, if there are any that can be read."""
        try:
            text = self._workloads.load()
            content = parse_workloads(text) if text is not None else None
            if content is not None and content.trust_domain != self._trust_domain:
                raise Corrupt(f"it is of trust domain {content.trust_domain}, not {self._trust_domain}")
        except Corrupt as error:
            self._set_aside(self._workloads, error)
            return None
        return content

    def save_agent(self, content: AgentContent) -> None:
        """Writes credential and trust; durable on return. Blocking. Raises FailedPrecondition."""
        self._agent.save(dump_agent(content))

    def delete(self) -> None:
        """Removes both files: a banned agent keeps nothing."""
        self._agent.delete()
        self._workloads.delete()

    async def run(self, stop: asyncio.Event) -> None:
        """Writes changes down until `stop`, and once more then."""
        while not stop.is_set():
            await wait_any(stop, self.dirty)
            await wait_any(stop, timeout_seconds=SETTLE_SECONDS)
            if self.dirty.is_set():
                self.dirty.clear()
                await self.save_workloads()
                await wait_any(stop, timeout_seconds=PAUSE_SECONDS)
        if self.dirty.is_set():
            await self.save_workloads()

    async def save_workloads(self) -> None:
        """Writes entries, SVIDs and bundles; a failure is logged."""
        identities = self._identities
        bundles = (identities.bundle, *identities.federated.values())
        content = WorkloadsContent(
            self._trust_domain,
            tuple(identities.entries.values()),
            identities.held(),
            tuple(bundle for bundle in bundles if bundle is not None),
            self._clock.unix(),
            self._heard.position,
        )
        try:
            await asyncio.to_thread(lambda: self._workloads.save(dump_workloads(content)))
        except GatehouseError as error:
            _log.error("workloads_cache_not_written", error=str(error))

    def _set_aside(self, file: CacheFile, error: Corrupt) -> None:
        aside = file.set_aside(str(error), self._clock.unix())
        _log.error("cache_set_aside", file=str(file.path), moved_to=str(aside.path), reason=aside.reason)


def restore(identities: Identities, content: WorkloadsContent, now: int) -> int:
    """Puts what was stored back; the number of SVIDs that are still valid."""
    own = [bundle for bundle in content.bundles if bundle.trust_domain == content.trust_domain]
    federated = {bundle.trust_domain: bundle for bundle in content.bundles if bundle not in own}
    if own:
        identities.replace_bundles(own[0], federated)
    identities.replace_entries(content.entries)
    entries = identities.entries
    valid = [
        (entries[entry_id], held)
        for entry_id, held in content.svids.items()
        if entry_id in entries and held.svid.not_after > now
    ]
    return sum(identities.signed(entry, held) for entry, held in valid)
