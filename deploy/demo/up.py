"""`make up`: starts a server, an agent and two workloads, and shows that they work.

Every step is looked at before it is done, so a second run starts only what is missing. Each step that waits
has a deadline and, when it passes, says what it waited for and shows the end of the log that will tell why.
"""

from __future__ import annotations

import json
import subprocess
import time
import venv
from collections.abc import Callable
from typing import Any

from deploy.demo import place, processes, shown
from deploy.demo.processes import Started

WORKLOADS = ("payments", "storefront")
STRANGER = "stranger"
DEADLINE_SECONDS = 30.0


class DemoFailed(Exception):
    """A step did not come to its end; the message says which, and where to look."""


def up() -> None:
    """Starts what does not run yet, then shows what runs."""
    place.DEMO.mkdir(parents=True, exist_ok=True)
    running = {each.name: each for each in processes.load(place.STATE) if each.is_alive}
    if {"server", "agent", *WORKLOADS} <= running.keys():
        shown.step("everything runs already", "`make down` stops it")
    settings = _settings(bool(running))
    _server(running, settings)
    _interpreters()
    _agent(running, settings)
    _entries()
    for name, command in _workload_commands(settings).items():
        _start(running, name, command)
    _await_event("storefront", "answered", "the first answer over mutual TLS")
    shown.picture(settings, _exchange(), _refusal(), _identities())


def _settings(keep: bool) -> dict[str, int]:
    """The ports of this run: kept while something runs, chosen anew otherwise."""
    path = place.DEMO / "ports.json"
    if keep and path.exists():
        kept: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    ports = {"server": place.free_port(), "payments": place.free_port()}
    path.write_text(json.dumps(ports), encoding="utf-8")
    return ports


def _server(running: dict[str, Started], ports: dict[str, int]) -> None:
    """The server, serving."""
    if "server" in running:
        return
    flags = ("--data-dir", str(place.data_dir()), "--trust-domain", place.TRUST_DOMAIN)
    command = place.gatehouse("server", "run", *flags, "--bind", f"127.0.0.1:{ports['server']}")
    _start(running, "server", command)
    healthcheck = place.gatehouse("healthcheck", "--data-dir", str(place.data_dir()), "--timeout", "2")
    _until(lambda: _succeeds(healthcheck), "server", "the server to serve")
    shown.step("server", f"trust domain {place.TRUST_DOMAIN}, 127.0.0.1:{ports['server']}")


def _agent(running: dict[str, Started], ports: dict[str, int]) -> None:
    """The agent, attested by a join token and serving the Workload API."""
    if "agent" in running:
        return
    data = str(place.data_dir())
    bundle = place.DEMO / "bundle.pem"
    bundle.write_text(answer("bundle", "show")["pem"], encoding="ascii")
    token = answer("token", "generate", "--spiffe-id", place.NODE)["token"]
    command = place.gatehouse_agent(
        "run", "--data-dir", data, "--trust-domain", place.TRUST_DOMAIN,
        "--server", f"127.0.0.1:{ports['server']}", "--trust-bundle", str(bundle), "--join-token", token,
    )  # fmt: skip
    _start(running, "agent", command)
    healthcheck = place.gatehouse_agent("healthcheck", "--data-dir", data)
    _until(lambda: _succeeds(healthcheck), "agent", "the agent to serve")
    shown.step("agent", "attested with a join token")


def _interpreters() -> None:
    """A copy of the interpreter for each workload: one user runs all, so the path must tell them apart."""
    for name in (*WORKLOADS, STRANGER):
        python = place.interpreter(name)
        if python.exists():
            continue
        home = python.parent.parent
        venv.EnvBuilder(symlinks=False, with_pip=False).create(home)
        borrowed = next((place.ROOT / ".venv" / "lib").glob("python3.*/site-packages"))
        own = next((home / "lib").glob("python3.*/site-packages"))
        (own / "gatehouse-demo.pth").write_text(f"import site; site.addsitedir({str(borrowed)!r})\n")
        shown.step("interpreter", f"a copy for {name}")


