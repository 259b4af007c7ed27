"""What issuers push about policies: the keys, and the signed bytes for each agent. A value, swapped whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from control_plane.core.spiffe_id import SpiffeId
from control_plane.rollout.assignment import InForce, SignedBundle
from control_plane.rollout.bundle import PolicyKey


@dataclass(frozen=True, slots=True)
class Pushed:
    """Signed bundles by sequence, for the assignments in force; `keys` verify them."""

    keys: tuple[PolicyKey, ...] = ()
    in_force: InForce = field(default_factory=InForce)
    bundles: Mapping[int, SignedBundle] = field(default_factory=dict, repr=False)

    def of_agent(self, agent_id: SpiffeId) -> tuple[int, SignedBundle] | None:
        """Sequence and bytes for one agent; None where no policy was ever assigned to it."""
        assignment = self.in_force.of_agent(agent_id)
        if assignment is None:
            return None
        return assignment.sequence, self.bundles[assignment.sequence]


class PushStore(Protocol):
    """Where issuers read it."""

    async def pushed(self) -> Pushed:
        """What is in force now, in one transaction. Raises Corrupt, Unavailable."""


class PushedPolicies:
    """Holds what is pushed by this process."""

    def __init__(self) -> None:
        self.current = Pushed()

    def swap(self, pushed: Pushed) -> bool:
        """Replaces it; False if nothing changed."""
        changed = pushed != self.current
        self.current = pushed
        return changed
