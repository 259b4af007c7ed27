"""Fuzz targets: what reads bytes from outside ends in a value or in an error of ours, and soon.

Each target is a function `fuzz_NAME(data: bytes) -> bool` of a `fuzz_….py` beside this file, with seeds in
its `SEEDS`; it tells whether the input was accepted. `python tests/fuzz/targets.py [--runs N] [--seconds N]
[--folder F] [--seed N] [NAME…]` runs them at length, a process each (fuzz_run.py). With a folder a run that
was stopped goes on where it was; with a seed it tries what another run with that seed tried. The default
tests run some mutations of each (test_targets.py).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import fuzz_run
from fuzz_run import Target

MODULES: Final = {
    "fuzz_identity": (
        "spiffe_id", "selector", "csr", "certificate", "jwt", "jwt_claims", "bundle", "journal", "record",
        "settings",
    ),
    "fuzz_http2": ("http2", "http2_client"),
    "fuzz_wire": (
        "texts", "falco", "push", "entry", "bundle_message", "vault", "attestation", "authority_state",
    ),
    "fuzz_agent": (
        "xds", "check_request", "description", "agent_cache", "policy_held", "signed_policy",
    ),
    "fuzz_callers": ("bearer_token", "key_set", "metrics_request", "access_log", "counters", "entry_file"),
    "fuzz_machine": ("process", "agent_settings", "environment", "private_key", "envoy_file"),
    "fuzz_answers": ("challenge", "node_change", "trailers", "rest_answer", "vault_keys"),
    "fuzz_kept": ("kept", "formula", "stored_policy", "database_row"),
    "fuzz_language": ("envoy_input", "annotations"),
    "fuzz_policies": (
        "rego", "rego_query", "inventory", "documents", "manifest", "conformance", "builtins_regex",
        "builtins_glob", "builtins_network", "builtins_semver", "builtins_time", "builtins_documents",
        "builtins_token", "builtins_x509",
    ),
}  # fmt: skip
TARGETS: Final = {name: module for module, names in MODULES.items() for name in names}


def load(name: str) -> tuple[Target, list[bytes]]:
    """A target and its seeds; imports what it tests."""
    module = importlib.import_module(TARGETS[name])
    target: Target = getattr(module, f"fuzz_{name}")
    return target, module.SEEDS[name]()


def _run(name: str, runs: int, seconds: float, folder: Path, seed: int) -> bool:
    """One target in a process of its own, and a line about it."""
    command = [sys.executable, __file__, "--one", "--runs", str(runs), "--seconds", str(seconds)]
    command += ["--seed", str(seed)]
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (folder / "log").open("w+") as log:
        ended = subprocess.run(
            [*command, "--folder", str(folder), name],
            check=False, stderr=log, env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )  # fmt: skip
        log.seek(0)
        said = log.read()
    try:
        progress = (folder / "progress.json").read_text()
        told = str(fuzz_run.Progress(**json.loads(progress)))
    except OSError:
        told = "no inputs"
    good = ended.returncode == 0
    print(f"{'ok  ' if good else 'FAIL'} {name}: {told}; {time.monotonic() - began:.0f} s", flush=True)
    if not good:
        lines = [line for line in said.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
        print("\n".join(lines)[:6000], flush=True)
    return good


def main() -> int:
    """Every target, or those that are named; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Runs fuzz targets at length.")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target, at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for each target, at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument("--folder", type=Path, help="where corpus and progress are kept; none: nowhere")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31) + 1, help="none: another each time"
    )
    parser.add_argument("--one", action="store_true", help="in this process, one target")
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS])
    arguments = parser.parse_args()
    if arguments.one:
        (name,) = arguments.names
        return fuzz_run.run(name, load, arguments.runs, arguments.seconds, arguments.folder, arguments.seed)
    guided = importlib.util.find_spec("atheris") is not None
    print("guided by coverage (atheris)" if guided else "without atheris: mutations of seeds, not guided")
    with tempfile.TemporaryDirectory(prefix="gh") as scratch, ThreadPoolExecutor(arguments.jobs) as pool:
        folder = arguments.folder or Path(scratch)
        run = lambda name: _run(name, arguments.runs, arguments.seconds, folder, arguments.seed)  # noqa: E731
        return 0 if all(list(pool.map(run, arguments.names or TARGETS))) else 1


if __name__ == "__main__":
    sys.exit(main())
