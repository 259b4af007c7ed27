"""10,000 agents come back at one instant, as after a network split: is everyone served, at what price?

`python -m bench.reconnect [--agents 10000] [--crowds 4]`: a server as an operator starts it, with its default
rate limits, in processes of its own. The agents are rows of its registry with certificates of its authority.
All come from one address, which is the worst case for limits (a data centre behind one NAT), and none waits
for another. They are played by `--crowds` processes (`_crowd`, where it says what an agent does) on the same
processors as the server: the time until all are served is that of both, the server's own share is told in
seconds of processor. On a machine that has much else to do, agents run out of time because of their own
slowness, which real ones with a processor each don't have, and try again: run it alone. All connections stay
open until the last agent has everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench._crowd import PATIENCE_SECONDS, Outcome
from bench.report import Result, command_line, tell
from control_plane.core.spiffe_id import TrustDomain

LIMIT_MIB = 1024.0
"""What the whole server, all processes, may weigh while 10,000 agents are connected and watch."""
LIMIT_SECONDS = 600.0
"""Until all 10,000 are served, on two processors that the agents share, and perhaps others."""
START_SECONDS = 60.0
TRUST_DOMAIN = TrustDomain("bench.test")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Storm:
    """How it went: what the agents saw, and what the server's processes together weighed (before, at most,
    and with all connected) and worked."""

    outcome: Outcome
    before_mib: float
    peak_mib: float
    end_mib: float
    cpu_seconds: float


class Scales:
    """Weight and work of the server's processes together; the weight is looked at once a second."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self.before_mib = self.peak_mib = self._mib()
        self._cpu_before = self._cpu()
        self.cpu_seconds = self.end_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks a last time."""
        self._stop.set()
        self._thread.join()
        self.cpu_seconds = self._cpu() - self._cpu_before
        self.end_mib = self._mib()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.peak_mib = max(self.peak_mib, self._mib())

    def _mib(self) -> float:
        """Pages that several of the processes share count once, as a share of each (Pss, proc(5))."""
        shares = [
            re.search(r"^Pss: +([0-9]+) kB", self._read(pid, "smaps_rollup"), re.M) for pid in self._pids
        ]
        return sum(int(share[1]) for share in shares if share) / 1024

    def _cpu(self) -> float:
        ticks = 0
        for pid in self._pids:
            after_name = self._read(pid, "stat").rpartition(")")[2].split()
            ticks += int(after_name[11]) + int(after_name[12])  # utime, stime (proc(5))
        return ticks / TICKS

    @staticmethod
    def _read(pid: int, name: str) -> str:
        """Fails if one of the processes has ended, which none may."""
        return Path(f"/proc/{pid}/{name}").read_text()


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def storm(data: Path, pid: int, agents: int, crowds: int) -> Storm:
    """Enrols agents at the running server `pid` and has all of them come back at one instant."""
    address = json.loads((data / "server.json").read_text())["address"]
    port = address.rpartition(":")[2]
    with contextlib.ExitStack() as open_until_the_end:
        processes = []
        for number in range(crowds):
            count = agents // crowds + (number < agents % crowds)
            words = [str(data), TRUST_DOMAIN.name, port, str(number), str(count)]
            process = subprocess.Popen(
                [sys.executable, "-m", "bench._crowd", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            open_until_the_end.enter_context(process)
            open_until_the_end.callback(process.kill)
            processes.append(process)
        for process in processes:
            _line(process, "ready")
        time.sleep(1)  # the issuers take in what was written
        scales = Scales(family(pid))
        try:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("now\n")
            outcomes = [Outcome(**json.loads(_line(process, "{"))) for process in processes]
        finally:
            scales.stop()
    return Storm(
        outcomes[0].with_others(outcomes[1:]),
        scales.before_mib,
        scales.peak_mib,
        scales.end_mib,
        scales.cpu_seconds,
    )


def _line(process: subprocess.Popen[str], beginning: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(beginning):
        raise RuntimeError(f"a crowd ended without having said {beginning!r}, but {line[:200]!r}")
    return line


@contextlib.contextmanager
def server_in(folder: Path) -> Iterator[tuple[Path, int]]:
    """A server of its own, with its defaults: its data directory and process."""
    data = folder / "server"
    flags = ["--data-dir", str(data), "--trust-domain", TRUST_DOMAIN.name, "--bind", "127.0.0.1:0"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "control_plane", "server", "run", *flags], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ((data / "server.json").exists() and (data / "bundle.pem").exists()):
            if process.poll() is not None or time.monotonic() > deadline:
                told = (folder / "server.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the server doesn't serve:\n{told}")
            time.sleep(0.1)
        yield data, process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Runs it all and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--crowds", type=int, default=4)
    arguments = parser.parse_args()
    count = arguments.agents
    with tempfile.TemporaryDirectory(prefix="gh") as folder, server_in(Path(folder)) as (data, pid):
        seen = storm(data, pid, count, arguments.crowds)
    outcome = seen.outcome
    for words, times in sorted(outcome.refusals.items(), key=lambda item: -item[1])[:8]:
        print(f"  {times} attempts ended with: {words}")
    waited = outcome.waited or [PATIENCE_SECONDS]
    print(
        f"  half were served after {waited[len(waited) // 2]:.1f} s, all after {waited[-1]:.1f} s; "
        f"{outcome.banned} banned; processor: server {seen.cpu_seconds:.1f} s, "
        f"agents {outcome.cpu_seconds:.1f} s; server {seen.before_mib:.0f} MiB before, "
        f"{seen.peak_mib:.0f} MiB at its peak, {seen.end_mib:.0f} MiB with all connected"
    )
    tell(
        Result(
            name=f"{count} agents reconnect at one instant: served, and none banned",
            value=f"{outcome.served - outcome.banned} agents",
            peer=f"all {count}",
            ratio=(outcome.served - outcome.banned) / count,
            goal=1.0,
            more_is_better=True,
        )
    )
    tell(
        Result(
            name=f"{count} agents reconnect at one instant: time until the last is served",
            value=f"{waited[-1]:.0f} s",
            peer=f"a limit of {LIMIT_SECONDS:.0f} s",
            ratio=waited[-1] / LIMIT_SECONDS,
            goal=1.0,
        )
    )
    tell(
        Result(
            name=f"memory of the server, all processes, with {count} agents watching",
            value=f"{seen.peak_mib:.0f} MiB",
            peer=f"a limit of {LIMIT_MIB:.0f} MiB",
            ratio=seen.peak_mib / LIMIT_MIB,
            goal=1.0,
        )
    )


if __name__ == "__main__":
    main()
