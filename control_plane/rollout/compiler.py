"""Runs `compiling` in a child process, one at a time, bounded in time and memory.

Compiling takes seconds of CPU and memory for large inventories: in the process that issues and answers it
would hold everything else up. A child that runs out of what it is granted is a refusal of the policy; a child
that can't be started is our trouble.
"""

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from control_plane.core.errors import Bug, Corrupt, ResourceExhausted, Unavailable
from control_plane.core.spiffe_id import TrustDomain
from control_plane.rollout.steps import Planned, Proved, Refused, Step, read_step
from control_plane.rollout.version import PolicySource
from control_plane.runtime.clock import Clock
from control_plane.runtime.log import get_logger

WALL_SECONDS: Final = 420.0  # more than its CPU time: it yields to everything else
MAX_LINE_BYTES: Final = 16 << 20
MAX_STORY_BYTES: Final = 4000
_STAGES: Final = ("evaluate", "compile", "prove")

_log = get_logger("policy")


class ChildCompiler:
    """Implements `ports.Compiler`."""

    def __init__(
        self, trust_domain: TrustDomain, clock: Clock, *, wall_seconds: float = WALL_SECONDS
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._wall_seconds = wall_seconds
        self._turn = asyncio.Lock()

    async def compile(self, source: PolicySource) -> AsyncGenerator[Step, None]:
        """See the port."""
        done = 0
        try:
            task = {"do": "compile", "trust_domain": self._trust_domain.name}
            async with contextlib.aclosing(self._steps(task, [source])) as steps:
                async for step in steps:
                    yield dataclasses.replace(step, at=self._clock.unix())
                    done += 1
                    if isinstance(step, Refused | Proved):
                        return
        except (ResourceExhausted, Bug) as error:
            # It would end the same way each time: better a version that says so than one that never ends.
            yield Refused(at=self._clock.unix(), stage=_STAGES[min(done, 2)], reasons=(str(error),))

    async def plan(self, before: PolicySource | None, after: PolicySource) -> Planned:
        """See the port."""
        sources = [after] if before is None else [before, after]
        async with contextlib.aclosing(self._steps({"do": "plan"}, sources)) as steps:
            async for step in steps:
                if isinstance(step, Planned):
                    return dataclasses.replace(step, at=self._clock.unix())
        raise ResourceExhausted("comparing two policies: no result came")

    async def _steps(
        self, task: Mapping[str, object], sources: list[PolicySource]
    ) -> AsyncGenerator[Step, None]:
        packed = [await asyncio.to_thread(source.pack) for source in sources]
        head = json.dumps({**task, "sizes": [len(one) for one in packed]}).encode("ascii") + b"\n"
        async with self._turn:
            child = await self._started()
            talking = asyncio.ensure_future(_feed(child, [head, *packed]))
            story = asyncio.ensure_future(_story(child))
            try:
                async with asyncio.timeout(self._wall_seconds):
                    assert child.stdout is not None
                    while line := await child.stdout.readline():
                        yield read_step(line.decode())
                    code = await child.wait()
            except TimeoutError:
                raise ResourceExhausted(
                    f"compiling the policy: not done within {self._wall_seconds:g} s", hint=_SMALLER
                ) from None
            except (ValueError, Corrupt) as error:
                raise Unavailable(
                    f"compiling the policy: the compiler's answer can't be read ({error})"
                ) from error
            finally:
                talking.cancel()
                if child.returncode is None:
                    child.kill()
                    await child.wait()
            if code:
                _log.error("policy_compiler_ended", code=code, story=await story)
            if code < 0:
                raise ResourceExhausted(
                    f"compiling the policy: signal {-code} ended it, most likely for its memory or CPU time",
                    hint=_SMALLER,
                )
            if code:
                raise Bug("compiling the policy: the compiler failed", hint="the server's log has the story")

    async def _started(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "control_plane.rollout.compiling",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:
            raise Unavailable(
                f"compiling the policy: no process can be started ({error.strerror})", hint="try again"
            ) from error


async def _feed(child: asyncio.subprocess.Process, parts: list[bytes]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(ConnectionError):
        child.stdin.writelines(parts)
        await child.stdin.drain()
        child.stdin.close()


async def _story(child: asyncio.subprocess.Process) -> str:
    """The end of what the child says on standard error; read to its end, so that it never blocks on it."""
    assert child.stderr is not None
    told = b""
    while piece := await child.stderr.read(MAX_STORY_BYTES):
        told = (told + piece)[-MAX_STORY_BYTES:]
    return told.decode("utf-8", "replace")


_SMALLER: Final = "split the policy, or leave out of the inventory what no rule speaks of"
