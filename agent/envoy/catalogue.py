"""What one Envoy is told, over time: the resources of its situation, with versions, and its drain marks.

A mark is part of a listener's filter chain and nothing else: another one makes Envoy replace the chain, and
what runs on the old one ends within the drain time (`bootstrap.DRAIN_SECONDS`). It stands at the end of the
listener's version, and an Envoy that comes back says which versions it holds; so nothing is drained because
the agent was restarted.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from agent.enforcement.ports import Enforcement, WorkloadPolicy
from agent.envoy import wire
from agent.envoy.description import ServiceDescription
from agent.envoy.names import LISTENER, Json
from agent.envoy.resources import Situation, build
from agent.envoy.subscription import Ask, Resource
from control_plane.core.spiffe_id import SpiffeId

MAX_ENCODED: Final = 1024

_MARKED = re.compile(r"[0-9a-f]{16}\.([0-9a-z]{1,20})")


class Encoder:
    """JSON to resources; keeps those last made, since the Envoys of a machine have much in common."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def resource(self, name: str, document: Json, mark: str = "") -> Resource:
        """The resource; its version is the digest of its content, and the mark. Raises Bug."""
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        body = self._bodies.get(digest)
        if body is None:
            body = self._bodies[digest] = wire.encode(document)
        self._bodies.move_to_end(digest)
        while len(self._bodies) > MAX_ENCODED:
            self._bodies.popitem(last=False)
        return Resource(name, digest[:16] + (f".{mark}" if mark else ""), body)


class Catalogue:
    """The resources of one Envoy."""

    def __init__(
        self,
        service: ServiceDescription,
        encoder: Encoder,
        new_mark: Callable[[], str],
        *,
        delta: bool,
        traced: bool = False,
    ) -> None:
        self.service = service
        self._encoder = encoder
        self._traced = traced
        self._new_mark = new_mark
        self._delta = delta
        self._policy: WorkloadPolicy | None = None
        self._digest = ""
        self._quarantined: frozenset[SpiffeId] | None = None
        self._marks: dict[str, str] = {}
        self._resources: Mapping[str, Mapping[str, Resource]] | None = None
        self._inbound_http = [one.name for one in service.inbound if one.protocol.is_http]
        self._inbound_tcp = [one.name for one in service.inbound if not one.protocol.is_http]

    def enforce(self, enforcement: Enforcement) -> None:
        """Takes the state in force. What runs here ends when the service itself comes into quarantine; what a
        caller in quarantine has running is found as all that has lost its right (`running`)."""
        policy = enforcement.workloads.get(self.service.spiffe_id)
        # What the agent judges can change without a word of it in the filters.
        digest = enforcement.digest if policy is not None and policy.custom else ""
        if policy != self._policy or digest != self._digest:
            self._policy, self._digest, self._resources = policy, digest, None
        before = self._quarantined
        if before != enforcement.quarantined:
            own = self.service.spiffe_id
            if before is not None and own in enforcement.quarantined - before:
                self.drain(*self._inbound_http)
            self._quarantined, self._resources = enforcement.quarantined, None

    def resume(self, ask: Ask) -> None:
        """Takes over the marks that an Envoy brings from an earlier stream."""
        if ask.type_url != LISTENER:
            return
        for name in self._inbound_http:
            found = _MARKED.fullmatch(ask.known.get(name, ""))
            if found is not None and name not in self._marks:
                self._marks[name], self._resources = found[1], None

    def drain(self, *listeners: str) -> None:
        """Ends what runs on these inbound listeners, within the drain time; new connections are taken."""
        for name in listeners:
            self._marks[name] = self._new_mark()
            self._resources = None

    def drain_all(self) -> None:
        """The same on every inbound listener."""
        self.drain(*self._inbound_http, *self._inbound_tcp)

    def resources(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of one type by name; none before the first `enforce`."""
        if self._quarantined is None:
            return {}
        if self._resources is None:
            self._resources = self._built(self._quarantined)
        return self._resources[type_url]

    def _built(self, quarantined: frozenset[SpiffeId]) -> Mapping[str, Mapping[str, Resource]]:
        # A connection is judged once, so one of TCP ends when what it was judged by does.
        judged_by = {name: self._digest + self._marks.get(name, "") for name in self._inbound_tcp}
        marks = {**self._marks, **judged_by}
        situation = Situation(self.service, self._policy, quarantined, marks, self._delta, self._traced)
        return {
            type_url: {
                name: self._encoder.resource(
                    name, document, self._marks.get(name, "") if type_url == LISTENER else ""
                )
                for name, document in found.items()
            }
            for type_url, found in build(situation).items()
        }
