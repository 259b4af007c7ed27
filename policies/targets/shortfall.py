"""What a target could not say exactly, and which rung of the ladder was taken.

The ladder: expand over the inventory (always tried, never a shortfall), narrow the ALLOW or widen the DENY,
let the agent decide the workload's whole policy (CUSTOM), refuse. Nothing here ever admits more.
"""

import enum
from dataclasses import dataclass

from policies.formula import Origin


class Step(enum.StrEnum):
    """The rung taken."""

    NARROWED = "narrowed"
    CUSTOM = "custom"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One clause that isn't said as it stands."""

    target: str
    workload: str
    step: Step
    reason: str
    origins: tuple[Origin, ...]

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.origins)) or "no line"
        return f"{self.target} {self.workload}: {self.step}: {self.reason} ({lines})"
