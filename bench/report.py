"""How a benchmark tells its result: a figure beside its peer or its limit, measured in the same run.

A benchmark is a file `bench/NAME.py` that `python -m bench.NAME` runs. It calls `tell` once a figure, or
`skip` where what it needs isn't there; either prints a line, and lets the runner (`python -m bench`) make one
table of all. Its `--help` is what its module says of itself (`command_line`). Absolute times depend on the
machine, so what is held to a goal is a ratio to something measured beside it, or a size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench._ending import end_with_us

COLLECTED = "GATEHOUSE_BENCH_RESULTS"
"""Names the file in which the runner collects results, a JSON object a line."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What wasn't measured, and what would have to be done first."""

    what: str
    reason: str


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
        """`held` or `MISSED`."""
        return "held" if self.holds else "MISSED"


def tell(result: Result) -> None:
    """Prints a result, and hands it to the runner if there is one."""
    sign = "≥" if result.more_is_better else "≤"
    print(
        f"{result.name}: {result.value} beside {result.peer}; "
        f"ratio {result.ratio:.2f}, limit {sign} {result.goal:g}: {result.verdict}",
        flush=True,
    )
    _collect(result)


def skip(what: str, reason: str) -> None:
    """Prints that something isn't measured here, and hands that to the runner if there is one."""
    skipped = Skipped(what, reason)
    print(f"{what}: not measured, {reason}", flush=True)
    _collect(skipped)


def command_line(text: str | None) -> argparse.ArgumentParser:
    """The arguments of a benchmark, to be added; `text` is what its module says of itself. Called first, it
    also sees to it that what the benchmark starts ends with it."""
    end_with_us()
    return argparse.ArgumentParser(
        prog=f"python -m bench.{Path(sys.argv[0]).stem}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def load(path: Path) -> tuple[list[Result], list[Skipped]]:
    """All that was told so far: what was measured, and what wasn't."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    told = [json.loads(line) for line in lines]
    return [Result(**one) for one in told if "reason" not in one], [
        Skipped(**one) for one in told if "reason" in one
    ]


def _collect(told: Result | Skipped) -> None:
    collected = os.environ.get(COLLECTED)
    if collected:
        with Path(collected).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(told)) + "\n")
