"""The life of a policy version as a pure state machine: steps are values, and a life is what they add up to.

    (submitted) → evaluated → compiled → proved → planned → approved → applied → recorded
                  └──────── refused ─────────┘      └ closed ┘

Each step is stored before the next begins, so a crash leaves a life at a step, never between two. Up to
`proved`, and from `applied` on, the machine goes on by itself; what lies between is for people. A version
whose proof was refused ends there: no later step can follow. Times are in Unix seconds.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from control_plane.core.errors import Corrupt, FailedPrecondition
from control_plane.rollout.assignment import ALL, COMING_BACK

MAX_REASONS: Final = 50
MAX_TEXT: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The Rego parses, checks, and its tests pass."""

    kind: ClassVar[str] = "evaluated"
    at: int
    files: int
    tests: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """It became objects of its target; `shortfalls` says what the target can't express."""

    kind: ClassVar[str] = "compiled"
    at: int
    target: str
    workloads: int
    objects: int
    shortfalls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """What the objects admit is what Rego admits (`exact` workloads), or less (`narrower`, with a witness);
    every invariant holds."""

    kind: ClassVar[str] = "proved"
    at: int
    exact: int
    narrower: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The end: `stage` says where, each reason names a place in the Rego or a counter-example."""

    kind: ClassVar[str] = "refused"
    at: int
    stage: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One caller (empty: callers outside the inventory) of one workload whose access changes."""

    direction: str
    caller: str
    workload: str
    question: str
    request: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @staticmethod
    def of(document: Mapping[str, object]) -> "Shift":
        """Reads the JSON form."""
        return Shift(**{name: _tuple(value) for name, value in document.items()})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Who gains and who loses access against what was in force at sequence `against` (0: nothing).

    `gains`, `loses` and `undecided` count all changes; `shifts` are as many of them as can be shown.
    """

    kind: ClassVar[str] = "planned"
    at: int
    by: str
    against: int
    against_version: int
    gains: int
    loses: int
    undecided: int
    shifts: tuple[Shift, ...] = ()

    @property
    def digest(self) -> str:
        """What an approval refers to: SHA-256 over what was compared and what came out."""
        what = fields_of(self) | {"at": 0, "by": ""}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """Somebody other than the author agreed to the plan with this digest."""

    kind: ClassVar[str] = "approved"
    at: int
    by: str
    reason: str
    plan_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """An approver rejected it, or its author withdrew it."""

    kind: ClassVar[str] = "closed"
    at: int
    by: str
    reason: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """It was assigned: signed, and on its way to agents."""

    kind: ClassVar[str] = "applied"
    at: int
    by: str
    reason: str
    sequence: int
    percent: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The assignment is in the ledger, as entry `ledger_id`."""

    kind: ClassVar[str] = "recorded"
    at: int
    sequence: int
    ledger_id: str


Step: TypeAlias = Evaluated | Compiled | Proved | Refused | Planned | Approved | Closed | Applied | Recorded

SUBMITTED: Final = "submitted"
_KINDS: Final[Mapping[str, type[Step]]] = {
    one.kind: one
    for one in (Evaluated, Compiled, Proved, Refused, Planned, Approved, Closed, Applied, Recorded)
}
_AFTER: Final[Mapping[str, frozenset[str]]] = {
    SUBMITTED: frozenset({"evaluated", "refused", "closed"}),
    "evaluated": frozenset({"compiled", "refused", "closed"}),
    "compiled": frozenset({"proved", "refused", "closed"}),
    "proved": frozenset({"planned", "closed"}),
    # What is in force may change before or after the approval: then a new plan takes the old one's place.
    "planned": frozenset({"planned", "approved", "closed"}),
    "approved": frozenset({"planned", "applied", "closed"}),
    "applied": frozenset({"recorded"}),
    # A canary grows, an older version comes back, or one goes through the whole procedure again.
    "recorded": frozenset({"applied", "planned"}),
    "refused": frozenset(),
    "closed": frozenset(),
}
_RESTING: Final = frozenset({"planned", "approved", "recorded"})
_MISSING: Final = {
    "planned": "it must be proved first",
    "approved": "it needs a plan first: gatehouse policy plan",
    "applied": "it needs an approval first: gatehouse policy approve, by somebody other than its author",
}


@dataclass(frozen=True, slots=True)
class Life:
    """All steps of one version so far, in order."""

    number: int
    steps: tuple[Step, ...] = ()

    @property
    def state(self) -> str:
        """The kind of the last step."""
        return self.steps[-1].kind if self.steps else SUBMITTED

    @property
    def works_by_itself(self) -> bool:
        """Whether the machine owes the next step; after a crash that is where it goes on."""
        return self.state in (SUBMITTED, "evaluated", "compiled", "applied")

    @property
    def was_in_force(self) -> bool:
        """Whether it ever was in force for all agents."""
        return any(isinstance(step, Applied) and step.percent == ALL for step in self.steps)

    @property
    def plan(self) -> Planned | None:
        """The plan that counts: the latest."""
        return next((step for step in reversed(self.steps) if isinstance(step, Planned)), None)

    def require(self, kind: str) -> None:
        """Raises FailedPrecondition unless a step of this kind can follow."""
        if kind not in _AFTER[self.state]:
            raise FailedPrecondition(
                f"policy version {self.number} is {self.state}, so it can't become {kind}",
                hint="push again" if self.state in ("refused", "closed") else _MISSING.get(kind, ""),
            )

    def after(self, step: Step) -> "Life":
        """The life with one more step. Raises FailedPrecondition where it can't follow."""
        comes_back = isinstance(step, Applied) and step.cause in COMING_BACK and self.was_in_force
        if not (comes_back and self.state in _RESTING):
            self.require(step.kind)
        if isinstance(step, Approved) and (self.plan is None or step.plan_digest != self.plan.digest):
            raise FailedPrecondition(
                f"policy version {self.number}: the approval is of another plan than the latest",
                hint=f"look again: gatehouse policy plan {self.number}",
            )
        return Life(self.number, (*self.steps, step))


def fields_of(step: Step) -> dict[str, Any]:
    """The fields of a step, as JSON takes them; a plan of the usual size has thousands of values."""
    found = _fields(step)
    if isinstance(step, Planned):
        found["shifts"] = [_fields(shift) for shift in step.shifts]
    return found


def _fields(value: Step | Shift) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def write_step(step: Step) -> str:
    """A step as JSON, with its kind."""
    return json.dumps({"kind": step.kind, **fields_of(step)}, ensure_ascii=False)


def read_step(text: str) -> Step:
    """Reads what `write_step` wrote. Raises Corrupt."""
    try:
        document = json.loads(text)
        kind = _KINDS[document.pop("kind")]
        if kind is Planned:
            document["shifts"] = [Shift.of(one) for one in document["shifts"]]
        return kind(**{name: _tuple(value) for name, value in document.items()})  # type: ignore[arg-type]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"reading a step of a policy's life: {type(error).__name__}: {error}") from error


def bounded(texts: Sequence[str]) -> tuple[str, ...]:
    """As many texts as a step keeps, each cut to its bound; the last says how many are missing."""
    kept = [text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…" for text in texts[:MAX_REASONS]]
    if len(texts) > MAX_REASONS:
        kept.append(f"… and {len(texts) - MAX_REASONS} more")
    return tuple(kept)


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
