"""The heavy work on one policy, as a process of its own: `python -m control_plane.rollout.compiling`.

Standard input has one line of JSON (what to do) and then the packed sources; standard output gets the steps
as lines of JSON, each as soon as it is reached. The process bounds its own memory and CPU time, and yields to
everything else on the machine. What the functions here say depends on the sources alone.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from control_plane.core.errors import GatehouseError
from control_plane.rollout.steps import (
    Compiled,
    Evaluated,
    Planned,
    Proved,
    Refused,
    Shift,
    Step,
    bounded,
    write_step,
)
from control_plane.rollout.version import PolicySource
from policies.compilation import Compiled as Compilation
from policies.compilation import compile_project
from policies.diff import Change, Direction, compare_policies, essence
from policies.edge import edge_policies
from policies.formula import PolicySet
from policies.inventory import Inventory
from policies.inventory_file import parse_inventory
from policies.language.diagnostics import Diagnostics
from policies.project import Project
from policies.proof.verdict import Outcome
from policies.questions import Questions
from policies.targets import envoy_rbac
from policies.testing import run_tests

MAX_MEMORY_BYTES: Final = 4 << 30
MAX_CPU_SECONDS: Final = 300
NICENESS: Final = 10
MAX_SHIFTS: Final = 500


def steps_of(source: PolicySource, trust_domain: str) -> Iterator[Step]:
    """Evaluates, compiles and proves: each step as it is reached, a Refused as the last. Times are 0."""
    stage = "evaluate"
    try:
        project, inventory = Project.of(source.files), parse_inventory(source.inventory)
        warnings = [warning.render() for warning in project.checked().warnings]
        report = run_tests(project)
        failed = [
            f"test failed: {one.package}.{one.name} at {one.place} {one.error}".rstrip()
            for one in report.failed
        ]
        if inventory.mesh.trust_domain != trust_domain:
            failed.append(f"the inventory is of {inventory.mesh.trust_domain}, this server is {trust_domain}")
        if failed:
            yield Refused(at=0, stage=stage, reasons=bounded(failed))
            return
        files = len(source.without_tests().files)
        yield Evaluated(at=0, files=files, tests=len(report.results), warnings=bounded(warnings))
        stage = "compile"
        compiled = compile_project(project, inventory, envoy_rbac.NAME)
        refused = [str(one) for one in compiled.proved.emission.refused]
        if refused:
            yield Refused(at=0, stage=stage, reasons=bounded(refused))
            return
        emission = compiled.proved.emission
        yield Compiled(
            at=0,
            target=envoy_rbac.NAME,
            workloads=len(inventory.workloads),
            objects=len(emission.manifests),
            shortfalls=bounded([*map(str, emission.shortfalls), *_shared_identities(inventory)]),
        )
        stage = "prove"
        yield _proved(compiled, project, inventory)
    except Diagnostics as error:
        found = [one.render() for one in error.diagnostics]
        yield Refused(at=0, stage=stage, reasons=bounded(found))
    except GatehouseError as error:
        yield Refused(at=0, stage=stage, reasons=bounded([str(error)]))
    except (MemoryError, RecursionError) as error:
        yield Refused(at=0, stage=stage, reasons=(f"it needs more memory than is granted ({error})",))


def plan_of(before: PolicySource | None, after: PolicySource) -> Planned:
    """Who gains and who loses access; None compares with no policy, under which nobody has any."""
    inventory = parse_inventory(after.inventory)
    old = PolicySet.of("none") if before is None else _meaning(before)
    changes = compare_policies(old, _meaning(after), inventory)
    return Planned(
        at=0,
        by="",
        against=0,
        against_version=0,
        gains=sum(one.direction is Direction.GAINS for one in changes),
        loses=sum(one.direction is Direction.LOSES for one in changes),
        undecided=sum(one.direction is Direction.UNDECIDED for one in changes),
        shifts=tuple(_shift(one) for one in changes[:MAX_SHIFTS]),
    )


def _meaning(source: PolicySource) -> PolicySet:
    project = Project.of(source.without_tests().files)
    inventory = parse_inventory(source.inventory)
    return Questions.of(project.checked().compiled, inventory, project.data).all(project.digest)


def _proved(compiled: Compilation, project: Project, inventory: Inventory) -> Step:
    wrong = [str(one) for one in compiled.proved.verdicts if not one.accepted]
    wrong += [f"broken invariant: {one}" for one in compiled.breaches]
    if wrong:
        return Refused(at=0, stage="prove", reasons=bounded(wrong))
    # What agents will make of it, layer by layer: a version that they would refuse isn't to be approved.
    alone = {one for one, several in inventory.by_identity.items() if len(several) == 1}
    edge_policies(project, inventory, alone)
    verdicts = compiled.proved.verdicts
    return Proved(
        at=0,
        exact=sum(one.outcome is Outcome.EXACT for one in verdicts),
        narrower=bounded([str(one) for one in verdicts if one.outcome is Outcome.NARROWER]),
    )


def _shared_identities(inventory: Inventory) -> list[str]:
    return [
        f"{identity} is the identity of {', '.join(one.key for one in several)}: "
        "agents can't guard them by Envoy until each has its own"
        for identity, several in sorted(inventory.by_identity.items())
        if len(several) > 1
    ]


def _shift(change: Change) -> Shift:
    return Shift(
        direction=str(change.direction),
        caller=change.caller,
        workload=change.workload,
        question=change.question,
        request=essence(change.request) if change.request is not None else change.reason,
        before=tuple(map(str, change.before)),
        after=tuple(map(str, change.after)),
    )


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)


def _run(task: Mapping[str, Any], sources: list[PolicySource]) -> Iterator[Step]:
    if task["do"] == "plan":
        before = sources[0] if len(sources) == 2 else None
        yield plan_of(before, sources[-1])
    else:
        yield from steps_of(sources[0], task["trust_domain"])


def main() -> None:
    """Reads the task, writes the steps."""
    _limit()
    task = json.loads(sys.stdin.buffer.readline())
    sources = [PolicySource.unpack(sys.stdin.buffer.read(size)) for size in task["sizes"]]
    for step in _run(task, sources):
        sys.stdout.write(write_step(step) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
