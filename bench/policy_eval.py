"""One L7 decision by a specialised closure, beside OPA's own evaluation of the same policy, data and
input.

The peer is `timer_rego_query_eval_ns` of a real `opa` (median of 400 requests, HTTP and parsing not
counted); without one it is regopy, whole query; without either the line is told against the anchor of
21 µs. The second figure is the conformance file, if `GATEHOUSE_CONFORMANCE` names a folder that holds
it.

    python -m bench.policy_eval

"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import timeit
from pathlib import Path
from typing import Any, Final

from bench.report import Result, command_line, tell
from policies.language.builtins.registry import BUILTINS
from policies.language.closures.closure import compile_closure
from policies.language.compiler.compile import compile_modules
from policies.language.conformance import run_cases
from policies.language.syntax.parser import parse_module
from policies.language.values import from_python

GOAL: Final = 0.1
CONFORMANCE_LIMIT_SECONDS: Final = 60.0
ANCHOR_MICROSECONDS: Final = 21.0
REQUESTS: Final = 400

POLICY: Final = """package gatehouse.authz

default allow := false

allow if {
    input.request.method == "GET"
    startswith(input.request.path, "/orders/")
    some role in data.roles[input.source.service_account]
    role == "reader"
}
"""
DATA: Final = {"roles": {f"service-{index}": ["writer", "reader"] for index in range(100)}}
INPUT: Final = {
    "source": {"service_account": "service-7", "namespace": "shop", "trust_domain": "example.org"},
    "destination": {"service": "orders", "port": 8080},
    "request": {
        "method": "GET",
        "path": "/orders/17",
        "host": "orders.shop",
        "headers": {f"x-header-{index}": "value" for index in range(12)},
    },
}


def main() -> None:
    """Prints one line a figure."""
    command_line(__doc__).parse_args()
    ours = ours_microseconds()
    name, peer = peer_microseconds()
    tell(Result("L7 decision by closure", f"{ours:.2f} µs", f"{name} {peer:.1f} µs", ours / peer, GOAL))
    folder = os.environ.get("GATEHOUSE_CONFORMANCE")
    if folder:
        lines = (Path(folder) / "rego" / "cases.jsonl").read_text("utf-8").splitlines()
        started = time.perf_counter()
        report = run_cases(lines, time.perf_counter)
        took = time.perf_counter() - started
        value = f"{took:.1f} s, {len(report.of('wrong'))} wrong"
        limit = f"limit {CONFORMANCE_LIMIT_SECONDS:.0f} s"
        tell(Result("conformance file", value, limit, took / CONFORMANCE_LIMIT_SECONDS, 1.0))


def ours_microseconds() -> float:
    """The best of seven rounds of one decision."""
    modules = compile_modules([parse_module(POLICY)], BUILTINS)
    decide = compile_closure(modules, ("gatehouse", "authz", "allow"), from_python(DATA))
    assert decide.specialised, decide.reason
    assert decide(INPUT)
    rounds = timeit.repeat(lambda: decide(INPUT), number=100_000, repeat=7)
    return min(rounds) / 100_000 * 1e6


def peer_microseconds() -> tuple[str, float]:
    """What is measured beside us, and its time."""
    binary = find_opa()
    if binary is not None:
        return "opa", opa_microseconds(binary)
    try:
        import regopy  # type: ignore[import-not-found] # not a dependency: a peer where it is there
    except ImportError:
        return "the anchor of an earlier run of opa", ANCHOR_MICROSECONDS
    return "regopy", regopy_microseconds(regopy)


def find_opa() -> str | None:
    """An `opa` binary: in the folder that GATEHOUSE_PEERS names, in the cache of `make peers`, or on PATH."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatehouse" / "peers"
    given = os.environ.get("GATEHOUSE_PEERS")
    candidates = [Path(given) / "opa"] if given else []
    candidates += sorted(cache.glob("opa-*/opa"))
    found = next((str(path) for path in candidates if path.is_file()), None)
    return found or shutil.which("opa")


def opa_microseconds(binary: str) -> float:
    """The median of OPA's own evaluation timer."""
    with tempfile.TemporaryDirectory(prefix="gh") as folder:
        policy, data = Path(folder, "policy.rego"), Path(folder, "data.json")
        policy.write_text(POLICY, "utf-8")
        data.write_text(json.dumps(DATA), "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            binary,
            "run",
            "--server",
            "--addr",
            f"127.0.0.1:{port}",
            "--log-level",
            "error",
            str(policy),
            str(data),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _asked(port)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _asked(port: int) -> float:
    deadline = time.monotonic() + 20
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.connect()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    body = json.dumps({"input": INPUT})
    times = []
    for _ in range(REQUESTS):
        connection.request(
            "POST", "/v1/data/gatehouse/authz/allow?metrics", body, {"Content-Type": "application/json"}
        )
        answer = json.loads(connection.getresponse().read())
        assert answer["result"] is True
        times.append(answer["metrics"]["timer_rego_query_eval_ns"] / 1_000)
    connection.close()
    return float(statistics.median(times))


def regopy_microseconds(regopy: Any) -> float:
    """One query of regopy, the input set already."""
    interpreter = regopy.Interpreter()
    interpreter.add_module("policy", POLICY)
    interpreter.add_data_json(json.dumps(DATA))
    interpreter.set_input(INPUT)
    rounds = timeit.repeat(lambda: interpreter.query("data.gatehouse.authz.allow"), number=200, repeat=3)
    return float(min(rounds) / 200 * 1e6)


if __name__ == "__main__":
    main()
