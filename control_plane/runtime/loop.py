"""How a process of ours starts its event loop: uvloop, a patient collector, as many files as it may have."""

import asyncio
import gc
import resource
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` to its end on a new uvloop, as asyncio.run does."""
    raise_file_limit()
    calm_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def calm_collector() -> None:
    """Has the cyclic collector run rarely.

    With thousands of connections a full collection stops the loop for a tenth of a second and more, and finds
    next to nothing: connections, calls and messages are freed when the last reference goes.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def raise_file_limit() -> None:
    """Sets the soft limit of open files to the hard one: each connection is a file, and so is its pidfd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
