"""Compiles a policy for this node's workloads in a process of its own, and reads what comes back.

Compiling and proving takes from a tenth of a second to some seconds of one core and tens of MiB: in a child,
workloads are served meanwhile, and the memory is free again afterwards. The child sees the policy and the
identities, nothing of the agent's keys, and is bounded in time and memory.

Run as `python -m agent.enforcement.compiler`: a request as JSON comes on the standard input, the answer goes
to the standard output.
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any, Final

from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.ports import Judge, WorkloadPolicy
from control_plane.core.errors import Bug, FailedPrecondition, GatehouseError, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId

TIMEOUT_SECONDS: Final = 120.0
CPU_SECONDS: Final = 120
MEMORY_BYTES: Final = 2 << 30
MAX_ANSWER_BYTES: Final = 64 << 20
_MODULE: Final = "agent.enforcement.compiler"


async def compile_for(bundle: PolicyBundle, identities: Set[SpiffeId]) -> Mapping[SpiffeId, WorkloadPolicy]:
    """The policies of the workloads with these identities, those that the policy's inventory knows.

    Raises FailedPrecondition if the policy doesn't compile or isn't proved, ResourceExhausted if it took too
    long, Bug if the child broke.
    """
    request = {
        "files": dict(bundle.files),
        "inventory": bundle.inventory,
        "identities": sorted(map(str, identities)),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        _MODULE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_ANSWER_BYTES,
        env={key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if key in os.environ},
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer, errors = await child.communicate(json.dumps(request).encode())
    except TimeoutError as error:
        raise ResourceExhausted(
            f"compiling policy version {bundle.version}: not done after {TIMEOUT_SECONDS:.0f} s"
        ) from error
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode != 0 or len(answer) > MAX_ANSWER_BYTES:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise Bug(
            f"compiling policy version {bundle.version}: the compiler ended with {child.returncode}"
            f" ({last[0][:300] if last else 'and said nothing'})"
        )
    return _read(json.loads(answer), bundle)


def _read(answer: Mapping[str, Any], bundle: PolicyBundle) -> Mapping[SpiffeId, WorkloadPolicy]:
    if "error" in answer:
        raise FailedPrecondition(
            f"compiling policy version {bundle.version}: {answer['error']}", hint=answer["hint"]
        )
    found = {}
    for one in answer["policies"]:
        spiffe_id = SpiffeId.parse(one["spiffe_id"])
        found[spiffe_id] = WorkloadPolicy(
            workload=one["workload"],
            spiffe_id=spiffe_id,
            http_filters=tuple(one["http"]),
            tcp_filters=tuple(one["tcp"]),
            lines={name: tuple(lines) for name, lines in one["lines"].items()},
            custom=bool(one["narrower"]),
        )
    return found


def judge_of(bundle: PolicyBundle) -> Judge:
    """The same policy, to judge single requests in this process. Takes from a tenth of a second on.

    Raises Diagnostics or InvalidInput as compiling does."""
    # Imported here: an agent without a policy has no use for the language and doesn't pay for it.
    from policies.inventory_file import parse_inventory
    from policies.project import Project
    from policies.rulings import Rulings

    project = Project.of(bundle.files)
    return Rulings(project.compiled(), parse_inventory(bundle.inventory), project.data)


def answer_to(request: Mapping[str, Any]) -> dict[str, Any]:
    """The work of the child: the answer to one request, errors of the policy included."""
    # Imported here: the parent has no use for the compiler and doesn't pay for it.
    from policies.edge import edge_policies
    from policies.inventory_file import parse_inventory
    from policies.project import Project

    try:
        project = Project.of(request["files"])
        inventory = parse_inventory(request["inventory"])
        found = edge_policies(project, inventory, frozenset(request["identities"]))
    except GatehouseError as error:
        return {"error": error.message, "hint": error.hint}
    return {
        "policies": [
            {
                "workload": one.workload,
                "spiffe_id": one.spiffe_id,
                "http": one.http,
                "tcp": one.tcp,
                "lines": one.lines,
                "narrower": one.narrower,
            }
            for one in found
        ]
    }


def main() -> None:
    """The child."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    json.dump(answer_to(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
