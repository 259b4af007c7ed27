"""Compiles a policy for this node's workloads in a process of its own, and reads what comes back.

Compiling and proving takes from a tenth of a second to some seconds of one core and tens of MiB: in a child
(`compiling`), workloads are served meanwhile, and the memory is free again afterwards. Loading the compiler
takes longer than most policies do, so from the first policy on a spare child waits that has loaded it; an
agent without a policy has none.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Any, Final

from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.ports import Judge, WorkloadPolicy
from control_plane.core.errors import Bug, FailedPrecondition, ResourceExhausted
from control_plane.core.spiffe_id import SpiffeId

TIMEOUT_SECONDS: Final = 120.0
MAX_ANSWER_BYTES: Final = 64 << 20
SPARE_DELAY_SECONDS: Final = 0.5  # not while what was compiled is on its way to the Envoys
_COMMAND: Final = (sys.executable, "-m", "agent.enforcement.compiling")


class Compiler:
    """Compiles one policy at a time. Close it, or the spare child waits for the end of this process."""

    def __init__(self) -> None:
        self._spare: Process | None = None
        self._making: asyncio.Task[None] | None = None

    async def compile_for(
        self, bundle: PolicyBundle, identities: Set[SpiffeId]
    ) -> Mapping[SpiffeId, WorkloadPolicy]:
        """The policies of the workloads with these identities, those that the policy's inventory knows.

        Raises FailedPrecondition if the policy doesn't compile or isn't proved, ResourceExhausted if it took
        too long, Bug if the child broke.
        """
        request = {
            "files": dict(bundle.files),
            "inventory": bundle.inventory,
            "identities": sorted(map(str, identities)),
        }
        answer = await self._answer(json.dumps(request).encode(), bundle.version)
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make_spare())
        return _read(answer, bundle)

    async def close(self) -> None:
        """Ends the spare child."""
        if self._making is not None:
            self._making.cancel()
            with suppress(asyncio.CancelledError):
                await self._making
        if self._spare is not None:
            await _end(self._spare)
            self._spare = None

    async def _answer(self, request: bytes, version: int) -> Any:
        spare, self._spare = self._spare, None
        if spare is not None and spare.returncode is None:
            try:
                return await _ask(spare, request, version)
            except Bug:
                # Where memory is short the kernel ends what only waits, and the loop may hear of it too late.
                if not _was_killed(spare):
                    raise
        return await _ask(await _start(), request, version)

    async def _make_spare(self) -> None:
        await asyncio.sleep(SPARE_DELAY_SECONDS)
        with suppress(OSError):  # without a spare it takes longer, nothing else
            self._spare = self._spare or await _start()


async def _start() -> Process:
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=MAX_ANSWER_BYTES,
        env={key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if key in os.environ},
    )


def _was_killed(child: Process) -> bool:
    return child.returncode is not None and child.returncode < 0


async def _end(child: Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def _ask(child: Process, request: bytes, version: int) -> Any:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer, errors = await child.communicate(request)
    except TimeoutError as error:
        raise ResourceExhausted(
            f"compiling policy version {version}: not done after {TIMEOUT_SECONDS:.0f} s"
        ) from error
    finally:
        await _end(child)
    if child.returncode != 0 or len(answer) > MAX_ANSWER_BYTES:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise Bug(
            f"compiling policy version {version}: the compiler ended with {child.returncode}"
            f" ({last[0][:300] if last else 'and said nothing'})"
        )
    return json.loads(answer)


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
    from policies.project import Project, without_tests
    from policies.rulings import Rulings

    project = Project.of(without_tests(bundle.files))
    return Rulings(project.compiled(), parse_inventory(bundle.inventory), project.data)
