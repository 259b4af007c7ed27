"""Objects and verdicts of each workload, emitted and proved only where an earlier run's don't hold.

A proof follows from the question, what that asks about callers (`facts`), and the text of every object that
it may look at (`pipeline.Nearby`); NetworkPolicy, which is said and proved of pods, from the whole inventory.

The name of the version stands in each text and counts for nothing: it is taken out before texts are compared
or kept, and put in again. Only verdicts that accept are kept: what was refused is asked again. A text is
taken from a row only where it has the digest that the proof was keyed by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.formula import Question
from policies.inventory import Inventory, Workload
from policies.kept.evaluations import Evaluations
from policies.kept.records import (
    Lines,
    UnknownLineError,
    read_all,
    read_shortfall,
    read_verdict,
    read_written,
    shortfall_json,
    verdict_json,
    written_json,
)
from policies.kept.shelf import Shelf, digest
from policies.kept.signatures import Signature
from policies.pipeline import Nearby, Written, prove, written
from policies.proof.manifests import Document, read_manifest
from policies.proof.verdict import Verdict
from policies.targets.emission import Options
from policies.targets.registry import EMITTERS
from policies.targets.shortfall import Shortfall, Step

_VERSION: Final = "\0version\0"
"""Stands in kept texts for the version's name; no YAML holds a NUL as it is."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """One workload's objects, as what they can select, and what they fall short of."""

    workload: Workload
    key: str
    objects: tuple[Written, ...]
    shortfalls: tuple[Shortfall, ...]

    @property
    def refused(self) -> bool:
        """Whether the target refuses the workload."""
        return any(one.step is Step.REFUSED for one in self.shortfalls)


@dataclass(slots=True)
class Proofs:
    """The objects and verdicts of one version for one target."""

    evaluations: Evaluations
    shelf: Shelf
    target: str
    options: Options
    version: str
    _basis: str = field(init=False)
    _texts: dict[str, dict[str, str]] = field(default_factory=dict)
    _documents: dict[str, list[Document]] = field(default_factory=dict)
    _owners: dict[str, Rendering] = field(default_factory=dict)

    def __post_init__(self) -> None:
        facts = self.evaluations.facts
        wide = facts.whole if EMITTERS[self.target].over_pods else facts.constants
        self._basis = digest(self.target, repr(self.options), wide)

    @property
    def _inventory(self) -> Inventory:
        return self.evaluations.questions.inventory

    def rendering(self, workload: Workload, signature: Signature) -> Rendering:
        """What a workload's question becomes."""
        lines = Lines(signature)
        selected = [one.key for one in self._inventory.selected_by(workload.namespace, workload.labels)]
        facts = self.evaluations.facts
        asked = facts.digest(signature.facts)
        key = digest(self._basis, facts.workload(workload), repr(selected), asked, signature.digest)
        rendering = None
        try:
            match self.shelf.find("objects", key):
                case [objects, shortfalls]:
                    rendering = Rendering(
                        workload,
                        key,
                        read_all(objects, read_written),
                        read_all(
                            shortfalls, lambda one: read_shortfall(one, self.target, workload.key, lines)
                        ),
                    )
        except InvalidInput:
            rendering = None  # another shape: as good as none
        if rendering is None:
            rendering = self._emitted(workload, key, lines)
        self._owners.update((one.name, rendering) for one in rendering.objects)
        return rendering

    def _emitted(self, workload: Workload, key: str, lines: Lines | None) -> Rendering:
        """Emits; kept where `lines` is given and holds every line that is named."""
        emitter = EMITTERS[self.target]
        emission = emitter.emit_workload(
            self._question(workload), workload, self._inventory, self.version, self.options
        )
        texts = {one.file_name(): one.text() for one in emission.manifests}
        bare = {name: self._without_version(text) for name, text in texts.items()}
        objects = []
        for name, text in texts.items():
            documents = self._documents[name] = read_manifest(text, name)
            objects.append(written(name, documents, digest(bare[name])))
        self._texts[key] = texts
        if lines is not None:
            try:
                shortfalls = [shortfall_json(one, lines) for one in emission.shortfalls]
                self.shelf.put("objects", key, [[written_json(one) for one in objects], shortfalls])
                self.shelf.put("texts", key, bare)
            except UnknownLineError:
                pass  # not a whole rule's line: emitted again next time
        return Rendering(workload, key, tuple(objects), emission.shortfalls)

    def verdicts(self, rendering: Rendering, near: Nearby, signature: Signature) -> tuple[Verdict, ...]:
        """The verdicts on a workload that isn't refused."""
        workload, lines = rendering.workload, Lines(signature)
        around = near.around(workload)
        key = digest(rendering.key, *(part for one in around for part in (one.name, one.digest)))
        with contextlib.suppress(InvalidInput):  # nothing, or another shape
            kept = read_all(
                self.shelf.find("verdicts", key), lambda one: read_verdict(one, workload.key, lines)
            )
            if kept and all(one.accepted and self._shows(one) for one in kept):
                return kept
        documents = [document for one in around for document in self._read(one)]
        found = prove(EMITTERS[self.target], self._question(workload), workload, self._inventory, documents)
        if found and all(one.accepted for one in found):
            with contextlib.suppress(UnknownLineError):  # then it is proved again next time
                self.shelf.put("verdicts", key, [verdict_json(one, lines) for one in found])
        return found

    def _shows(self, verdict: Verdict) -> bool:
        """Whether the request of a verdict is what the inventory of today makes of it."""
        return EMITTERS[self.target].over_pods or self.evaluations.facts.shows(verdict.witness)

    def forget(self, rendering: Rendering) -> None:
        """Lets go of the texts of a workload near which nothing is proved any more."""
        self._texts.pop(rendering.key, None)
        for one in rendering.objects:
            self._documents.pop(one.name, None)
            self._owners.pop(one.name, None)

    def texts(self, rendering: Rendering) -> Mapping[str, str]:
        """The files of one workload."""
        found = self._texts.get(rendering.key)
        if found is None:
            found = self._kept_texts(rendering)
            if found is None:
                self._emitted(rendering.workload, rendering.key, None)
                found = self._texts[rendering.key]
            self._texts[rendering.key] = found
        return found

    def all_texts(self, renderings: Iterable[Rendering]) -> dict[str, str]:
        """The files of several workloads."""
        return {name: text for one in renderings for name, text in self.texts(one).items()}

    def _kept_texts(self, rendering: Rendering) -> dict[str, str] | None:
        kept = self.shelf.find("texts", rendering.key)
        if not isinstance(kept, dict) or kept.keys() != {one.name for one in rendering.objects}:
            return None
        for one in rendering.objects:
            if not isinstance(kept[one.name], str) or digest(kept[one.name]) != one.digest:
                return None
        return {name: text.replace(_VERSION, self.version) for name, text in kept.items()}

    def _read(self, one: Written) -> list[Document]:
        documents = self._documents.get(one.name)
        if documents is None:
            text = self.texts(self._owners[one.name])[one.name]
            documents = self._documents[one.name] = read_manifest(text, one.name)
        return documents

    def _question(self, workload: Workload) -> Question:
        policy = self.evaluations.asked(workload).policy
        question = EMITTERS[self.target].asked(policy)
        assert question is not None  # a workload without a question has no signature either
        return question

    def _without_version(self, text: str) -> str:
        return text.replace(self.version, _VERSION)
