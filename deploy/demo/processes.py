"""Processes that outlive the command that started them, and are ended again exactly.

A process is known by its id and the kernel's start time together, since ids are used again. What is not
exactly the process that was started is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Started:
    """A process as it was when it was started."""

    name: str
    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return _start_ticks(self.pid) == self.start_ticks


def start(
    name: str, command: Sequence[str | Path], *, log: Path, folder: Path, environment: Mapping[str, str]
) -> Started:
    """Starts a process that stays when the terminal goes."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    ticks = _start_ticks(process.pid)
    return Started(name, process.pid, ticks if ticks is not None else -1)


def stop(process: Started) -> bool:
    """Asks a process to end, and makes it after a while. False when it had ended before."""
    if not process.is_alive:
        return False
    os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while process.is_alive and time.monotonic() < deadline:
        _reap(process.pid)
        time.sleep(0.02)
    if process.is_alive:
        os.kill(process.pid, signal.SIGKILL)
        _reap(process.pid)
    return True


def save(path: Path, processes: Sequence[Started]) -> None:
    """Writes down what was started; a reader sees the old list or the new one."""
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps([asdict(each) for each in processes], indent=1), encoding="utf-8")
    unfinished.replace(path)


def load(path: Path) -> list[Started]:
    """What was started, as written down; nothing if there is no such file or it is no list of ours."""
    try:
        return [Started(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _start_ticks(pid: int) -> int | None:
    """When a running process was started; None when there is none, or only its remains."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold spaces
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _reap(pid: int) -> None:
    """Collects the exit of a child of this very command; others belong to init."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
