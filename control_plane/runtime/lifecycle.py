"""How a process lives: its services run together, a signal or a failure ends them together.

A service runs until `stop` is set and then returns soon; it releases what it holds in `finally`. Expected
errors it handles itself. One that gets out ends the whole process, loudly: half a process helps nobody.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from control_plane.core.errors import Bug, GatehouseError
from control_plane.runtime.log import Log, get_logger

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service(Protocol):
    """Something that runs as long as its process."""

    async def run(self, stop: asyncio.Event) -> None:
        """Returns soon after `stop` is set. Returning before is fine when the work is done."""


class Ending:
    """Says in the log that a program ends, and why; and once it has, how long that took and whether it went
    as it should. A context manager around the life of the program, until all is given back. Says nothing of
    a program that never came to run its services: that is an error of the start."""

    def __init__(self, program: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._program = program
        self._monotonic = monotonic
        self._log = get_logger("lifecycle")
        self._started_at = 0.0
        self._reason = ""
        self._began_at = 0.0
        self._troubles: list[str] = []

    def begin(self, reason: str) -> None:
        """The program is about to end: the first reason counts."""
        if not self._reason:
            self._reason, self._began_at = reason, self._monotonic()
            self._log.info(f"{self._program}_stopping", reason=reason)

    def trouble(self, what: str) -> None:
        """Something didn't end as it should."""
        self._troubles.append(what)

    def __enter__(self) -> Self:
        self._started_at = self._monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._reason:
            return
        if error is not None:
            self._troubles.append(str(error) or type(error).__name__)
        now = self._monotonic()
        about = {
            "reason": self._reason,
            "clean": not self._troubles,
            "took_seconds": round(now - self._began_at, 3),
            "ran_seconds": round(self._began_at - self._started_at, 3),
        }
        if self._troubles:
            self._log.error(f"{self._program}_stopped", **about, troubles=self._troubles)
        else:
            self._log.info(f"{self._program}_stopped", **about)


async def run_services(
    services: Mapping[str, Service],
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[], None] | None = None,
    grace_seconds: float = 30.0,
    log: Log | None = None,
    ending: Ending | None = None,
) -> None:
    """Runs all services until a signal, `stop` or the first failure; then gives them time to end.

    `started` is called once all run. A second signal doesn't wait for the grace. `ending` is told the reason.

    Raises:
        GatehouseError: the failure of a service, the first of several.
        Bug: a service failed with an exception that nobody meant, or didn't end in time.
    """
    log = log or get_logger("lifecycle")
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    failures: list[tuple[str, BaseException]] = []
    tasks = {loop.create_task(_run(name, each, stop, failures, log)): name for name, each in services.items()}

    reasons: list[str] = []

    def on_signal(number: signal.Signals) -> None:
        reasons.append(number.name)
        if stop.is_set():
            for task in tasks:
                task.cancel()
        stop.set()

    # A closed terminal ends us in order as well, unless we were started to outlive it, as by nohup.
    hang_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []
    signals = [*_SIGNALS, *hang_up]
    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    try:
        notify("READY=1")
        if started is not None:
            started()
        stopping = loop.create_task(stop.wait())
        everything = asyncio.gather(*tasks, return_exceptions=True)
        first: list[asyncio.Future[Any]] = [stopping, everything]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ending is not None:
            reasons += [f"{name} failed" for name, _ in failures]
            ending.begin(reasons[0] if reasons else "nothing left to do")
        notify("STOPPING=1")
        _, late = await asyncio.wait(tasks, timeout=grace_seconds) if tasks else (set(), set())
        for task in late:
            log.error("service_did_not_stop", service=tasks[task], grace_seconds=grace_seconds)
            failures.append(
                (tasks[task], TimeoutError(f"still running {grace_seconds:g} s after the signal"))
            )
            task.cancel()
        await everything
    finally:
        for task in tasks:
            task.cancel()
        for number in signals:
            loop.remove_signal_handler(number)
    if failures:
        name, error = failures[0]
        if isinstance(error, GatehouseError):
            raise error
        raise Bug(f"service {name} failed: {type(error).__name__}: {error}") from error


async def _run(
    name: str, service: Service, stop: asyncio.Event, failures: list[tuple[str, BaseException]], log: Log
) -> None:
    try:
        await service.run(stop)
    except GatehouseError as error:
        log.error("service_failed", service=name, kind=error.kind, reason=str(error))
        failures.append((name, error))
        stop.set()
    except Exception as error:  # the border of a process: whatever it is, it must end loudly
        log.exception("service_failed", service=name)
        failures.append((name, error))
        stop.set()


def notify(state: str) -> None:
    """Tells systemd (sd_notify(3)), if it started us and wants to know; never fails, never blocks."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
        try:
            out.sendto(state.encode(), address)
        except OSError as error:
            get_logger("lifecycle").warning("sd_notify_failed", reason=str(error))
