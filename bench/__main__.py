"""`make bench`: runs every benchmark, one after the other, and ends with one table.

`python -m bench NAME…` runs only these, and `python -m bench.NAME --help` says what one of them measures. A
benchmark that fails is named and the others still run; processes that one leaves behind are named, ended, and
make it fail. Nothing else should run on the machine meanwhile: what is counted is CPU time, but caches are
shared.

It ends with 0 when every limit is held, also where something could not be measured because a peer is missing;
the table says so. It ends with 1 when a limit is missed or a benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench._ending import end_with_us, left_behind
from bench.report import COLLECTED, Result, Skipped, load

FOLDER: Final = Path(__file__).resolve().parent
NOT_BENCHMARKS: Final = {"__main__", "__init__", "report"}


def names() -> list[str]:
    """All benchmarks, by name."""
    return sorted(
        path.stem
        for path in FOLDER.glob("*.py")
        if path.stem not in NOT_BENCHMARKS and not path.stem.startswith("_")
    )


def main() -> int:
    """Runs benchmarks; see above for what is returned."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    chosen = parser.parse_args().names or names()
    if unknown := sorted(set(chosen) - set(names())):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names())}")
    end_with_us()
    begun, broken = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "results.jsonl"
        for name in chosen:
            broken += _run(name, collected)
        results, skipped = load(collected)
    _table(results, skipped)
    for trouble in broken:
        print(trouble)
    missed = sum(not each.holds for each in results)
    minutes = (time.monotonic() - begun) / 60
    print(f"\n{len(results)} figures in {minutes:.0f} minutes: {missed} missed, {len(broken)} failed")
    return 1 if broken or missed else 0


def _run(name: str, collected: Path) -> list[str]:
    """One benchmark, to its end; what went wrong with it."""
    print(f"\n── {name}", flush=True)
    started = time.monotonic()
    environment = {**os.environ, COLLECTED: str(collected)}
    command = [sys.executable, "-m", f"bench.{name}"]
    status = subprocess.run(command, cwd=FOLDER.parent, env=environment, check=False).returncode
    left = left_behind()
    troubles = [] if status == 0 else [f"{name}: failed, it ended with {status}"]
    troubles += [f"{name}: left behind {each}" for each in left]
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)
    return troubles


def _table(results: list[Result], skipped: list[Skipped]) -> None:
    """All results, aligned, and below them what wasn't measured."""
    rows = [("benchmark", "measured", "beside", "ratio", "limit", "verdict")]
    for each in results:
        sign = "≥" if each.more_is_better else "≤"
        rows.append(
            (each.name, each.value, each.peer, f"{each.ratio:.2f}", f"{sign} {each.goal:g}", each.verdict)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for one in skipped:
        print(f"{one.what}: not measured, {one.reason}")


if __name__ == "__main__":
    sys.exit(main())
