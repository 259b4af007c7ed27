"""Ten services under load: what mutual TLS, policy, a judging agent and rotation add to a request.

`python -m bench.mesh_load [--seconds 10] [--rate 1000]`: the server and the agent of `make up`, ten more
services behind Envoys of their own, and one Envoy through which they are all called as the front end. Each
gets that many requests a second from wrk, or as many as the machine carries. First without us: the same
Envoys in plain text, no policy. Then with us: mutual TLS, RBAC, one of the ten judged by the agent, and the
authority replaced twice meanwhile. Behind the services is one Envoy that answers by itself, so that little
else is measured. Told is the slowest service's 99th percentile beside its limit; printed are rates, and what
is added.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.envoy.bootstrap import ALONE, FLAGS
from agent.envoy.program import find_envoy
from bench._shop import FRONTEND, ROOT, Shop, shop, until
from bench.report import Result, command_line, skip, tell
from control_plane.cli.policy_files import read_project
from deploy.demo import mesh

SERVICES = 10
CONNECTIONS = 4  # of each service
LIMIT_MILLISECONDS = 200.0
TYPES = "type.googleapis.com/envoy.extensions.filters."
RULES = """
# METADATA
# title: The front end reads what is under load
allow if {
	startswith(input.destination.service, "load-")
	input.source.spiffe_id == frontend
	input.request.method == "GET"
}

# METADATA
# title: One of them is judged by the agent, since Envoy can't count
allow if {
	to("load-0")
	count(input.request.path) > 1000
}
"""
# wrk has no rate: each connection waits as long as is left of its share.
LUA = """
local last = 0
function delay() return {milliseconds} end
"""
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What one service's wrk says."""

    rate: float
    median: float
    p99: float
    failed: int


class Places:
    """Where everything listens: addresses of the shop's own loopback network that it has no use for."""

    def __init__(self, network: int) -> None:
        self._network = network

    def service(self, number: int) -> str:
        """A service's Envoy; the port is the one of the inventory."""
        return f"127.{self._network}.1.{number + 1}:8080"

    def caller(self, number: int) -> str:
        """Where wrk finds that service."""
        return f"127.{self._network}.2.{number + 1}:9001"

    @property
    def backend(self) -> str:
        """What is behind all of them."""
        return f"127.{self._network}.3.1:8080"


