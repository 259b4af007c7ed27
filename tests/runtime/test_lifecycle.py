"""Services of a process start together, and a signal or a failure ends them together."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import Bug, Unavailable
from control_plane.runtime import log
from control_plane.runtime.lifecycle import Ending, notify, run_services

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Waiting:
    def __init__(self) -> None:
        self.ended = False

    async def run(self, stop: asyncio.Event) -> None:
        try:
            await stop.wait()
        finally:
            self.ended = True


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def run(self, stop: asyncio.Event) -> None:
        await asyncio.sleep(0.05)
        raise self._error


class Stubborn:
    async def run(self, stop: asyncio.Event) -> None:
        await asyncio.sleep(60)


def test_a_signal_stops_all(run: Run) -> None:
    first, second = Waiting(), Waiting()

    def started() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    run(run_services({"first": first, "second": second}, started=started))
    assert first.ended and second.ended


@pytest.mark.parametrize(
    ("error", "expected"), [(ValueError("boom"), Bug), (Unavailable("no port"), Unavailable)]
)
def test_a_failure_ends_the_others_and_is_raised(
    run: Run, error: Exception, expected: type[Exception]
) -> None:
    waiting = Waiting()
    with pytest.raises(expected, match=r"boom|no port"):
        run(run_services({"waiting": waiting, "failing": Failing(error)}))
    assert waiting.ended


def test_one_that_does_not_stop_is_cut_and_told(run: Run) -> None:
    with pytest.raises(Bug, match="stubborn"):
        run(
            run_services(
                {"stubborn": Stubborn()},
                started=lambda: os.kill(os.getpid(), signal.SIGINT),
                grace_seconds=0.1,
            )
        )


def test_a_second_signal_does_not_wait(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in (0.05, 0.2):
            loop.call_later(delay, os.kill, os.getpid(), signal.SIGTERM)
        started = loop.time()
        await run_services({"stubborn": Stubborn()}, grace_seconds=30)
        assert loop.time() - started < 5

    run(main())


def test_systemd_is_told(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_dir / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_dir / "n"))
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    notify("READY=1")  # nobody listens any more; not our problem
    monkeypatch.setenv("NOTIFY_SOCKET", "relative")
    notify("READY=1")


class Times:
    def __init__(self, *times: float) -> None:
        self._times = list(times)

    def __call__(self) -> float:
        return self._times.pop(0)


@pytest.fixture
def told() -> io.StringIO:
    """What is logged."""
    written = io.StringIO()
    log.configure(stream=written)
    return written


def test_the_end_is_told_with_its_reason_and_how_it_went(run: Run, told: io.StringIO) -> None:
    with Ending("agent", Times(100.0, 160.0, 160.25)) as ending:
        run(
            run_services(
                {"waiting": Waiting()}, started=lambda: os.kill(os.getpid(), signal.SIGTERM), ending=ending
            )
        )
    stopping, stopped = map(json.loads, told.getvalue().splitlines())
    assert (stopping["event"], stopping["reason"]) == ("agent_stopping", "SIGTERM")
    assert (stopped["event"], stopped["reason"], stopped["level"]) == ("agent_stopped", "SIGTERM", "info")
    assert (stopped["clean"], stopped["took_seconds"], stopped["ran_seconds"]) == (True, 0.25, 60.0)


def test_an_end_by_failure_is_not_clean(run: Run, told: io.StringIO) -> None:
    with pytest.raises(Unavailable), Ending("server") as ending:
        run(run_services({"failing": Failing(Unavailable("no port"))}, ending=ending))
    stopped = json.loads(told.getvalue().splitlines()[-1])
    assert (stopped["reason"], stopped["clean"]) == ("failing failed", False)
    assert stopped["troubles"] == ["no port"] and stopped["level"] == "error"


def test_a_start_that_fails_is_no_end(told: io.StringIO) -> None:
    with pytest.raises(Unavailable), Ending("server"):
        raise Unavailable("no port")
    assert told.getvalue() == ""


@pytest.mark.parametrize("outlives_its_terminal", [False, True])
def test_a_closed_terminal_ends_a_process_in_order(outlives_its_terminal: bool) -> None:
    """Without a word it would leave its sockets behind, and nobody would know why. nohup says otherwise."""
    code = (
        "import asyncio, os, signal, sys\n"
        "from control_plane.runtime.lifecycle import Ending, run_services\n"
        "from control_plane.runtime import log\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if outlives_its_terminal else 'SIG_DFL'})\n"
        "class Waiting:\n"
        "    async def run(self, stop):\n"
        "        os.kill(os.getpid(), signal.SIGHUP)\n"
        "        await asyncio.sleep(0.2)\n"
        "        if not stop.is_set(): os.kill(os.getpid(), signal.SIGTERM)\n"
        "        await stop.wait()\n"
        "log.configure(level='info', json=True)\n"
        "with Ending('agent') as ending: asyncio.run(run_services({'one': Waiting()}, ending=ending))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    reason = "SIGTERM" if outlives_its_terminal else "SIGHUP"
    assert [json.loads(line).get("reason") for line in ended.stderr.splitlines()] == [reason, reason]
