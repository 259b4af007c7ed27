"""How a benchmark tells its result: a figure beside its peer or its limit, measured in the same run.

A benchmark is a file `bench/NAME.py` that `python -m bench.NAME` runs. It calls `tell` once a figure; that
prints a line, and lets the runner (`python -m bench`) make one table of all. Absolute times depend on the
machine, so what is held to a goal is a ratio to something measured beside it, or a size.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

COLLECTED = "GATEHOUSE_BENCH_RESULTS"
"""Names the file in which the runner collects results, a JSON object a line."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: `value` (with its unit, as text) and what it is held to.

    `ratio` is value to peer, or value to limit where the limit is absolute; it must be at most `goal`, or at
    least `goal` where `more_is_better`.
    """

    name: str
    value: str
    peer: str
    ratio: float
    goal: float
    more_is_better: bool = False

    @property
    def holds(self) -> bool:
        """Whether the goal is met."""
        return self.ratio >= self.goal if self.more_is_better else self.ratio <= self.goal

    @property
    def verdict(self) -> str:
        """`holds` or `MISSES`."""
        return "holds" if self.holds else "MISSES"


def tell(result: Result) -> None:
    """Prints a result, and hands it to the runner if there is one."""
    sign = "≥" if result.more_is_better else "≤"
    print(
        f"{result.name}: {result.value} beside {result.peer}; "
        f"ratio {result.ratio:.2f}, goal {sign} {result.goal:g}: {result.verdict}",
        flush=True,
    )
    collected = os.environ.get(COLLECTED)
    if collected:
        with Path(collected).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def load(path: Path) -> list[Result]:
    """All results that were told so far."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
