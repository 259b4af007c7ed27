"""What one `gatehouse policy` command may use of this machine: processor time and memory, by its own flags.

Every part of a compilation is bounded by its input; an inventory of a hundred thousand workloads is within
all of these bounds and can take minutes and gigabytes. Then the command ends with an error that says how far
it came. Measured before each workload, so a budget is passed by no more than one of them needs.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.core.errors import ResourceExhausted

MAX_SECONDS: Final = 300
MAX_MIB: Final = 1024

SecondsFlag = Annotated[
    int, typer.Option("--max-seconds", min=1, help="Processor time that the command may use.")
]
MemoryFlag = Annotated[int, typer.Option("--max-memory", min=64, help="Memory that it may use, in MiB.")]

_OFTEN: Final = 16
"""Memory is looked at once in so many workloads."""
_STATUS: Final = Path("/proc/self/statm")


def used_seconds() -> float:
    """Processor time of this process."""
    times = os.times()
    return times.user + times.system


def used_mib() -> float:
    """Memory of this process now; where the system doesn't tell, at its highest."""
    try:
        return int(_STATUS.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / (1 << 20)
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(slots=True)
class Spending:
    """A `policies.budget.Budget` over measurements."""

    max_seconds: float = MAX_SECONDS
    max_mib: float = MAX_MIB
    seconds: Callable[[], float] = used_seconds
    mib: Callable[[], float] = used_mib
    _asked: int = field(default=0)

    def __call__(self, workload: str) -> None:
        """Raises ResourceExhausted once time or memory is spent."""
        self._asked += 1
        seconds = self.seconds()
        if seconds > self.max_seconds:
            raise self._spent(
                workload, f"{seconds:.0f} s of processor time, at most {self.max_seconds:g}", "--max-seconds"
            )
        if self._asked % _OFTEN == 1 and (mib := self.mib()) > self.max_mib:
            raise self._spent(workload, f"{mib:.0f} MiB of memory, at most {self.max_mib:g}", "--max-memory")

    def _spent(self, workload: str, used: str, flag: str) -> ResourceExhausted:
        return ResourceExhausted(
            f"compiling the policy: it has taken {used} may be used; next was workload {workload}",
            hint=f"compile for a part of the inventory, or grant more with {flag}",
        )
