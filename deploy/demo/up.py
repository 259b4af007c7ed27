"""`make up`: starts a server, an agent, two workloads that hold SVIDs themselves, and a shop behind Envoys.

Every step is looked at before it is done, so a second run starts only what is missing. Each step that waits
has a deadline and, when it passes, says what it waited for and shows the end of the log that will tell why.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deploy.demo import database, mesh, people, place, policy, processes, shown, trial
from deploy.demo.mesh import SERVICES, Shop, free_network
from deploy.demo.processes import Started
from deploy.demo.trial import Trial

WORKLOADS = ("warehouse", "storefront")
STRANGER = "stranger"
DEADLINE_SECONDS = 60.0


class DemoFailed(Exception):
    """A step did not come to its end; the message says which, and where to look."""


def up() -> None:
    """Starts what does not run yet, then shows what runs."""
    place.DEMO.mkdir(parents=True, exist_ok=True)
    running = {each.name: each for each in processes.load(place.STATE) if each.is_alive}
    places = _places(bool(running))
    ports = {"server": places["server"], "warehouse": places["warehouse"]}
    envoys = {f"envoy-{service}": service for service in SERVICES}
    applications = {f"shop-{name}" for name in mesh.APPLICATIONS}
    if {"server", "agent", *WORKLOADS, *envoys, *applications} <= running.keys():
        shown.step("running", "all of it already; `make down` stops it")
    fresh_server, fresh_agent = "server" not in running, "agent" not in running
    _start(running, "server", _server_command(ports))
    _programs()  # while the server starts
    shop = _shop(places)
    for name, command in shop.applications().items():
        _start(running, f"shop-{name}", command)
    if fresh_server:
        _until_serving("server", place.data_dir() / "server.sock", place.gatehouse("healthcheck"))
        shown.step("server", f"trust domain {place.TRUST_DOMAIN}, 127.0.0.1:{ports['server']}")
    if fresh_agent:
        knows_itself = (place.DATA / "agent.cache").exists()
        _start(running, "agent", _agent_command(ports, with_token=not knows_itself))
    _entries()  # while the agent attests
    if fresh_agent:
        _await_agent(running, ports, knows_itself)
    for name, command in _workload_commands(ports).items():
        _start(running, name, command)
    for name, service in envoys.items():
        _start(running, name, shop.envoy_command(service))
    policy.bring_into_force(answer)
    trials = _trials(shop)
    _await_event("storefront", "answered", "the first answer over mutual TLS")
    shown.picture(ports, shop, trials, _exchange(), _refusal(), _identities())


def _places(keep: bool) -> dict[str, Any]:
    """The ports and the loopback network of this run: kept while something runs, chosen anew otherwise."""
    path = place.DEMO / "ports.json"
    if keep and path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    places = {"server": place.free_port(), "warehouse": place.free_port(), "network": free_network()}
    path.write_text(json.dumps(places), encoding="utf-8")
    return places


def _shop(places: dict[str, Any]) -> Shop:
    """The shop, with the database that it has or can have."""
    if "database" not in places:
        places["database"] = _database()
        (place.DEMO / "ports.json").write_text(json.dumps(places), encoding="utf-8")
    return Shop.of(places)


def _database() -> str:
    """The socket of PostgreSQL, whose tables are there; empty where it can't be used."""
    try:
        found = database.prepared()
    except database.NoDatabase as why:
        shown.step("database", f"a small TCP service: {why}")
        return ""
    as_whom = f", as {found.user.pw_name}" if found.user is not None else ""
    shown.step("database", f"PostgreSQL in {found.programs}{as_whom}")
    return str(found.socket)


def _trials(shop: Shop) -> list[Trial]:
    """What the policy lets through and what not, tried on the running Envoys."""
    _until(lambda: trial.serves(shop), "envoy-payments", "an allowed request from Envoy to Envoy")
    found = trial.all_of(shop)
    if wrong := [one for one in found if one.allowed is not one.expected]:
        raise DemoFailed(f"the Envoys don't do what the policy says: {wrong}")
    return found


