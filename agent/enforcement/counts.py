"""What the Envoys of this node decided, added up by workload for the policy in force.

Envoy's counters come in intervals. One in which the policy changed belongs to neither, so the first report of
each Envoy after a change is dropped. Of policy versions before, one sum is kept: what was usual until now.
Bounded in everything; says nothing about single requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.enforcement.ports import EnforcementSource
from control_plane.core.spiffe_id import SpiffeId

MAX_WORKLOADS: Final = 1000
MAX_SOURCES: Final = 4096
MAX_AT_ONCE: Final = 10_000_000  # requests in one interval; more is a lie or a fault


@dataclass(frozen=True, slots=True)
class Decided:
    """Requests and connections that were decided, and those of them that were denied."""

    requests: int = 0
    denied: int = 0

    def __add__(self, other: "Decided") -> "Decided":
        return Decided(self.requests + other.requests, self.denied + other.denied)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Since the policy in force came, or since `restart`: `workloads` under the assignment `sequence`.
    `before` is what the last other policy version decided in all."""

    sequence: int
    workloads: Mapping[SpiffeId, Decided] = field(default_factory=dict)
    before: Decided = Decided()


class DecisionCounts:
    """Made and used on one event loop. `total` is all since the start of the agent."""

    def __init__(self, enforcement: EnforcementSource) -> None:
        self._enforcement = enforcement
        self._sequence = 0
        self._version = 0
        self._begun: set[tuple[int, SpiffeId]] = set()
        self._workloads: dict[SpiffeId, Decided] = {}
        self._versions: dict[int, Decided] = {}  # of this version and the one before, newest last
        self.total = Decided()

    def add(self, source: int, workload: SpiffeId, decided: Decided) -> None:
        """What one Envoy, told apart by `source`, decided since it last said so."""
        if not 0 <= decided.denied <= decided.requests <= MAX_AT_ONCE:
            return
        self.total += decided
        self._look()
        place = (source, workload)
        if place not in self._begun:
            if len(self._begun) < MAX_SOURCES:
                self._begun.add(place)
            return
        if workload in self._workloads or len(self._workloads) < MAX_WORKLOADS:
            self._workloads[workload] = self._workloads.get(workload, Decided()) + decided
        self._versions[self._version] = self._versions.get(self._version, Decided()) + decided

    def restart(self) -> None:
        """Counts from zero; what was usual before is kept."""
        self._look()
        self._begun.clear()
        self._workloads.clear()

    def snapshot(self) -> Snapshot:
        """What was counted."""
        self._look()
        others = [decided for version, decided in self._versions.items() if version != self._version]
        return Snapshot(self._sequence, dict(self._workloads), others[-1] if others else Decided())

    def _look(self) -> None:
        """Notes that another policy is in force now."""
        current = self._enforcement.current
        if current.sequence == self._sequence:
            return
        self._sequence = current.sequence
        self._begun.clear()
        self._workloads.clear()
        if current.version != self._version:
            self._version = current.version
            known = self._versions.pop(self._version, Decided())
            self._versions = dict([*self._versions.items(), (self._version, known)][-2:])
