"""Keeps the bundle of what is in force, and wakes those who wait for the next one.

A bundle is made when somebody first asks for it; reading and packing a version happens in a thread. At most
two are kept: for all agents, and for a running canary.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from control_plane.core.errors import NotFound, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.quarantine import Quarantine
from control_plane.rollout.assignment import Assignment
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.keys import PolicyKeys
from control_plane.rollout.opa_bundle import Edition, OpaBundle, bundle_of
from control_plane.rollout.opa_document import OpaDocument
from control_plane.rollout.ports import RolloutStore
from control_plane.rollout.version import PolicySource

KEPT: Final = 2
MAX_WAITING: Final = 1000


class OpaBundles:
    """A service: `run` lets everybody who waits go when the process stops."""

    def __init__(self, store: RolloutStore, keys: PolicyKeys, quarantine: Callable[[], Quarantine]) -> None:
        self._store = store
        self._keys = keys
        self._quarantine = quarantine
        self._waiting = 0
        self._news = asyncio.Event()
        self._closing = False
        self._turn = asyncio.Lock()
        self._kept: dict[tuple[int, int], OpaBundle] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`."""
        await stop.wait()
        self._closing = True
        self.changed()

    @property
    def waiting(self) -> int:
        """How many wait for news."""
        return self._waiting

    def changed(self) -> None:
        """Tells those who wait that an assignment or the quarantine may have changed."""
        self._news.set()
        self._news = asyncio.Event()

    async def keys(self) -> list[PolicyKey]:
        """The keys that bundles may be signed by, the newest last."""
        return await self._store.keys()

    async def bundle(self, agent_id: SpiffeId | None = None) -> OpaBundle:
        """What is in force for all agents, or for this one. Raises NotFound before the first assignment,
        InvalidInput for a version that stands in the way of what is added for OPA, and what the store
        raises."""
        now = await self._store.in_force()
        assignment = now.full if agent_id is None else now.of_agent(agent_id)
        if assignment is None:
            raise NotFound(
                "serving a policy to OPA: none is in force",
                hint="push, plan, approve and apply one: gatehouse policy push DIR",
            )
        return await self._made(assignment)

    async def next_bundle(
        self, known: Callable[[str], bool], wait_seconds: float, agent_id: SpiffeId | None = None
    ) -> OpaBundle:
        """The bundle: at once if its tag isn't `known`, else once it changes or after `wait_seconds`.
        Raises as `bundle`, and ResourceExhausted where too many wait."""
        news = self._news  # before the look, so that no change falls between look and wait
        bundle = await self.bundle(agent_id)
        if wait_seconds <= 0 or not known(bundle.tag):
            return bundle
        if self._waiting >= MAX_WAITING:
            raise ResourceExhausted(f"waiting for a policy: {self._waiting} wait already")
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    while known(bundle.tag) and not self._closing:
                        await news.wait()
                        news = self._news
                        bundle = await self.bundle(agent_id)
        finally:
            self._waiting -= 1
        return bundle

    async def _made(self, assignment: Assignment) -> OpaBundle:
        async with self._turn:
            quarantine = self._quarantine()
            name = (assignment.sequence, quarantine.revision)
            kept = self._kept.get(name)
            if kept is None:
                source = await self._store.source(assignment.version)
                edition = Edition(self._keys.trust_domain, assignment, quarantine.revision)
                kept = await asyncio.to_thread(self._make, source, edition, quarantine.spiffe_ids)
                while len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[name] = kept
            return kept

    def _make(self, source: PolicySource, edition: Edition, quarantined: frozenset[SpiffeId]) -> OpaBundle:
        key, sign = self._keys.current
        return bundle_of(OpaDocument.of(source, quarantined), edition, key, sign)
