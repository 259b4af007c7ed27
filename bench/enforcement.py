"""From a decision on the server to the wire: policies that come into force, callers that are cut off.

`python -m bench.enforcement [--rounds 20] [--clients 200] [--envoys 50]`: the shop of `make up` with its
three real Envoys, and beside them that many clients that follow a policy over ADS. In each round a version
comes into force that lets the front end read receipts, and the one before comes back; then the front end is
cut off and let in again. A client asks through the front end's Envoy all the time; the clock runs from before
the call of the management API until the answer is another. Told is the slowest of the rounds (the 99th
percentile of so few) beside two seconds, and the agent's memory with that many Envoys beside its limit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench._shop import FRONTEND, PAYMENTS, ROOT, Shop, shop
from bench.report import Result, command_line, tell

LIMIT_SECONDS = 2.0
LIMIT_MIB = 150.0
PAUSE_SECONDS = 4.0  # people don't decide more often; the agent has a compiler ready again by then
RECEIPTS = """
# METADATA
# title: The front end reads receipts
allow if {
	to("payments")
	input.source.spiffe_id == frontend
	input.request.method == "GET"
	input.request.path == "/v1/receipts"
}
"""


class Crowd:
    """The clients, in a process of their own that runs as the payment service."""

    def __init__(self, running: Shop, count: int) -> None:
        service = {
            "name": "payments",
            "spiffe_id": PAYMENTS,
            "inbound": [{"listen": "127.0.0.1:8080", "upstream": "127.0.0.1:18080", "protocol": "http"}],
        }
        command = running.agent_program(
            "-m", "bench._xds_crowd", str(running.folder / "agent.sock"), str(count), json.dumps(service)
        )
        self.count = count
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready", "the crowd should have its policy"

    def told(self) -> tuple[int, float]:
        """How many were sent something since the last call, and when the last of them had it."""
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        return int(answer["told"]), float(answer["last"])

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(20)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def crowd(running: Shop, count: int) -> Iterator[Crowd]:
    """The clients, connected."""
    one = Crowd(running, count)
    try:
        yield one
    finally:
        one.close()


def admit_crowd(running: Shop) -> None:
    """Lets a program of the crowd's be the payment service too."""
    (link,) = running.agent_program()
    running.register(PAYMENTS, f"unix:path:{Path(link).resolve()}")
    command = running.agent_program("-m", "agent", "api", "fetch", "x509", "--data-dir", str(running.folder))
    deadline = time.monotonic() + 60
    while subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60).returncode:
        assert time.monotonic() < deadline, "the crowd should get its identity"


def rounds(
    running: Shop, many: Crowd, count: int, change: Callable[[int], Any]
) -> tuple[list[float], list[float]]:
    """Seconds until the wire showed each change, and until all clients had it."""
    on_wire: list[float] = []
    pushed: list[float] = []
    many.told()
    for number in range(count):
        began = time.monotonic()
        wanted, path = change(number)
        on_wire.append(running.until_status(wanted, path) - began)
        heard, last = 0, 0.0
        while heard < many.count and time.monotonic() - began < 30:
            time.sleep(0.1)
            more, at = many.told()
            heard, last = heard + more, max(last, at)
        assert heard >= many.count, f"{heard} of {many.count} clients were told"
        pushed.append(last - began)
        time.sleep(PAUSE_SECONDS)
    return on_wire, pushed


def measure(running: Shop, count: int, clients: int) -> None:
    """Policy and quarantine."""
    other = running.approved({"authz/authz.rego": lambda text: text + RECEIPTS})
    running.apply(other)
    running.until_status(lambda status: status == 200, "/v1/receipts")

    def apply(number: int) -> tuple[Callable[[int], bool], str]:
        running.roll_back((1, other)[number % 2])
        return (lambda status: status == (403, 200)[number % 2]), "/v1/receipts"

    def quarantine(number: int) -> tuple[Callable[[int], bool], str]:
        if number % 2 == 0:
            running.cut_off(FRONTEND)
            return (lambda status: status != 200), "/v1/charges"
        running.let_in(FRONTEND)
        return (lambda status: status == 200), "/v1/charges"

    with crowd(running, clients) as many:
        for name, change, step in (
            ("policy applied → enforced", apply, 1),
            ("quarantine → refused", quarantine, 2),
        ):
            on_wire, pushed = rounds(running, many, count * step, change)
            for what, times in (
                ("on the wire", on_wire[::step]),
                (f"all {clients} clients told", pushed[::step]),
            ):
                _tell_time(f"{name}, {what}", times)


def _tell_time(name: str, times: list[float]) -> None:
    value = f"{max(times):.2f} s (median {statistics.median(times):.2f}, {len(times)} rounds)"
    tell(Result(name, value, f"a limit of {LIMIT_SECONDS:.0f} s", max(times) / LIMIT_SECONDS, 1.0))


def memory(running: Shop, envoys: int) -> None:
    """Of the agent and its children, with the real Envoys and so many more clients."""
    with crowd(running, envoys - 3):
        time.sleep(2)
        own, children = resident_mib(running.process("agent").pid)
    value = f"{own + children:.0f} MiB ({own:.0f}, and {children:.0f} of the waiting compiler)"
    tell(
        Result(
            f"agent with {envoys} Envoys", value, f"{LIMIT_MIB:.0f} MiB", (own + children) / LIMIT_MIB, 1.0
        )
    )


def resident_mib(pid: int) -> tuple[float, float]:
    """Resident memory of a process, and that of its children."""

    def of(one: int) -> float:
        return int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return of(pid), sum(of(int(child)) for child in found)


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--envoys", type=int, default=50)
    arguments = parser.parse_args()
    with shop() as running:
        admit_crowd(running)
        memory(running, arguments.envoys)
        measure(running, arguments.rounds, arguments.clients)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
