"""What the life of policies needs from others.

Promises as in `identity.ports`: a call is one transaction and durable on return, nothing retries by itself,
`Unavailable` may pass, `Corrupt` needs an operator. One process writes (management); many read.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from control_plane.rollout.assignment import Assignment, InForce, SignedBundle
from control_plane.rollout.bundle import PolicyKey
from control_plane.rollout.push import PushStore
from control_plane.rollout.steps import Life, Planned, Step
from control_plane.rollout.version import PolicySource, SignedVersion


class RolloutStore(PushStore, Protocol):
    """Versions, their steps, and assignments."""

    async def add_version(self, version: SignedVersion, source: PolicySource) -> None:
        """Stores a version for good. Raises FailedPrecondition unless its number is the next one."""

    async def version(self, number: int) -> tuple[SignedVersion, Life]:
        """One version with its life. Raises NotFound."""

    async def versions(self, before: int, limit: int) -> list[tuple[SignedVersion, Life]]:
        """Versions with smaller numbers than `before` (0: all), newest first."""

    async def source(self, number: int) -> PolicySource:
        """What was pushed. Raises NotFound; Corrupt where it isn't what the version's digests say."""

    async def add_step(self, life: Life, step: Step) -> Life:
        """Stores the next step. Raises FailedPrecondition where it can't follow, or if the stored life is
        another than `life`."""

    async def in_force(self) -> InForce:
        """What is assigned now."""

    async def assign(self, life: Life, step: Step, assignment: Assignment, bundle: SignedBundle) -> Life:
        """Makes an assignment and stores the step that says so, in one transaction, and tells the issuers.
        Raises FailedPrecondition unless its sequence is the next one, and as `add_step`."""

    async def assignments(self, before: int, limit: int) -> list[Assignment]:
        """Assignments with smaller sequences than `before` (0: all), newest first."""

    async def add_key(self, key: PolicyKey) -> None:
        """Publishes a key, before anything is signed with it. Idempotent."""

    async def retire_key(self, key_id: str) -> None:
        """Stops publishing a key; what it signed long ago can still be checked. Idempotent."""

    async def keys(self) -> list[PolicyKey]:
        """The keys that are published, oldest first."""


class Compiler(Protocol):
    """The heavy work, in a process of its own, bounded in time and memory."""

    def compile(self, source: PolicySource) -> AsyncGenerator[Step, None]:
        """Evaluates, compiles and proves: Evaluated, Compiled, Proved as they are reached, or Refused and
        nothing after it. The same source gives the same steps, save the times. What takes too long or too
        much memory is Refused. Raises Unavailable if no process can be started."""

    async def plan(self, before: PolicySource | None, after: PolicySource) -> Planned:
        """What changes for whom; `by`, `against` and `against_version` are for the caller to fill in.
        Raises ResourceExhausted where it takes too long, Unavailable as `compile`."""


class Recorder(Protocol):
    """The ledger, as far as policies write to it."""

    async def record(
        self, *, action: str, by: str, resource: str, reason: str, request_id: str, detail: str
    ) -> str:
        """Makes a record durable and gives its ID. Raises ResourceExhausted, Unavailable."""
