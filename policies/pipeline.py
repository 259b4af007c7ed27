"""From questions to proved manifests: emit, write, read back, prove.

A proof of one workload looks at the objects near it, and at nothing else: those of its namespace and of the
mesh's root namespace whose selector takes in its labels, or that have no selector of the plain kind. What
follows from what is therefore small, and `policies.kept` can tell what has to be done again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from policies.budget import Budget, unbounded
from policies.formula import PolicySet, Question
from policies.inventory import Inventory, Workload
from policies.proof.manifests import Document, collect, read_manifest
from policies.proof.network_policy import prove_segmentation
from policies.proof.verdict import Verdict, prove_workload
from policies.targets.emission import Emission, Options, joined
from policies.targets.registry import EMITTERS, Emitter

Labels = Mapping[str, str]

_SELECTORS: Final = {
    "AuthorizationPolicy": "selector",
    "PeerAuthentication": "selector",
    "RequestAuthentication": "selector",
    "NetworkPolicy": "podSelector",
}
_ATTACHED: Final = frozenset({"AuthorizationPolicy", "RequestAuthentication"})


@dataclass(frozen=True, slots=True)
class Written:
    """A file of a rendering: whom its object can select (None: anybody there), and a digest of its text.

    `only`: the workload that it is written for, or the services that it is attached to, where it says so by
    name (`_targets`).
    """

    name: str
    namespace: str
    labels: Labels | None
    digest: str = ""
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one workload came to; a refused workload has no verdict."""

    emission: Emission
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Compilation:
    """One policy version for one target, proved."""

    target: str
    options: Options
    inventory: Inventory
    emission: Emission
    verdicts: tuple[Verdict, ...]
    pieces: Mapping[str, Piece] = field(default_factory=dict, repr=False)

    @property
    def accepted(self) -> bool:
        """Whether nothing is refused, neither by the target nor by the proof."""
        return not self.emission.refused and all(verdict.accepted for verdict in self.verdicts)


def compile_policies(
    policies: PolicySet, inventory: Inventory, target: str, options: Options, budget: Budget = unbounded
) -> Compilation:
    """Emit and prove a policy set for one target.

    Raises KeyError for an unknown target, ResourceExhausted past the budget. Trouble with single workloads is
    in their verdicts and shortfalls; a refused workload has no verdict.
    """
    emitter = EMITTERS[target]
    asked = list(emitter.questions(policies, inventory, options))
    emissions = {}
    for workload, question in asked:
        budget(workload.key)
        emissions[workload.key] = emitter.emit_workload(
            question, workload, inventory, policies.bundle_digest, options
        )
    documents = {
        manifest.file_name(): read_manifest(manifest.text(), manifest.file_name())
        for emission in emissions.values()
        for manifest in emission.manifests
    }
    near = Nearby(inventory)
    for name, found in documents.items():
        near.add(written(name, found))
    pieces: dict[str, Piece] = {}
    for workload, question in asked:
        budget(workload.key)
        verdicts: tuple[Verdict, ...] = ()
        if not emissions[workload.key].refused:
            objects = [one for written in near.around(workload) for one in documents[written.name]]
            verdicts = prove(emitter, question, workload, inventory, objects)
        pieces[workload.key] = Piece(emissions[workload.key], verdicts)
    every = tuple(verdict for piece in pieces.values() for verdict in piece.verdicts)
    return Compilation(target, options, inventory, joined(emissions.values()), every, pieces)


def prove(
    emitter: Emitter, question: Question, workload: Workload, inventory: Inventory, near: Iterable[Document]
) -> tuple[Verdict, ...]:
    """The verdicts on one workload, from the objects near it."""
    if emitter.over_pods:
        return (prove_segmentation(question, workload, inventory, collect(near)),)
    return prove_workload(question, workload, inventory, collect(near))


def written(name: str, documents: Iterable[Document], digest: str = "") -> Written:
    """A file of one object as what it can select; a file of anything else can select everybody, in `""`."""
    listed = list(documents)
    if len(listed) != 1:
        return Written(name, "", None, digest)
    return Written(name, listed[0].namespace, _labels(listed[0]), digest, _targets(listed[0]))


def _labels(document: Document) -> Labels | None:
    """The labels that a workload must have; None where the proof has to look at the object itself."""
    spec = document.body.get("spec")
    field_name = _SELECTORS.get(document.kind)
    if not isinstance(spec, Mapping) or field_name is None or {"targetRef", "targetRefs"} & spec.keys():
        return None
    selector = spec.get(field_name)
    if not isinstance(selector, Mapping) or selector.keys() != {"matchLabels"}:
        return None
    labels = selector["matchLabels"]
    plain = isinstance(labels, Mapping) and all(
        isinstance(key, str) and isinstance(value, str) for key, value in labels.items()
    )
    return labels if plain else None


def _targets(document: Document) -> tuple[str, ...]:
    """Whom an object names, as `_names` has them; nobody where the proof has to look at the object itself."""
    if document.kind == "EnvoyRbac":
        workload = document.body.get("workload")
        return (f"workload {workload}",) if isinstance(workload, str) else ()
    spec = document.body.get("spec")
    attached = spec.get("targetRefs") if isinstance(spec, Mapping) and "targetRef" not in spec else None
    found: list[str] = []
    for one in attached if document.kind in _ATTACHED and isinstance(attached, list) else ():
        match one:
            case {"group": "", "kind": "Service", "name": str(name), **rest} if not rest:
                found.append(f"service {name}")
            case _:
                return ()
    return tuple(found)


def _names(workload: Workload) -> Iterator[str]:
    yield f"workload {workload.key}"
    yield from (f"service {service.name}" for service in workload.services)


class Nearby:
    """Objects by the workloads that they can select."""

    def __init__(self, inventory: Inventory) -> None:
        self._root = inventory.mesh.root_namespace
        self._anybody: dict[str, list[Written]] = {}
        self._selecting: dict[tuple[str, str, str], list[Written]] = {}
        self._named: dict[tuple[str, str], list[Written]] = {}

    def add(self, one: Written) -> None:
        """Takes an object in."""
        if one.only:
            for name in one.only:
                self._named.setdefault((one.namespace, name), []).append(one)
        elif one.labels:
            # By one of its labels, any: `around` looks under each label of a workload.
            label = max(one.labels.items(), key=lambda item: (len(item[1]), item))
            self._selecting.setdefault((one.namespace, *label), []).append(one)
        else:
            self._anybody.setdefault(one.namespace, []).append(one)

    def around(self, workload: Workload) -> list[Written]:
        """Every object that a proof of the workload may look at, in order of names."""
        found: list[Written] = []
        for namespace in {workload.namespace, self._root, ""}:
            found += self._anybody.get(namespace, ())
            for target in _names(workload):
                found += [one for one in self._named.get((namespace, target), ()) if one not in found]
            for label in workload.labels.items():
                listed = self._selecting.get((namespace, *label), ())
                found += [one for one in listed if (one.labels or {}).items() <= workload.labels.items()]
        return sorted(found, key=lambda one: one.name)
