"""The child that compiles: a request as JSON comes on the standard input, the answer goes to the output.

Run as `python -m agent.enforcement.compiling`. It loads the compiler first and reads then, so that one that
was started ahead has nothing left to do but the work. It sees the policy and identities, nothing of the
agent's keys, and is bounded in time and memory. When the agent is gone, the input ends, and so does it.
"""

import json
import resource
import sys
from collections.abc import Mapping
from typing import Any, Final

from control_plane.core.errors import GatehouseError
from policies.edge import edge_policies
from policies.inventory_file import parse_inventory
from policies.project import Project, without_tests

CPU_SECONDS: Final = 120
MEMORY_BYTES: Final = 2 << 30


def answer_to(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request, errors of the policy included."""
    try:
        project = Project.of(without_tests(request["files"]))
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
    """One request, one answer."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    request = sys.stdin.buffer.read()
    if request:
        json.dump(answer_to(json.loads(request)), sys.stdout)


if __name__ == "__main__":
    main()
