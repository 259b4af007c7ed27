"""Compile and prove a large policy from its Rego: time, memory and size against the project's limits.

1,000 services with 20,000 edges, by path, header, network and token mixed, as a document that one rule goes
through; the same after one changed line, and after one more workload; the difference of the two versions;
10,000 rules, over all services and on one. Measured as processes of `gatehouse policy`, start included, for
each target, and in this process, where an earlier version is at hand. Prints each figure with its ratio to
the limit; exits 1 beyond one.

Times are of the processor: what else the machine does isn't our figure. Processes are told with their peak
memory and the time on the clock.

    python -m bench.policy_compile [--services 1000] [--callers 20] [--rules 10000] [--targets …]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import _policy_estate as estate
from bench.report import Result, command_line, tell
from control_plane.cli.policy_files import read_project
from policies.compilation import guarded_by
from policies.formula import SOURCE_ID, Decision, Disjunct, Equal, Formula, In, Question, all_of, equals
from policies.inventory import Inventory
from policies.inventory_file import parse_inventory
from policies.kept.compilation import compare_kept, compile_kept
from policies.kept.shelf import MemoryStore, Shelf
from policies.project import Project
from policies.questions import Questions
from policies.targets.emission import Options
from policies.targets.istio_sidecar import emit_workload
from policies.targets.registry import TARGETS

COMPILE_SECONDS: Final = 10
CHANGE_SECONDS: Final = 1
DIFF_SECONDS: Final = 2
STRESS_SECONDS: Final = 60
PEAK_MIB: Final = 1024
SHARE_OF_NAIVE: Final = 0.1
SAMPLE: Final = 20


@dataclass(slots=True)
class Table:
    """What was measured, and whether all of it is within its limit."""

    within: bool = True

    def add(self, name: str, value: float, limit: float, unit: str, note: str = "") -> None:
        """One figure; `value` and `limit` are in `unit`."""
        result = Result(name, f"{value:.3g} {unit}{note}", f"limit {limit:g} {unit}", value / limit, 1)
        self.within = self.within and result.holds
        tell(result)


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds of processor time and on the clock, peak memory, exit code."""

    seconds: float
    elapsed: float
    peak_mib: float
    code: int

    @staticmethod
    def of(cache: Path, *arguments: str | Path) -> Run:
        """Runs `gatehouse policy …`; its output goes nowhere, its errors to ours."""
        command = [sys.executable, "-m", "control_plane", "policy", *map(str, arguments)]
        started = time.monotonic()
        nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        pid = os.posix_spawn(sys.executable, command, environment, file_actions=nowhere)
        _, status, usage = os.wait4(pid, 0)
        spent = usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        return Run(spent, time.monotonic() - started, usage.ru_maxrss / 1024, code)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Puts a project on disk."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def told(table: Table, name: str, run: Run, limit: float) -> None:
    """The figures of one process, which must end well."""
    assert run.code == 0, f"{name}: exit code {run.code}"
    table.add(name, run.seconds, limit, "s", f" ({run.elapsed:.1f} s on the clock, {run.peak_mib:.0f} MiB)")
    if run.peak_mib > PEAK_MIB:
        table.add(f"{name}: memory", run.peak_mib, PEAK_MIB, "MiB")


def share_of_naive(questions: Questions) -> float:
    """Rules of the manifests for each rule that there would be if every edge had one of its own.

    A rule is callers times operations. Half of a service's callers do one thing and half another, so that two
    rules for twenty callers are as few as there can be: the least share here is the limit itself.
    """
    known = questions.inventory
    written = naive = 0
    for workload in known.workloads[:SAMPLE]:
        asked = questions.workload(workload).authz
        assert asked is not None
        for rule in asked.allow.disjuncts:
            for edge in _edges(rule.formula):
                alone = Question(Decision((Disjunct(edge, rule.origins),)))
                naive += _rules(emit_workload(alone, workload, known, "x", Options()).manifests)
        written += _rules(emit_workload(asked, workload, known, "x", Options()).manifests)
    return written / naive


