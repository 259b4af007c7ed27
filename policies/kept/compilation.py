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
from typing import Final, TypeVar

from control_plane.core.errors import Bug, InvalidInput
from policies.budget import Budget, unbounded
from policies.compilation import Result, compile_project, guarded_by
from policies.diff import Change, compare_policies
from policies.formula import Origin, PolicySet
from policies.inventory import Inventory, Workload
from policies.kept.evaluations import Evaluation, Evaluations
from policies.kept.proofs import Proofs, Rendering
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
from policies.layers import MAX_PAIRS, Blocked, blocked_at, first_pairs
from policies.pipeline import Nearby, Written
from policies.project import Project
from policies.proof.verdict import Verdict
from policies.questions import Questions
from policies.reach import Breach, broken_invariants
from policies.targets.emission import Options
from policies.targets.manifest import with_listing
from policies.targets.registry import EMITTERS
from policies.unheld import unheld_rules

MAX_HELD: Final = 5_000
"""Of more workloads than these, no questions and texts are held that aren't in use; they are made again."""
_Said = TypeVar("_Said", Breach, Blocked)


def compile_kept(
    project: Project,
    inventory: Inventory,
    target: str,
    options: Options,
    shelf: Shelf,
    budget: Budget = unbounded,
) -> Result:
    """Compiles and proves what isn't on the shelf.

    Raises Diagnostics, InvalidInput for the target, ResourceExhausted past the budget.
    """
    placed = guarded_by(target, inventory, options)
    checked = project.checked()
    questions = Questions.of(checked.compiled, placed, project.data)
    try:
        run = _Run(project.digest, Evaluations(questions, shelf), shelf, target, options, budget)
        return run.result(checked.warnings)
    except (Diagnostics, RecursionError):
        # A refusal says what was reached first, and a bound counts what went before: both are told as if
        # nothing had been kept.
        return compile_project(project, inventory, target, options, budget).result


def compare_kept(
    old: Project, new: Project, inventory: Inventory, shelf: Shelf, budget: Budget = unbounded
) -> list[Change]:
    """Who gains and who loses access; a workload is evaluated where its two signatures differ.

    Raises Diagnostics, ResourceExhausted past the budget.
    """
    versions = [Questions.of(project.checked().compiled, inventory, project.data) for project in (old, new)]
    try:
        before, after = (Evaluations(one, shelf) for one in versions)
        changed = []
        for one in inventory.workloads:
            budget(one.key)
            if _asked(before.of(one)) != _asked(after.of(one)):
                changed.append(one)
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
class _Piece:
    """What one workload comes to; `blocked` where that was worked out already."""

    evaluation: Evaluation
    breaches: tuple[Breach, ...] = ()
    rendering: Rendering | None = None
    verdicts: tuple[Verdict, ...] = ()
    blocked: tuple[Blocked, ...] | None = None


