"""Ends the processes that a benchmark started: when it is told to end, and what it leaves behind.

A benchmark's own `finally` ends them too, but not where it waits for one of them, nor for what those started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

LEAVING_SECONDS: Final = 5.0
"""How long what a benchmark started may take to end after it."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)


def end_with_us() -> None:
    """From here on, a signal to end ends all that this process started too, in order where that is quick."""
    inherit_orphans()
    for number in _SIGNALS:
        signal.signal(number, _told_to_end)


def inherit_orphans() -> None:
    """Makes us the parent of what our children leave behind, so that we see it and may end it."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def left_behind() -> list[str]:
    """The processes that didn't end within a moment, by their command lines; they are ended."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while (found := children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    told = [f"process {pid}: {command}" for pid, command in found.items()]
    while found:  # theirs become ours as they end
        for pid in found:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        found = children()
    return told


def children() -> dict[int, str]:
    """Our children that run, with the beginning of their command lines; those that ended are laid to rest."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = words.decode(errors="replace")[:120].strip()
    return found


def _told_to_end(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # what is done here is bounded
    for pid in children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    left_behind()
    sys.exit(128 + number)