def _entries() -> None:
    """One registration entry a workload: the path of its interpreter gives it its identity."""
    known = {entry["spiffe_id"] for entry in answer("entry", "show")["entries"]}
    for name in WORKLOADS:
        if place.spiffe_id(name) in known:
            continue
        selector = f"unix:path:{place.interpreter(name).resolve()}"
        answer(
            "entry",
            "create",
            "--spiffe-id",
            place.spiffe_id(name),
            "--parent-id",
            place.NODE,
            "--selector",
            selector,
        )
        shown.step("entry", f"{selector} is {place.spiffe_id(name)}")


def _workload_commands(ports: dict[str, int]) -> dict[str, list[str]]:
    """What each workload runs."""
    api = str(place.data_dir() / "agent.sock")
    port = str(ports["payments"])
    return {
        "payments": _workload(
            "payments", "serve", api, "--port", port, "--allow", place.spiffe_id("storefront")
        ),
        "storefront": _workload(
            "storefront", "call", api, "--port", port, "--expect", place.spiffe_id("payments")
        ),
    }


def _workload(name: str, role: str, api: str, *flags: str) -> list[str]:
    """One role of `workload.py`, run by the workload's own interpreter."""
    return [str(place.interpreter(name)), "-m", "deploy.demo.workload", role, "--socket", api, *flags]


def _exchange() -> dict[str, Any]:
    """The newest exchange that both sides told of."""
    answered = shown.newest(place.log_of("storefront"), "answered") or {}
    served = shown.newest(place.log_of("payments"), "served") or {}
    return {**served, **answered}


def _refusal() -> str:
    """What a process gets that nobody registered."""
    command = _workload(STRANGER, "ask", str(place.data_dir() / "agent.sock"))
    finished = subprocess.run(
        command, cwd=place.ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    lines = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    if finished.returncode == 0 or not lines:
        raise DemoFailed(
            f"the unregistered process was not refused: {finished.stdout}{finished.stderr[-500:]}"
        )
    return str(lines[-1]["reason"])


def _identities() -> dict[str, dict[str, Any]]:
    """What each workload says of its own certificate."""
    found: dict[str, dict[str, Any]] = {}
    for name in WORKLOADS:
        log = place.log_of(name)
        found[name] = shown.newest(log, "renewed") or shown.newest(log, "identity") or {}
    return found


def _start(running: dict[str, Started], name: str, command: list[str]) -> None:
    """Starts one process, unless it runs, and writes it down at once."""
    if name in running:
        return
    place.log_of(name).unlink(missing_ok=True)
    running[name] = processes.start(
        name, command, log=place.log_of(name), folder=place.ROOT, environment={"PYTHONUNBUFFERED": "1"}
    )
    processes.save(place.STATE, list(running.values()))


def answer(*arguments: str) -> Any:
    """The JSON answer of one `gatehouse` command. Raises `DemoFailed` with what it said."""
    command = place.gatehouse(*arguments, "--data-dir", str(place.data_dir()), "--output", "json")
    finished = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    if finished.returncode != 0:
        raise DemoFailed(
            f"`gatehouse {' '.join(arguments)}` failed: {finished.stderr.strip() or finished.stdout}"
        )
    return json.loads(finished.stdout)


def _succeeds(command: list[str]) -> bool:
    """Whether a command ends with 0."""
    return subprocess.run(command, capture_output=True, timeout=DEADLINE_SECONDS, check=False).returncode == 0


def _await_event(name: str, event: str, what: str) -> None:
    """Waits until a workload's log tells of an event."""
    _until(lambda: shown.newest(place.log_of(name), event) is not None, name, what)


def _until(condition: Callable[[], bool], name: str, what: str) -> None:
    """Waits for a condition while the process that brings it about lives. Raises `DemoFailed`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        process = next((each for each in processes.load(place.STATE) if each.name == name), None)
        ended = process is None or not process.is_alive
        if ended or time.monotonic() > deadline:
            why = "the process ended" if ended else f"nothing came within {DEADLINE_SECONDS:.0f} s"
            log = place.log_of(name)
            raise DemoFailed(f"waited for {what}, and {why}; the end of {log}:\n{shown.tail(log)}")
        time.sleep(0.05)
