"""Fuzz targets: what reads bytes from outside ends in a value or in an error of ours, and soon.

Each target is a function `fuzz_NAME(data: bytes) -> None` of a `fuzz_….py` beside this file, with seeds in
its `SEEDS`. `python tests/fuzz/targets.py [--runs N] [--seconds N] [NAME…]` runs them at length, a process
each: under atheris, guided by coverage, where that is installed, else with mutations of the seeds. The
default tests run some mutations of each (test_targets.py).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from fuzz_mutations import mutations

Target = Callable[[bytes], None]
HANG_SECONDS: Final = 20
ROUND: Final = 1000
MODULES: Final = {
    "fuzz_identity": ("spiffe_id", "selector", "csr", "certificate", "jwt", "bundle", "journal", "settings"),
    "fuzz_http2": ("http2",),
    "fuzz_policies": (
        "rego", "inventory", "documents", "manifest", "conformance", "builtins_regex", "builtins_glob",
        "builtins_network", "builtins_semver", "builtins_time", "builtins_documents", "builtins_token",
        "builtins_x509",
    ),
}  # fmt: skip
TARGETS: Final = {name: module for module, names in MODULES.items() for name in names}


def load(name: str) -> tuple[Target, list[bytes]]:
    """A target and its seeds; imports what it tests."""
    module = importlib.import_module(TARGETS[name])
    target: Target = getattr(module, f"fuzz_{name}")
    return target, module.SEEDS[name]()


def _mutated(name: str, runs: int, seconds: float) -> int:
    """One target with mutations of its seeds only; how many inputs that were."""
    target, seeds = load(name)
    signal.signal(signal.SIGALRM, _hung)
    began, count, seed = time.monotonic(), 0, random.SystemRandom().randrange(2**32)
    while count < runs and time.monotonic() - began < seconds:
        for data in mutations(seeds, ROUND, seed):
            signal.alarm(HANG_SECONDS)
            try:
                target(data)
            except BaseException:
                print(f"{name}: round {seed}, input {data!r}", flush=True)
                raise
            finally:
                signal.alarm(0)
        count, seed = count + ROUND, seed + 1
    return count


def _hung(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"one input took more than {HANG_SECONDS} s")


def _guided(name: str, runs: int, seconds: float, corpus: Path) -> NoReturn:
    """One target under atheris, which ends the process."""
    import atheris  # no wheel for every platform and Python

    with atheris.instrument_imports(include=["policies", "control_plane"]):
        target, seeds = load(name)
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    limits = [f"-runs={runs}", f"-max_total_time={int(seconds)}", f"-timeout={HANG_SECONDS}"]
    quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={tempfile.gettempdir()}/{name}-"]
    atheris.Setup([__file__, str(corpus), "-max_len=16384", *limits, *quiet], target)
    atheris.Fuzz()
    raise SystemExit(0)


def _run(name: str, runs: int, seconds: float) -> bool:
    """One target in a process of its own, and a line about it."""
    command = [sys.executable, __file__, "--one", "--runs", str(runs), "--seconds", str(seconds), name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gh") as corpus:
        finished = subprocess.run([*command, "--corpus", corpus], check=False, capture_output=True, text=True)
    said = finished.stdout + finished.stderr
    counted = re.search(r"number_of_executed_units: (\d+)|^(\d+) inputs", said, re.MULTILINE)
    count = next((one for one in counted.groups() if one), "?") if counted else "?"
    good = finished.returncode == 0
    took = time.monotonic() - began
    print(f"{'ok  ' if good else 'FAIL'} {name}: {count} inputs in {took:.0f} s", flush=True)
    if not good:
        lines = [line for line in said.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
        print("\n".join(lines)[:6000], flush=True)
    return good


def main() -> int:
    """Every target, or those that are named; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Runs fuzz targets at length.")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target, at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for each target, at most")
    parser.add_argument("--one", action="store_true", help="in this process, one target")
    parser.add_argument("--corpus", type=Path, help="with --one: where new inputs are kept")
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS])
    arguments = parser.parse_args()
    guided = importlib.util.find_spec("atheris") is not None
    if arguments.one:
        (name,) = arguments.names
        if guided:
            _guided(name, arguments.runs, arguments.seconds, arguments.corpus)
        print(f"{_mutated(name, arguments.runs, arguments.seconds)} inputs")
        return 0
    print("guided by coverage (atheris)" if guided else "without atheris: mutations of seeds, not guided")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        run = lambda name: _run(name, arguments.runs, arguments.seconds)  # noqa: E731
        return 0 if all(list(pool.map(run, arguments.names or TARGETS))) else 1


if __name__ == "__main__":
    sys.exit(main())
