"""A compilation, and the difference of two versions, with what earlier runs left on a shelf.

The result is that of `policies.compilation.compile_project` and of `policies.diff.compare_policies`, whatever
is on the shelf: what isn't there, or not whole, is worked out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from control_plane.core.errors import InvalidInput
from policies.compilation import Result, compile_project, guarded_by
from policies.diff import Change, compare_policies
from policies.formula import Origin, PolicySet
from policies.inventory import Inventory, Workload
from policies.kept.evaluations import Evaluation, Evaluations
from policies.kept.proofs import Proofs
from policies.kept.records import (
    Lines,
    UnknownLineError,
    blocked_json,
    breach_json,
    read_all,
    read_blocked,
    read_breach,
)
from policies.kept.shelf import Shelf, digest
from policies.kept.signatures import Signature, combined
from policies.language.diagnostics import Diagnostic, Diagnostics
from policies.layers import Blocked, blocked_at, first_pairs
from policies.pipeline import Nearby
from policies.project import Project
from policies.questions import Questions
from policies.reach import Breach, broken_invariants
from policies.targets.emission import Options
from policies.targets.manifest import with_listing
from policies.targets.registry import EMITTERS
from policies.unheld import unheld_rules

_Said = TypeVar("_Said", Breach, Blocked)


def compile_kept(
    project: Project, inventory: Inventory, target: str, options: Options, shelf: Shelf
) -> Result:
    """Compiles and proves what isn't on the shelf. Raises Diagnostics, or InvalidInput for the target."""
    placed = guarded_by(target, inventory)
    checked = project.checked()
    questions = Questions.of(checked.compiled, placed, project.data)
    try:
        run = _Run(project.digest, Evaluations(questions, shelf), shelf, target, options)
        return run.result(checked.warnings)
    except (Diagnostics, RecursionError):
        # A refusal says what was reached first, and a bound counts what went before: both are told as if
        # nothing had been kept.
        return compile_project(project, inventory, target, options).result


def compare_kept(old: Project, new: Project, inventory: Inventory, shelf: Shelf) -> list[Change]:
    """Who gains and who loses access; a workload is evaluated where its two signatures differ."""
    versions = [Questions.of(project.checked().compiled, inventory, project.data) for project in (old, new)]
    try:
        before, after = (Evaluations(one, shelf) for one in versions)
        changed = [one for one in inventory.workloads if _asked(before.of(one)) != _asked(after.of(one))]
        sets = [
            PolicySet.of(project.digest, *(side.asked(one).policy for one in changed))
            for project, side in ((old, before), (new, after))
        ]
    except (Diagnostics, RecursionError):
        sets = [one.all(project.digest) for one, project in zip(versions, (old, new), strict=True)]
    return compare_policies(sets[0], sets[1], inventory)


def _asked(evaluation: Evaluation) -> tuple[str | None, ...]:
    return tuple(None if one is None else one.digest for one in (evaluation.authz, evaluation.segmentation))


