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
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.report import COLLECTED, Result, Skipped, load

FOLDER: Final = Path(__file__).resolve().parent
NOT_BENCHMARKS: Final = {"__main__", "__init__", "report"}
LEAVING_SECONDS: Final = 5.0
"""How long what a benchmark started may take to end after it."""

_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)


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
    _inherit_orphans()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
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
    try:
        status = subprocess.run(command, cwd=FOLDER.parent, env=environment, check=False).returncode
    finally:  # also when we are told to end
        left = _left_behind()
    troubles = [] if status == 0 else [f"{name}: failed, it ended with {status}"]
    troubles += [f"{name}: left behind {each}" for each in left]
    print(f"   ({time.monotonic() - started:.0f} s)", flush=True)
    return troubles


def _inherit_orphans() -> None:
    """Makes us the parent of what a benchmark leaves behind, so that we see it and may end it."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _left_behind() -> list[str]:
    """The processes that didn't end within a moment, by their command lines; they are ended."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while (children := _children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    told = [f"process {pid}: {command}" for pid, command in children.items()]
    while children:  # theirs become ours as they end
        for pid in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        children = _children()
    return told


def _children() -> dict[int, str]:
    """Our children that run, with the beginning of their command lines; those that ended are laid to rest."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = words.decode(errors="replace")[:120].strip()
    return found


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
