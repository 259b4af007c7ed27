"""What each workload is asked under one version, without evaluating it where an earlier run's answer holds.

An answer holds where the rules that can hold for the workload, what is known of it, and everything that was
read of data are the same. What was read isn't known beforehand: the row under rules and workload lists what
earlier evaluations read, with a digest of what they saw, and these are looked at again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.inventory import Mode, Workload
from policies.kept.reads import Answers, read_text
from policies.kept.rules import RuleDigests
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

    @staticmethod
    def parse(document: object) -> Evaluation:
        """Raises InvalidInput for another shape."""
        match document:
            case [authz, segmentation, violations]:
                first, second = (
                    None if one is None else Signature.parse(one) for one in (authz, segmentation)
                )
                return Evaluation(first, second, Signature.parse(violations))
        raise InvalidInput("reading an evaluation: another shape")


@dataclass(slots=True)
class Evaluations:
    """The answers of one version; `asked` evaluates, and does it once."""

    questions: Questions
    shelf: Shelf
    inventory: str = field(init=False)
    """A digest of the whole inventory, which is a value whose parts print in full."""
    _signer: Signer = field(default_factory=Signer)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _rules: RuleDigests = field(init=False)
    _answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        self._rules = RuleDigests(self.questions)
        self.inventory = digest(repr(self.questions.inventory))
        self._answers = Answers(self.questions.memory, self.inventory)

    def asked(self, workload: Workload) -> Asked:
        """The questions themselves. Raises Diagnostics where a rule can't be compiled."""
        found = self._asked.get(workload.key)
        if found is None:
            found = self._asked[workload.key] = self.questions.asked(workload)
        return found

    @property
    def evaluated(self) -> Set[str]:
        """The workloads that had to be evaluated."""
        return self._asked.keys()

    def of(self, workload: Workload) -> Evaluation:
        """What stands for the questions. Raises Diagnostics as `asked` does."""
        # How a workload is guarded is no part of any question about it.
        bare = dataclasses.replace(workload, mode=Mode.NONE, waypoint=None)
        key = digest(self._rules.of(workload), repr(bare))
        kept = self.shelf.find(_KIND, key)
        versions = kept[:MAX_VERSIONS] if isinstance(kept, list) else []
        for version in versions:
            try:
                found = self._held(version)
            except InvalidInput:
                continue
            if found is not None:
                return found
        asked = self.asked(workload)
        made = self._signed(asked)
        reads = [read_text(one) for one in asked.reads]
        if None not in reads:
            listed = sorted(one for one in reads if one is not None)
            parts = [None if one is None else one.document() for one in made.parts]
            newest = [listed, self._answers.digest(listed), parts]
            self.shelf.put(_KIND, key, [newest, *versions[: MAX_VERSIONS - 1]])
        return made

    def _held(self, version: object) -> Evaluation | None:
        """The evaluation of an earlier version, where it saw what this version would show it."""
        match version:
            case [list(reads), str(answers), evaluation] if all(isinstance(one, str) for one in reads):
                return Evaluation.parse(evaluation) if self._answers.digest(reads) == answers else None
        raise InvalidInput("reading an evaluation: another shape")

    def _signed(self, asked: Asked) -> Evaluation:
        policy = asked.policy
        return Evaluation(
            None if policy.authz is None else self._signer.question(policy.authz),
            None if policy.segmentation is None else self._signer.question(policy.segmentation),
            self._signer.decision(asked.violations),
        )
