"""Decisions: what the evaluator of a policy hands to the targets.

For each governed workload there are up to two questions, `authz` (may this request be served?) and
`segmentation` (may this connection exist?), each with `allow` and `deny` rules. A rule is a disjunct: its
formula and the Rego lines it comes from, so that every emitted rule can name its source. The meaning of a
question is: some allow disjunct holds and no deny disjunct does; no rule at all means deny.
"""

from dataclasses import dataclass

from policies.formula.expression import FALSE, Formula, all_of, any_of, negate
from policies.formula.factored import factored


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """A place in Rego: `file:line`, with the rule's full name when it is known."""

    file: str
    line: int
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Disjunct:
    """One way for a decision to hold."""

    formula: Formula
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """A disjunction of rules; without disjuncts it never holds."""

    disjuncts: tuple[Disjunct, ...] = ()

    @staticmethod
    def of(*disjuncts: Disjunct) -> "Decision":
        """The same decision in canonical order: equal formulas joined with all origins, FALSE left out.

        Each formula is `factored`.
        """
        joined: dict[Formula, set[Origin]] = {}
        for disjunct in disjuncts:
            if disjunct.formula is not FALSE:
                joined.setdefault(factored(disjunct.formula), set()).update(disjunct.origins)
        ordered = sorted(joined.items(), key=lambda item: (sorted(item[1]), item[0].order))
        return Decision(tuple(Disjunct(formula, tuple(sorted(origins))) for formula, origins in ordered))

    @property
    def formula(self) -> Formula:
        """The whole decision as one formula."""
        return any_of(*(disjunct.formula for disjunct in self.disjuncts))


@dataclass(frozen=True, slots=True)
class Question:
    """`allow` and not `deny`."""

    allow: Decision = Decision()
    deny: Decision = Decision()

    @property
    def formula(self) -> Formula:
        """The whole question as one formula."""
        return all_of(self.allow.formula, negate(self.deny.formula))

    def and_also(self, other: "Question") -> "Question":
        """Whether both hold. A rule that allows comes from its own lines and from those of the other's."""
        also = tuple(origin for one in other.allow.disjuncts for origin in one.origins)
        allowed = other.allow.formula
        allow = (Disjunct(all_of(one.formula, allowed), one.origins + also) for one in self.allow.disjuncts)
        return Question(Decision.of(*allow), Decision.of(*self.deny.disjuncts, *other.deny.disjuncts))


@dataclass(frozen=True, slots=True)
class WorkloadPolicy:
    """The questions about one workload, named `namespace/name` as in the inventory; None is not asked."""

    workload: str
    authz: Question | None = None
    segmentation: Question | None = None


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All governed workloads of one policy version; `bundle_digest` names the version."""

    bundle_digest: str
    policies: tuple[WorkloadPolicy, ...]

    @staticmethod
    def of(bundle_digest: str, *policies: WorkloadPolicy) -> "PolicySet":
        """In canonical order."""
        return PolicySet(bundle_digest, tuple(sorted(policies, key=lambda policy: policy.workload)))

    def find(self, workload: str) -> WorkloadPolicy | None:
        """The policy of one workload; None where it isn't governed."""
        return next((policy for policy in self.policies if policy.workload == workload), None)
