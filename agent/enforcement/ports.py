"""What the parts that face Envoy need of the policy in force: values, and two small ports.

`policies` receives, verifies, keeps and compiles; `envoy` turns it into what an Envoy is told; `decisions`
answers what an Envoy can't say by itself. Nothing here does I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from control_plane.core.spiffe_id import SpiffeId

Json = Mapping[str, object]
"""A JSON object as plain Python values."""


@dataclass(frozen=True, slots=True)
class WorkloadPolicy:
    """What the policy says for one workload, proved, ready for its Envoy.

    Filters are `{"name": …, "typed_config": {"@type": …, …}}`, named `gatehouse.tokens`, `gatehouse.deny`,
    `gatehouse.segmentation` and `gatehouse.allow` in this order; the last is always there. `lines` maps the
    name of an RBAC policy (`authz-http-allow-0000`) to the Rego lines it comes from (`authz.rego:12`).
    `custom` says that Envoy's rules are narrower than Rego, so that the agent judges every request.
    """

    workload: str
    spiffe_id: SpiffeId
    http_filters: tuple[Json, ...]
    tcp_filters: tuple[Json, ...]
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Enforcement:
    """All that is enforced at one moment. Without a policy (`sequence` 0) every request is denied.

    `settled` is False until the agent knows what it has to enforce: between its start and the moment when
    the policy of the life before is compiled or the server was heard. Envoy is told nothing new until then:
    a running one goes on with what it has, a fresh one has no listeners.

    `since` is when this came, in Unix seconds, and `rules_since` when the rules of a workload last changed.
    """

    sequence: int = 0
    version: int = 0
    digest: str = ""
    issued_at: int = 0
    workloads: Mapping[SpiffeId, WorkloadPolicy] = field(default_factory=dict)
    quarantined: frozenset[SpiffeId] = frozenset()
    settled: bool = False
    since: float = field(default=0.0, compare=False)
    rules_since: Mapping[SpiffeId, float] = field(default_factory=dict, compare=False)

    def coming(self, before: "Enforcement", now: float) -> "Enforcement":
        """This one as what replaces another at this instant."""
        rules_since = {
            spiffe_id: before.rules_since.get(spiffe_id, now) if self._same_rules(before, spiffe_id) else now
            for spiffe_id in self.workloads
        }
        return replace(self, since=now, rules_since=rules_since)

    def _same_rules(self, other: "Enforcement", spiffe_id: SpiffeId) -> bool:
        policy = self.workloads[spiffe_id]
        # What the agent judges can change without a word of it in the filters.
        same_rego = self.digest == other.digest or not policy.custom
        return same_rego and other.workloads.get(spiffe_id) == policy


@dataclass(frozen=True, slots=True)
class Ruling:
    """One decision, with why: `reason` is a sentence, `lines` the Rego lines that decided.

    Without `certain` nothing was decided: the agent has just started and will know in a moment. It denies.
    """

    allowed: bool
    reason: str
    lines: tuple[str, ...] = ()
    version: int = 0
    certain: bool = True


class EnforcementSource(Protocol):
    """What is enforced now, and the news of it."""

    @property
    def current(self) -> Enforcement:
        """The state in force; never blocks."""
        ...

    async def changed(self, seen: Enforcement) -> Enforcement:
        """Waits, without a bound, until the state in force is another than `seen`, and returns it."""
        ...


class Decisions(Protocol):
    """Decides single requests by the whole policy of a workload, as Rego says it."""

    def decide(self, destination: SpiffeId, request: Json) -> Ruling:
        """Rules on one request to a workload: `request` is the input document of the policy schema without
        `destination`, but for `destination.port`. Denies, never raises, where there is no policy, the
        workload isn't known, someone concerned is cut off, or the evaluation fails. Takes microseconds."""
        ...


class Judge(Protocol):
    """One policy version, ready to judge requests to a workload named `namespace/name`."""

    def judge(self, workload: str, request: Mapping[str, Any]) -> Any:
        """`allowed`, `reason` and `origin` (a Rego line or None); see `policies.rulings.Rulings.judge`."""
        ...

    def workload_of(self, spiffe_id: str) -> str | None:
        """The only workload of an identity; None if there is none, or more than one."""
        ...