def _server_command(ports: dict[str, int]) -> list[str]:
    """What starts the server."""
    return place.gatehouse(
        "server", "run", "--config", str(people.settings()), "--data-dir", str(place.data_dir()),
        "--trust-domain", place.TRUST_DOMAIN, "--bind", f"127.0.0.1:{ports['server']}",
    )  # fmt: skip


def _agent_command(ports: dict[str, int], *, with_token: bool) -> list[str]:
    """What starts the agent: with the server's trust bundle, and perhaps a token that lets it attest once."""
    with ThreadPoolExecutor() as pool:
        shown_bundle = pool.submit(answer, "bundle", "show")
        token = pool.submit(answer, "token", "generate", "--spiffe-id", place.NODE) if with_token else None
    bundle = place.DEMO / "bundle.pem"
    bundle.write_text(shown_bundle.result()["pem"], encoding="ascii")
    return place.gatehouse_agent(
        "run", "--data-dir", str(place.data_dir()), "--trust-domain", place.TRUST_DOMAIN,
        "--server", f"127.0.0.1:{ports['server']}", "--trust-bundle", str(bundle),
        *(["--join-token", token.result()["token"]] if token else []),
    )  # fmt: skip


def _await_agent(running: dict[str, Started], ports: dict[str, int], knows_itself: bool) -> None:
    """Waits until the agent serves; one that could not go on with what it remembers attests anew."""
    socket_path, healthcheck = place.data_dir() / "agent.sock", place.gatehouse_agent("healthcheck")
    try:
        _until_serving("agent", socket_path, healthcheck)
    except DemoFailed:
        if not knows_itself or running.pop("agent").is_alive:
            raise
        knows_itself = False
        _start(running, "agent", _agent_command(ports, with_token=True))
        _until_serving("agent", socket_path, healthcheck)
    shown.step("agent", "came back as it was" if knows_itself else "attested with a join token")


def _programs() -> None:
    """A program of its own for each workload: one user runs all, so the path must tell them apart."""
    for service in SERVICES:
        mesh.program(service)
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
    programs = {place.spiffe_id(name): place.interpreter(name).resolve() for name in WORKLOADS}
    programs |= {mesh.spiffe_id(service): mesh.program(service) for service in SERVICES}
    missing = [
        {"spiffe_id": spiffe_id, "parent_id": place.NODE, "selectors": [f"unix:path:{program}"]}
        for spiffe_id, program in programs.items()
        if spiffe_id not in known
    ]
    if not missing:
        return
    path = place.DEMO / "entries.json"
    path.write_text(json.dumps(missing, indent=1), encoding="utf-8")
    answer("entry", "create", "--data", str(path))
    for entry in missing:
        program = shown.short_text(entry["selectors"][0].removeprefix("unix:path:"))
        shown.step("entry", f"{entry['spiffe_id']} is who runs {program}")


def _workload_commands(ports: dict[str, int]) -> dict[str, list[str]]:
    """What each workload runs."""
    api = str(place.data_dir() / "agent.sock")
    port = str(ports["warehouse"])
    return {
        "warehouse": _workload(
            "warehouse", "serve", api, "--port", port, "--allow", place.spiffe_id("storefront")
        ),
        "storefront": _workload(
            "storefront", "call", api, "--port", port, "--expect", place.spiffe_id("warehouse")
        ),
    }


def _workload(name: str, role: str, api: str, *flags: str) -> list[str]:
    """One role of `workload.py`, run by the workload's own interpreter."""
    return [str(place.interpreter(name)), "-m", "deploy.demo.workload", role, "--socket", api, *flags]


def _exchange() -> dict[str, Any]:
    """The newest exchange that both sides told of."""
    answered = shown.newest(place.log_of("storefront"), "answered") or {}
    served = shown.newest(place.log_of("warehouse"), "served") or {}
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


def _until_serving(name: str, path: Path, healthcheck: list[str]) -> None:
    """Waits until somebody listens at a socket (cheap to ask), and then until it says that it serves."""
    _until(lambda: _listens(path), name, f"a listener at {path}")
    command = [*healthcheck, "--data-dir", str(place.data_dir())]
    _until(
        lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, name, f"the {name}"
    )


def _listens(path: Path) -> bool:
    """Whether a connection to a unix socket is accepted."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


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