def _edges(formula: Formula) -> Iterator[Formula]:
    """What a rule says of each caller by itself; its formula joins callers that are asked the same."""
    for one in formula.children if formula.kind == "or" else (formula,):
        parts = one.children if one.kind == "and" else (one,)
        for part in parts:
            if isinstance(part.atom, Equal | In) and part.atom.attribute == SOURCE_ID and not part.negated:
                others = [other for other in parts if other is not part]
                callers = part.atom.values if isinstance(part.atom, In) else (part.atom.value,)
                yield from (all_of(equals(SOURCE_ID, caller), *others) for caller in callers)


def _rules(manifests: object) -> int:
    assert isinstance(manifests, tuple)
    return sum(max(1, len(one.origins)) for one in manifests if "-allow-" in one.name)


def in_process(table: Table, folders: tuple[Path, Path], inventory: Path, one_more: str) -> None:
    """One version after another, without the start of a process and the reading of a cache.

    `one_more` is the inventory with another workload.
    """
    shelf = Shelf("", MemoryStore())

    def read(folder: Path, text: str = inventory.read_text(encoding="utf-8")) -> tuple[Project, Inventory]:
        return Project.of(read_project(folder)), parse_inventory(text)

    for given, name, limit in (
        ((folders[0],), "compile and prove", COMPILE_SECONDS),
        ((folders[1],), "compile and prove after one changed line", CHANGE_SECONDS),
        ((folders[1], one_more), "compile and prove after one more workload", CHANGE_SECONDS),
    ):
        started = time.process_time()
        accepted = compile_kept(*read(*given), "istio-sidecar", Options(), shelf).accepted
        table.add(name, time.process_time() - started, limit, "s")
        assert accepted
    started = time.process_time()
    (old, known), (new, _) = map(read, folders)
    changes = compare_kept(old, new, known, shelf)
    table.add("difference of the two", time.process_time() - started, DIFF_SECONDS, "s")
    assert changes, "the changed line was not found"
    questions = Questions.of(old.checked().compiled, guarded_by("istio-sidecar", known, Options()), old.data)
    table.add("rules, of one rule an edge", share_of_naive(questions), SHARE_OF_NAIVE, "")


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--targets", default=",".join(TARGETS))
    given = parser.parse_args()
    services, callers, rules = given.services, given.callers, given.rules
    table = Table()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        inventory, cache = root / estate.INVENTORY, root / "cache"
        inventory.write_text(estate.inventory(services), encoding="utf-8")
        old = write(root / "old", estate.from_document(services, callers))
        new = write(root / "new", estate.from_document(services, callers, services // 2))
        in_process(table, (old, new), inventory, estate.one_more(services))

        edges = f"{services * callers} edges"
        for target in given.targets.split(","):
            run = Run.of(cache, "compile", old, "--inventory", inventory, "--target", target)
            told(table, f"{edges} for {target}, a process", run, COMPILE_SECONDS)
        run = Run.of(cache, "compile", old, "--inventory", inventory)
        told(table, "the same again, a process", run, COMPILE_SECONDS)
        write(old, estate.from_document(services, callers, services // 2))
        run = Run.of(cache, "compile", old, "--inventory", inventory)
        told(table, "the same after one changed line, a process", run, CHANGE_SECONDS)
        write(old, estate.from_document(services, callers))
        run = Run.of(cache, "diff", old, new, "--inventory", inventory, "--fail-on", "none")
        told(table, "difference of the two, a process", run, DIFF_SECONDS)

        many = write(root / "many", estate.from_rules(services, rules))
        run = Run.of(cache, "compile", many, "--inventory", inventory, "--no-cache")
        told(table, f"{rules} rules over {services} workloads, a process", run, STRESS_SECONDS)
        one = write(root / "one", estate.on_one(services, rules))
        run = Run.of(cache, "compile", one, "--inventory", inventory, "--no-cache")
        told(table, f"{rules} rules on one workload, a process", run, STRESS_SECONDS)
    return 0 if table.within else 1


if __name__ == "__main__":
    sys.exit(main())
