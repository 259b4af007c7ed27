"""`make bench`: runs every benchmark, one after the other, and ends with one table.

`python -m bench NAME…` runs only these. A benchmark that fails is named and the others still run. Nothing
else should run on the machine meanwhile: what is counted is CPU time, but caches are shared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import COLLECTED, Result, load

FOLDER = Path(__file__).resolve().parent
NOT_BENCHMARKS = {"__main__", "__init__", "report"}


def names() -> list[str]:
    """All benchmarks, by name."""
    return sorted(
        path.stem
        for path in FOLDER.glob("*.py")
        if path.stem not in NOT_BENCHMARKS and not path.stem.startswith("_")
    )


def main() -> int:
    """Runs benchmarks; 1 when one fails or misses its goal."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Runs benchmarks; all, if none is named."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    chosen = parser.parse_args().names or names()
    if unknown := sorted(set(chosen) - set(names())):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names())}")
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "results.jsonl"
        environment = {**os.environ, COLLECTED: str(collected)}
        for name in chosen:
            print(f"\n── {name}", flush=True)
            started = time.monotonic()
            finished = subprocess.run(
                [sys.executable, "-m", f"bench.{name}"], cwd=FOLDER.parent, env=environment, check=False
            )
            print(f"   ({time.monotonic() - started:.0f} s)", flush=True)
            if finished.returncode != 0:
                broken.append(name)
        results = load(collected)
    _table(results)
    for name in broken:
        print(f"{name} failed")
    return 1 if broken or not all(each.holds for each in results) else 0


def _table(results: list[Result]) -> None:
    """All results, aligned."""
    rows = [("benchmark", "measured", "beside", "ratio", "goal", "verdict")]
    for each in results:
        sign = "≥" if each.more_is_better else "≤"
        rows.append(
            (each.name, each.value, each.peer, f"{each.ratio:.2f}", f"{sign} {each.goal:g}", each.verdict)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
