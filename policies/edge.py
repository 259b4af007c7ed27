"""What a node needs of a policy: for each workload that runs there, the filters of its Envoy, proved.

Both questions of a workload guard it, `authz` and `segmentation`, and a request has to pass both: what either
denies is one DENY filter, and each has an ALLOW filter of its own. The filters of each question are proved
against it from their text, as in `compilation`, whoever compiled the same policy before: a node trusts a
signature for what the policy is, and its own proof for what the filters admit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from control_plane.core.errors import FailedPrecondition
from policies.formula import PolicySet, Question, WorkloadPolicy
from policies.inventory import Inventory, Mode, Workload
from policies.pipeline import Compilation, compile_policies
from policies.project import Project
from policies.questions import Questions
from policies.targets import envoy_rbac
from policies.targets.emission import Options
from policies.targets.manifest import Manifest

Filter = Mapping[str, object]

_RBAC: Final = frozenset({"envoy.filters.http.rbac", "envoy.filters.network.rbac"})


@dataclass(frozen=True, slots=True)
class EdgePolicy:
    """The filters of one workload's HTTP and TCP listeners, each `{"name": …, "typed_config": …}`.

    In order: `gatehouse.tokens` (only where claims are asked for), `gatehouse.deny`, `gatehouse.segmentation`
    and, always, `gatehouse.allow`.

    `lines` has the Rego lines of each RBAC policy by its name. `narrower` says what Envoy can't be told, so
    that it refuses more than Rego does; empty when the filters say just what Rego says.
    """

    workload: str
    spiffe_id: str
    http: tuple[Filter, ...]
    tcp: tuple[Filter, ...]
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    narrower: tuple[str, ...] = ()


def edge_policies(project: Project, inventory: Inventory, identities: Set[str]) -> tuple[EdgePolicy, ...]:
    """The policies of the workloads with these SPIFFE IDs, those that the inventory knows.

    Raises Diagnostics for the Rego, FailedPrecondition if a workload's filters can't be emitted, can't be
    proved, or if two workloads share an identity, so that a listener wouldn't know which of them it guards.
    """
    placed = dataclasses.replace(
        inventory,
        workloads=tuple(dataclasses.replace(one, mode=Mode.ENVOY) for one in inventory.workloads),
    )
    wanted = [_only(placed.by_identity[one]) for one in sorted(identities) if one in placed.by_identity]
    questions = Questions.of(project.checked().compiled, placed, project.data, decides=False)
    asked = {workload.key: questions.workload(workload) for workload in wanted}
    layers = {
        name: _proved(project.digest, placed, {key: question for key, question in layer.items() if question})
        for name, layer in (
            ("segmentation", {key: one.segmentation for key, one in asked.items()}),
            ("authz", {key: one.authz for key, one in asked.items()}),
        )
    }
    return tuple(_policy(workload, layers) for workload in wanted)


def _only(several: tuple[Workload, ...]) -> Workload:
    if len(several) > 1:
        raise FailedPrecondition(
            f"compiling for {several[0].spiffe_id}: the workloads "
            f"{', '.join(one.key for one in several)} have this one identity",
            hint="give each workload behind an Envoy an identity of its own",
        )
    return several[0]


def _proved(digest: str, inventory: Inventory, questions: Mapping[str, Question]) -> Compilation:
    policies = PolicySet.of(digest, *(WorkloadPolicy(key, asked) for key, asked in questions.items()))
    compiled = compile_policies(policies, inventory, envoy_rbac.NAME, Options())
    if not compiled.accepted:
        refused = (*compiled.emission.refused, *(one for one in compiled.verdicts if not one.accepted))
        raise FailedPrecondition(
            "compiling the policy for Envoy: " + "; ".join(str(one) for one in refused[:5]),
            hint="nothing of this version is enforced; the one before stays",
        )
    return compiled


def _policy(workload: Workload, layers: Mapping[str, Compilation]) -> EdgePolicy:
    chains = {"http": _Chain(http=True), "tcp": _Chain(http=False)}
    lines: dict[str, tuple[str, ...]] = {}
    narrower: list[str] = []
    asked = False
    for layer, compiled in layers.items():
        piece = compiled.pieces.get(workload.key)
        if piece is None:
            continue
        asked = True
        narrower += [str(one) for one in compiled.emission.shortfalls if one.workload == workload.key]
        for one in piece.emission.manifests:
            for kind, chain in chains.items():
                filters = one.document[kind]
                assert isinstance(filters, list)  # the target's own shape
                chain.take(filters, layer)
            lines.update((f"{layer}-{name}", found) for name, found in _lines(one))
    http, tcp = (chain.filters(asked=asked) for chain in chains.values())
    return EdgePolicy(workload.key, workload.spiffe_id, http, tcp, lines, tuple(narrower))


@dataclass(slots=True)
class _Chain:
    """The filters of one kind of listener. What either layer denies is one DENY; each layer has its ALLOW."""

    http: bool
    tokens: Filter | None = None
    denied: dict[str, object] = field(default_factory=dict)
    allowed: dict[str, dict[str, object]] = field(default_factory=dict)

    def take(self, filters: Iterable[Mapping[str, Any]], layer: str) -> None:
        for one in filters:
            if one["name"] not in _RBAC:
                self.tokens = one["typed_config"]
                continue
            rules = one["typed_config"]["rules"]
            # The layer in a policy's name tells in a log line which one decided.
            named = {f"{layer}-{name}": policy for name, policy in rules["policies"].items()}
            if rules["action"] == "DENY":
                self.denied |= named
            else:
                self.allowed.setdefault(layer, {}).update(named)

    def filters(self, *, asked: bool) -> tuple[Filter, ...]:
        """The chain; where no layer asks about the workload, nothing is allowed."""
        found: list[Filter] = []
        if self.tokens is not None:
            found.append({"name": "gatehouse.tokens", "typed_config": self.tokens})
        if self.denied:
            found.append(self._named("deny", "DENY", self.denied))
        if "segmentation" in self.allowed:
            found.append(self._named("segmentation", "ALLOW", self.allowed["segmentation"]))
        if "authz" in self.allowed or not asked:
            found.append(self._named("allow", "ALLOW", self.allowed.get("authz", {})))
        else:
            # Authorization isn't asked, segmentation alone decides: nobody is denied here.
            found.append(self._named("allow", "DENY", {}))
        return tuple(found)

    def _named(self, role: str, action: str, policies: Mapping[str, object]) -> Filter:
        return {"name": f"gatehouse.{role}", "typed_config": envoy_rbac.config(self.http, action, policies)}


def _lines(manifest: Manifest) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name of each RBAC policy with its Rego lines, in the order in which the target counts them."""
    names = [
        name
        for kind in ("http", "tcp")
        for one in manifest.document[kind]  # type: ignore[attr-defined]
        if one["name"] in _RBAC
        for name in one["typed_config"]["rules"]["policies"]
    ]
    for name, origins in zip(names, manifest.origins, strict=True):
        yield name, tuple(map(str, origins))