def listener(at: str, route: dict[str, Any]) -> dict[str, Any]:
    """A plain HTTP listener with one route."""
    host, _, port = at.partition(":")
    routes = [{"match": {"prefix": "/"}, **route}]
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}http.router.v3.Router"}}
    manager = {
        "@type": f"{TYPES}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [router],
    }
    return {
        "name": at,
        "address": {"socket_address": {"address": host, "port_value": int(port)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def forwarding(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """The configuration of an Envoy that passes on what comes, from each address to another."""
    clusters = []
    for _, target in pairs:
        host, _, port = target.partition(":")
        address = {"socket_address": {"address": host, "port_value": int(port)}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        assignment = {"cluster_name": target, "endpoints": endpoints}
        clusters.append({"name": target, "load_assignment": assignment})
    listeners = [listener(at, {"route": {"cluster": target, "timeout": "0s"}}) for at, target in pairs]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


@contextlib.contextmanager
def running(commands: list[list[str]]) -> Iterator[None]:
    """Processes, until the block ends."""
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield
    finally:
        for one in started:
            one.terminate()
        for one in started:
            one.wait(20)


def static(folder: Path, name: str, document: dict[str, Any]) -> list[str]:
    """The command of an Envoy with a configuration of the benchmark's own."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return [str(find_envoy()), "-c", str(path), *FLAGS, ALONE, "--concurrency", "1", "-l", "error"]


def plain(folder: Path, at: Places) -> list[list[str]]:
    """The same Envoys without us."""
    numbers = range(SERVICES)
    caller = forwarding([(at.caller(number), at.service(number)) for number in numbers])
    return [
        static(folder, "plain-caller", caller),
        *(
            static(folder, f"plain-{number}", forwarding([(at.service(number), at.backend)]))
            for number in numbers
        ),
    ]


def ours(one: Shop, at: Places) -> list[list[str]]:
    """The Envoys as `gatehouse-agent envoy run` starts them, registered and described."""
    frontend = one.folder / "demo" / "envoys" / "frontend" / "envoy"
    commands, programs = [], {}
    outbound = [
        {"name": f"load-{number}", "listen": at.caller(number), "upstream": at.service(number),
         "spiffe_id": identity(number), "protocol": "http"}
        for number in range(SERVICES)
    ]  # fmt: skip
    described = [({"name": "caller", "spiffe_id": FRONTEND, "outbound": outbound}, frontend)]
    for number in range(SERVICES):
        program = one.folder / "demo" / "envoys" / f"load-{number}" / "envoy"
        program.parent.mkdir(exist_ok=True)
        os.link(frontend, program)
        programs[identity(number)] = program
        inbound = [{"listen": at.service(number), "upstream": at.backend, "protocol": "http"}]
        described.append(
            ({"name": f"load-{number}", "spiffe_id": identity(number), "inbound": inbound}, program)
        )
    one.register_all(programs)
    for description, program in described:
        folder = one.folder / "demo" / "envoys" / str(description["name"])
        folder.mkdir(exist_ok=True)
        service = folder / "service.yaml"
        service.write_text(json.dumps(description))
        commands.append(
            [str(Path(sys.executable).parent / "gatehouse-agent"), "envoy", "run", "--service", str(service),
             "--run-dir", str(folder), "--envoy", str(program), "--data-dir", str(one.folder)]
        )  # fmt: skip
    return commands


def identity(number: int) -> str:
    """Of a service under load."""
    return f"spiffe://gatehouse.test/ns/shop/sa/load-{number}"


def bring_into_force(one: Shop) -> None:
    """The starter policy with rules for the ten services."""
    inventory = mesh.INVENTORY.read_text()
    for number in range(SERVICES):
        name = f"load-{number}"
        inventory += (
            f"\n- name: {name}\n  namespace: shop\n  service_account: {name}\n"
            f"  labels: {{app: {name}, env: prod, tier: app}}\n  mode: sidecar\n"
            f"  services:\n  - name: {name}\n    ports:\n"
            "    - {name: http, port: 80, target_port: 8080, protocol: http}\n"
        )
    files = read_project(mesh.POLICY)
    files["authz/authz.rego"] += RULES
    version = one.approved_files(files, inventory)
    one.apply(version)
    until(lambda: one.enforced()["version"] == version, "the policy of the services under load", pause=0.3)


def load(at: Places, folder: Path, seconds: int, rate: int) -> list[Load]:
    """wrk on every service at once."""
    script = folder / "rate.lua"
    script.write_text(LUA.replace("{milliseconds}", str(max(1000 * CONNECTIONS // rate, 0))))
    flags = ["-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--latency", "-s", str(script)]
    started = [
        subprocess.Popen(["wrk", *flags, f"http://{at.caller(number)}/"], stdout=subprocess.PIPE, text=True)
        for number in range(SERVICES)
    ]
    return [_read(one.communicate(timeout=seconds + 60)[0]) for one in started]


def _read(told: str) -> Load:
    def milliseconds(percentile: str) -> float:
        found = re.search(rf"^\s+{percentile}%\s+([0-9.]+)(us|ms|s)$", told, re.MULTILINE)
        if found is None:
            raise RuntimeError(f"wrk says: {told}")
        return float(found[1]) * _UNITS[found[2]]

    rate = re.search(r"Requests/sec:\s+([0-9.]+)", told)
    failed = re.search(r"Non-2xx or 3xx responses: ([0-9]+)", told)
    lost = re.search(r"Socket errors: .*", told)
    return Load(
        float(rate[1]) if rate else 0.0,
        milliseconds("50"),
        milliseconds("99"),
        int(failed[1]) if failed else (1 if lost else 0),
    )


def replace_authority(one: Shop, pause: float) -> None:
    """Another authority signs, and all certificates are replaced, twice."""
    gatehouse = [str(Path(sys.executable).parent / "gatehouse"), "authority", "x509"]
    flags = ["--data-dir", str(one.folder), "--output", "json"]

    def step(*arguments: str) -> Any:
        command = [*gatehouse, *arguments, *flags]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    for _ in range(2):
        time.sleep(pause)
        known = step("prepare")["authorities"]
        old = next(each["authority_id"] for each in known if each["status"].lower() == "active")
        step("activate")
        step("taint", "--authority-id", old)


def answers(at: Places) -> bool:
    """Whether every service answers."""
    from deploy.demo.shop import fetch

    return all(fetch(f"http://{at.caller(number)}/")[0] == 200 for number in range(SERVICES))


def told(what: str, found: list[Load]) -> None:
    """One line."""
    total, cores, judged = sum(one.rate for one in found), os.cpu_count() or 1, found[0]
    print(
        f"{what}: {total:.0f} requests/s, {total / cores:.0f} a core; "
        f"median {found[-1].median:.2f} ms, p99 {max(one.p99 for one in found[1:]):.2f} ms; "
        f"the one that the agent judges: {judged.median:.2f} and {judged.p99:.2f} ms",
        flush=True,
    )


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=1000)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        skip("ten services under load", "it needs wrk: apt-get install wrk")
        return
    with shop() as one:
        at = Places(one.at.network)
        answer = {"direct_response": {"status": 200, "body": {"inline_string": "ok\n"}}}
        backend = {"static_resources": {"listeners": [listener(at.backend, answer)]}}
        with running([static(one.folder, "backend", backend)]):
            with running(plain(one.folder, at)):
                until(lambda: answers(at), "the services without us", pause=0.2)
                without = load(at, one.folder, arguments.seconds, arguments.rate)
            bring_into_force(one)
            with running(ours(one, at)):
                until(lambda: answers(at), "the services with us", pause=0.2)
                rotation = threading.Thread(target=replace_authority, args=(one, arguments.seconds / 3))
                rotation.start()
                found = load(at, one.folder, arguments.seconds, arguments.rate)
                rotation.join()
    told("without us", without)
    told("with us", found)
    added = max(one.p99 for one in found) - max(one.p99 for one in without)
    print(f"added to the 99th percentile: {added:.2f} ms; failed: {sum(one.failed for one in found)}")
    slowest = max(one.p99 for one in found)
    tell(
        Result(
            f"{SERVICES} services at {arguments.rate} requests/s or what is carried, p99",
            f"{slowest:.1f} ms",
            f"a limit of {LIMIT_MILLISECONDS:.0f} ms",
            slowest / LIMIT_MILLISECONDS,
            1.0,
        )
    )
    if failed := sum(one.failed for one in found):
        raise SystemExit(f"{failed} requests failed")


if __name__ == "__main__":
    main()
