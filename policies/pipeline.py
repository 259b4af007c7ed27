"""From questions to proved manifests: emit, write, read back, prove; what didn't change is kept.

A compilation is a value. Given the one before, a workload whose question is the same keeps its objects; it
keeps its verdicts too if no object near it changed, where near is its own and the mesh's root namespace:
nothing elsewhere can select it. Between runs, `policies.kept_proofs` does the same for verdicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.formula import PolicySet, Question
from policies.inventory import Inventory
from policies.kept_proofs import KeptProofs, text_digest
from policies.proof.manifests import Document, collect, read_manifest
from policies.proof.network_policy import prove_segmentation
from policies.proof.verdict import Verdict, prove_workload
from policies.targets.emission import Emission, Options, joined
from policies.targets.registry import EMITTERS


@dataclass(frozen=True, slots=True)
class Reading:
    """One workload's objects and what their text says; `digests` stand for the text."""

    question: Question
    emission: Emission
    documents: tuple[Document, ...]
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one workload came to. `near` is the text of everything that could select it."""

    reading: Reading
    near: frozenset[str]
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
    policies: PolicySet,
    inventory: Inventory,
    target: str,
    options: Options,
    before: Compilation | None = None,
    proofs: KeptProofs | None = None,
) -> Compilation:
    """Emit and prove a policy set for one target, reusing what `before` or `proofs` show to be unchanged.

    Raises KeyError for an unknown target. Trouble with single workloads is in their verdicts and shortfalls;
    a refused workload has no verdict.
    """
    emitter = EMITTERS[target]
    same = before is not None and (before.target, before.options) == (target, options)
    known = before.pieces if before is not None and same and before.inventory == inventory else {}
    readings: dict[str, Reading] = {}
    for workload, question in emitter.questions(policies, inventory):
        old = known.get(workload.key)
        if old is not None and old.reading.question == question:
            readings[workload.key] = old.reading
        else:
            emission = emitter.emit_workload(question, workload, inventory, policies.bundle_digest, options)
            readings[workload.key] = _read(question, emission, policies.bundle_digest)
    manifests = collect(one for reading in readings.values() for one in reading.documents)
    near = _near(readings, inventory)
    basis = proofs.basis(target, options, inventory) if proofs is not None else ""
    pieces: dict[str, Piece] = {}
    for key, reading in readings.items():
        workload = inventory.by_key[key]
        around = near[workload.namespace]
        old = known.get(key)
        if reading.emission.refused:
            verdicts: tuple[Verdict, ...] = ()
        elif old is not None and old.reading is reading and old.near == around:
            verdicts = old.verdicts
        else:
            claim = proofs.claim(basis, key, reading.question, around) if proofs is not None else ""
            kept = proofs.find(claim, key, reading.question) if proofs is not None else None
            if kept is not None:
                verdicts = kept
            elif emitter.segmentation:
                verdicts = (prove_segmentation(reading.question, workload, inventory, manifests),)
            else:
                verdicts = prove_workload(reading.question, workload, inventory, manifests)
            if kept is None and proofs is not None:
                proofs.keep(claim, reading.question, verdicts)
        pieces[key] = Piece(reading, around, verdicts)
    emission = joined(piece.reading.emission for piece in pieces.values())
    every = tuple(verdict for piece in pieces.values() for verdict in piece.verdicts)
    return Compilation(target, options, inventory, emission, every, pieces)


def _read(question: Question, emission: Emission, bundle_digest: str) -> Reading:
    documents: list[Document] = []
    digests = set()
    for one in emission.manifests:
        text = one.text()
        documents += read_manifest(text, one.file_name())
        digests.add(text_digest(text, bundle_digest))
    return Reading(question, emission, tuple(documents), frozenset(digests))


def _near(readings: Mapping[str, Reading], inventory: Inventory) -> Mapping[str, frozenset[str]]:
    """For each namespace the text of its own objects and of the root namespace's."""
    found: dict[str, set[str]] = {}
    for key, reading in readings.items():
        found.setdefault(inventory.by_key[key].namespace, set()).update(reading.digests)
    root = found.get(inventory.mesh.root_namespace, set())
    return {namespace: frozenset(own | root) for namespace, own in found.items()}