@dataclass(slots=True)
class _Run:
    """One compilation under way."""

    version: str
    evaluations: Evaluations
    shelf: Shelf
    target: str
    options: Options
    budget: Budget = unbounded
    proofs: Proofs = field(init=False)
    _pieces: dict[str, _Piece] = field(default_factory=dict)
    _told: int = 0

    def __post_init__(self) -> None:
        self.proofs = Proofs(self.evaluations, self.shelf, self.target, self.options, self.version)

    def result(self, warnings: tuple[Diagnostic, ...]) -> Result:
        """Walks through all workloads, one namespace after the other; the result is in the order of names."""
        root = self._inventory.mesh.root_namespace
        namespaces: dict[str, list[Workload]] = {}
        for workload in sorted(self._inventory.workloads, key=lambda one: one.key):
            namespaces.setdefault(workload.namespace, []).append(workload)
        everywhere = self._namespace(namespaces.pop(root, []), [])
        for workloads in namespaces.values():
            self._namespace(workloads, everywhere)
            if len(self._inventory.workloads) > MAX_HELD:
                self._forget(workloads)
        pieces = [self._pieces[key] for key in sorted(self._pieces)]
        renderings = [one.rendering for one in pieces if one.rendering is not None]
        return Result(
            self.target,
            self.version,
            sum(len(one.objects) for one in renderings),
            any(one.refused for one in renderings),
            tuple(verdict for one in pieces for verdict in one.verdicts),
            tuple(short for one in renderings for short in one.shortfalls),
            tuple(breach for one in pieces for breach in one.breaches),
            (*warnings, *unheld_rules(self.evaluations.questions, self._origins())),
            self._blocked,
            lambda: with_listing(self.proofs.all_texts(renderings)),
        )

    def _namespace(self, workloads: Iterable[Workload], everywhere: Iterable[Written]) -> list[Written]:
        """Evaluates, emits and proves; gives the objects.

        What a proof looks at is there (`pipeline.Nearby`): objects of the workload's own namespace, and those
        of the root namespace, which are `everywhere`.
        """
        near = Nearby(self._inventory)
        for one in everywhere:
            near.add(one)
        found: list[Written] = []
        for workload in workloads:
            self.budget(workload.key)
            piece = self._pieces[workload.key] = self._piece(workload)
            found += piece.rendering.objects if piece.rendering is not None else ()
        for one in found:
            near.add(one)
        for workload in workloads:
            self.budget(workload.key)
            piece = self._pieces[workload.key]
            signature = self._asked(workload, piece.evaluation)
            if piece.rendering is not None and signature is not None and not piece.rendering.refused:
                piece.verdicts = self.proofs.verdicts(piece.rendering, near, signature)
        return found

    def _piece(self, workload: Workload) -> _Piece:
        """All of a workload but its verdicts, which rest on the objects around."""
        piece = _Piece(self.evaluations.of(workload))
        self._pieces[workload.key] = piece
        if self.evaluations.questions.has_invariants:
            piece.breaches = tuple(self._breaches(workload.key))
        signature = self._asked(workload, piece.evaluation)
        if signature is not None:
            piece.rendering = self.proofs.rendering(workload, signature)
            for one in piece.rendering.objects:
                if one.namespace != workload.namespace:
                    raise Bug(
                        f"compiling {workload.key}: {one.name} is written to namespace {one.namespace!r}"
                    )
        return piece

    def _forget(self, workloads: Iterable[Workload]) -> None:
        """Lets go of all that isn't in the result, once what may be asked later has been answered."""
        for workload in workloads:
            piece = self._pieces[workload.key]
            if self._told <= MAX_PAIRS:
                piece.blocked = tuple(self._blocked_at(workload.key))
                self._told += len(piece.blocked)
            if piece.rendering is not None:
                self.proofs.forget(piece.rendering)
        self.evaluations.forget()

    @property
    def _inventory(self) -> Inventory:
        return self.evaluations.questions.inventory

    def _asked(self, workload: Workload, evaluation: Evaluation) -> Signature | None:
        """What the target answers of the workload's questions, where it guards it and there are any."""
        emitter = EMITTERS[self.target]
        if not emitter.guards(workload, self.options):
            return None
        authz = evaluation.authz if emitter.authz else None
        segmentation = evaluation.segmentation if emitter.segmentation else None
        if authz is None or segmentation is None:
            return authz or segmentation
        return combined((authz, segmentation))

    def _origins(self) -> Iterator[Origin]:
        """The lines of all decisions."""
        for piece in self._pieces.values():
            for signature in (piece.evaluation.authz, piece.evaluation.segmentation):
                yield from signature.origins if signature is not None else ()

    def _breaches(self, key: str) -> Iterable[Breach]:
        """The broken invariants of a workload; where authz alone breaks none, segmentation doesn't count."""
        evaluation = self._pieces[key].evaluation

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
        return first_pairs(self._blocked_at(key) for key in sorted(self._pieces))

    def _blocked_at(self, key: str) -> Iterable[Blocked]:
        """What authz allows at a workload and segmentation blocks."""
        piece = self._pieces[key]
        if piece.blocked is not None:
            return piece.blocked
        evaluation = piece.evaluation
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