@dataclass(slots=True)
class _Run:
    """One compilation under way."""

    version: str
    evaluations: Evaluations
    shelf: Shelf
    target: str
    options: Options
    _found: dict[str, Evaluation] = field(default_factory=dict)

    def result(self, warnings: tuple[Diagnostic, ...]) -> Result:
        """Walks through all workloads: in the inventory's order for refusals, then in that of names."""
        for workload in self._inventory.workloads:
            self._found[workload.key] = self.evaluations.of(workload)
        self._found = dict(sorted(self._found.items()))
        invariants = self.evaluations.questions.has_invariants
        breaches = [one for key in self._found for one in self._breaches(key)] if invariants else []
        proofs = Proofs(self.evaluations, self.shelf, self.target, self.options, self.version)
        near = Nearby(self._inventory)
        guarded = [
            (proofs.rendering(workload, signature), signature) for workload, signature in self._guarded()
        ]
        for rendering, _ in guarded:
            for one in rendering.objects:
                near.add(one)
        verdicts = [
            verdict
            for rendering, signature in guarded
            if not rendering.refused
            for verdict in proofs.verdicts(rendering, near, signature)
        ]
        renderings = [rendering for rendering, _ in guarded]
        return Result(
            self.target,
            self.version,
            sum(len(one.objects) for one in renderings),
            any(one.refused for one in renderings),
            tuple(verdicts),
            tuple(short for one in renderings for short in one.shortfalls),
            tuple(breaches),
            (*warnings, *unheld_rules(self.evaluations.questions, self._origins())),
            self._blocked,
            lambda: with_listing(proofs.all_texts(renderings)),
        )

    @property
    def _inventory(self) -> Inventory:
        return self.evaluations.questions.inventory

    def _guarded(self) -> Iterator[tuple[Workload, Signature]]:
        """The workloads that the target guards and that are asked its question."""
        emitter = EMITTERS[self.target]
        for key, evaluation in self._found.items():
            workload = self._inventory.by_key[key]
            signature = evaluation.segmentation if emitter.segmentation else evaluation.authz
            if signature is not None and emitter.mode in (None, workload.mode):
                yield workload, signature

    def _origins(self) -> Iterator[Origin]:
        """The lines of all decisions."""
        for evaluation in self._found.values():
            for signature in (evaluation.authz, evaluation.segmentation):
                yield from signature.origins if signature is not None else ()

    def _breaches(self, key: str) -> Iterable[Breach]:
        """The broken invariants of a workload; where authz alone breaks none, segmentation doesn't count."""
        evaluation = self._found[key]

        def found(*, segmented: bool) -> Iterable[Breach]:
            asked = self.evaluations.asked(self._inventory.by_key[key])
            policy = asked.policy if segmented else dataclasses.replace(asked.policy, segmentation=None)
            policies = PolicySet.of(self.version, policy)
            return broken_invariants(policies, self._inventory, {key: asked.violations})

        def kept(signature: Signature, *, segmented: bool) -> Iterable[Breach]:
            given = functools.partial(found, segmented=segmented)
            return self._kept("breaches", key, signature, read_breach, breach_json, self._shows, given)

        if evaluation.authz is not None:
            alone = combined((evaluation.authz, None, evaluation.violations))
            if not kept(alone, segmented=False):
                return ()
        return kept(combined(evaluation.parts), segmented=True)

    def _blocked(self) -> tuple[list[Blocked], bool]:
        return first_pairs(self._blocked_at(key) for key in self._found)

    def _blocked_at(self, key: str) -> Iterable[Blocked]:
        """What authz allows at a workload and segmentation blocks."""
        evaluation = self._found[key]
        if evaluation.authz is None or evaluation.segmentation is None:
            return ()

        def found() -> Iterable[Blocked]:
            policy = self.evaluations.asked(self._inventory.by_key[key]).policy
            return blocked_at(policy, self._inventory)

        signature = combined((evaluation.authz, evaluation.segmentation))
        return self._kept("blocked", key, signature, read_blocked, blocked_json, lambda _: False, found)

    def _kept(
        self,
        kind: str,
        key: str,
        signature: Signature,
        read: Callable[[object, str, Lines], _Said],
        write: Callable[[_Said, Lines], object],
        holds: Callable[[_Said], bool],
        found: Callable[[], Iterable[_Said]],
    ) -> Iterable[_Said]:
        """What there is to say about a workload, from the shelf or worked out from the inventory.

        It follows from what the question asks about callers where each thing said `holds` today; what never
        does follows from the whole inventory.
        """
        lines, facts = Lines(signature), self.evaluations.facts
        workload = facts.workload(self._inventory.by_key[key])
        narrow = digest(workload, facts.digest(signature.facts), signature.digest)
        wide = digest(workload, facts.whole, signature.digest)
        for name in (narrow, wide):
            with contextlib.suppress(InvalidInput):  # nothing, or another shape
                kept = read_all(self.shelf.find(kind, name), lambda one: read(one, key, lines))
                if name == wide or all(map(holds, kept)):
                    return kept
        said = tuple(found())
        with contextlib.suppress(UnknownLineError):  # then it is worked out again next time
            name = narrow if all(map(holds, said)) else wide
            self.shelf.put(kind, name, [write(one, lines) for one in said])
        return said

    def _shows(self, breach: Breach) -> bool:
        return self.evaluations.facts.shows(breach.request)
