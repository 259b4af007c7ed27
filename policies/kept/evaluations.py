"""What each workload is asked under one version, without evaluating it where an earlier run's answer holds.

An answer holds where the rules that can hold for the workload, what is known of it, and everything that was
read of data are the same. What was read isn't known beforehand: the row under rules and workload lists what
earlier evaluations read, with a digest of what they saw, and these are looked at again.

Rules that only moved are the same, and lines are kept as rule and distance. But an opaque condition says in
its formula where it stands: then the row is under rules that stand where they stood.
"""

from __future__ import annotations

import contextlib
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.formula import Formula, Opaque, atoms_of
from policies.inventory import Workload
from policies.kept.facts import Facts
from policies.kept.reads import Answers, read_text
from policies.kept.rules import Places, RuleDigests
from policies.kept.shelf import Shelf, digest
from policies.kept.signatures import Signature, Signer
from policies.questions import Asked, Questions

MAX_VERSIONS: Final = 4
"""Of so many versions the answers under the same rules are kept: before and after an edit, and to spare."""
_KIND: Final = "evaluation"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What stands for the questions about a workload, None where it isn't asked."""

    authz: Signature | None
    segmentation: Signature | None
    violations: Signature

    @property
    def parts(self) -> tuple[Signature | None, ...]:
        """All three."""
        return self.authz, self.segmentation, self.violations


@dataclass(slots=True)
class Evaluations:
    """The answers of one version; `asked` evaluates, and does it once."""

    questions: Questions
    shelf: Shelf
    facts: Facts = field(init=False)
    _signer: Signer = field(default_factory=Signer)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _evaluated: set[str] = field(default_factory=set)
    _opaque: dict[Formula, bool] = field(default_factory=dict)
    _rules: RuleDigests = field(init=False)
    _answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        self._rules = RuleDigests(self.questions)
        self.facts = Facts(self.questions.inventory)
        self._answers = Answers(self.questions.memory, self.facts.whole)

    def asked(self, workload: Workload) -> Asked:
        """The questions themselves. Raises Diagnostics where a rule can't be compiled."""
        found = self._asked.get(workload.key)
        if found is None:
            found = self._asked[workload.key] = self.questions.asked(workload)
            self._evaluated.add(workload.key)
        return found

    def forget(self) -> None:
        """Lets go of all questions; who asks for one again has it evaluated again."""
        self._asked.clear()
        self._opaque.clear()
        self._signer = Signer()

    @property
    def evaluated(self) -> Set[str]:
        """The workloads that had to be evaluated."""
        return self._evaluated

    def of(self, workload: Workload) -> Evaluation:
        """What stands for the questions. Raises Diagnostics as `asked` does."""
        unguarded = self.facts.unguarded(workload)
        rules = self._rules.of(workload)
        keys = [digest(form, unguarded) for form in (rules.loose, rules.exact)]
        rows: list[list[object]] = []
        for key in keys:
            rows.append(self._rows(key))
            for row in rows[-1]:
                with contextlib.suppress(InvalidInput):  # another shape
                    found = self._held(row, rules.places)
                    if found is not None:
                        return found
        asked = self.asked(workload)
        made = self._signed(asked)
        form = 1 if self._names_places(asked) or not rules.places.apart else 0
        new = self._row(asked, made, rules.places)
        if new is not None:
            self.shelf.put(_KIND, keys[form], [new, *rows[form][: MAX_VERSIONS - 1]])
        return made

    def _rows(self, key: str) -> list[object]:
        kept = self.shelf.find(_KIND, key)
        return kept[:MAX_VERSIONS] if isinstance(kept, list) else []

    def _row(self, asked: Asked, made: Evaluation, places: Places) -> list[object] | None:
        """What is kept; None where a read or a line can't be written."""
        reads = [read_text(one) for one in asked.reads]
        parts: list[object] = []
        for one in made.parts:
            lines = None if one is None else places.written(one.origins)
            if one is not None and lines is None:
                return None
            parts.append(None if one is None else [one.digest, lines, sorted(one.facts)])
        if None in reads:
            return None
        listed = sorted(one for one in reads if one is not None)
        return [listed, self._answers.digest(listed), parts]

    def _held(self, row: object, places: Places) -> Evaluation | None:
        """The evaluation of an earlier version, where it saw what this version would show it."""

        def signature(document: object) -> Signature:
            match document:
                case [str(found), lines, list(facts)] if all(isinstance(one, str) for one in facts):
                    return Signature(found, places.read(lines), frozenset(facts))
            raise InvalidInput("reading an evaluation: another shape")

        match row:
            case [list(reads), str(answers), [authz, segmentation, violations]] if all(
                isinstance(one, str) for one in reads
            ):
                if self._answers.digest(reads) != answers:
                    return None
                return Evaluation(
                    None if authz is None else signature(authz),
                    None if segmentation is None else signature(segmentation),
                    signature(violations),
                )
        raise InvalidInput("reading an evaluation: another shape")

    def _signed(self, asked: Asked) -> Evaluation:
        policy = asked.policy
        return Evaluation(
            None if policy.authz is None else self._signer.question(policy.authz),
            None if policy.segmentation is None else self._signer.question(policy.segmentation),
            self._signer.decision(asked.violations),
        )

    def _names_places(self, asked: Asked) -> bool:
        """Whether a formula says where a part of it stands."""
        questions = [one for one in (asked.policy.authz, asked.policy.segmentation) if one is not None]
        decisions = [asked.violations, *(each for one in questions for each in (one.allow, one.deny))]
        return any(self._is_opaque(rule.formula) for decision in decisions for rule in decision.disjuncts)

    def _is_opaque(self, formula: Formula) -> bool:
        known = self._opaque.get(formula)
        if known is None:
            known = any(isinstance(atom, Opaque) for atom in atoms_of(formula))
            self._opaque[formula] = known
        return known
