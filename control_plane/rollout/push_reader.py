"""Reads a pushed body without holding up whoever else is served: small ones here, large ones by a child."""

import asyncio
import sys
from typing import Final

from control_plane.core.errors import ResourceExhausted, Unavailable
from control_plane.rollout.push_body import PushBody, parse_push, read_push
from control_plane.runtime.log import get_logger

SMALL_BYTES: Final = 32 << 10
"""Read within a millisecond or two; a child costs a hundred."""
WALL_SECONDS: Final = 120.0

_turn = asyncio.Semaphore(1)
_log = get_logger("policy")


async def read_body(body: bytes) -> PushBody:
    """The push. Raises as `parse_push`, and Unavailable where no process can be started."""
    if len(body) <= SMALL_BYTES:
        return parse_push(body)
    async with _turn:
        written = await _by_child(body)
    return await asyncio.to_thread(read_push, written)


async def _by_child(body: bytes) -> bytes:
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "control_plane.rollout.push_body",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise Unavailable(
            f"reading a pushed policy: no process can be started ({error.strerror})", hint="try again"
        ) from error
    try:
        async with asyncio.timeout(WALL_SECONDS):
            written, story = await child.communicate(body)
    except TimeoutError as error:
        raise Unavailable(f"reading a pushed policy: not done within {WALL_SECONDS:g} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        _log.error("push_reader_ended", code=child.returncode, story=story[-1000:].decode("utf-8", "replace"))
        raise ResourceExhausted(
            "reading a pushed policy: it needs more memory or time than is granted", hint="split the policy"
        )
    return written
