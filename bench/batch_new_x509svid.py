"""`BatchNewX509SVID` over mutual TLS: server CPU per certificate, ours beside the real spire-server's.

One load client, written in Go on SPIRE's API SDK, attests by join token and asks on eight connections. Both
servers run on the same machine in the same run and are asked in turns; all processes of a server are counted,
user and system time, and our ledger is on. The rate limits of both are off.

Skipped, with a line that says so, where the peers are not built.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.report import Result, tell

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = 50
CONNECTIONS = 8
ROUNDS = 3
SECONDS = float(os.environ.get("GATEHOUSE_BENCH_SECONDS", "5"))
MUST, GOAL = 0.6, 0.5


def main() -> int:
    """Measures both servers at both batch sizes."""
    peers, running = _module("interop/peers.py"), _module("fakes/running.py")
    client, spire = peers.find("gatehouse-peer-client"), peers.find("spire-server")
    if client is None or spire is None:
        print("skipped: `make peers` builds the load client and spire-server")
        return 0
    with running.short_folder() as theirs, running.short_folder() as ours:
        limits_off = ours / "server.toml"
        limits_off.write_text("[rate_limits]\nsigning_per_second = 0\nattestation_per_second = 0\n")
        servers = {
            "spire-server": running.SpireServer(theirs, spire),
            "gatehouse": running.GatehouseServer(ours, extra=("--config", str(limits_off))),
        }
        with running.stopping(*servers.values()):
            for server in servers.values():
                server.run()
            for batch in (50, 10):
                _compare(running, servers, client, batch)
    print(f"   (the goal beyond what must hold is {GOAL:g})")
    return 0


def _compare(running: ModuleType, servers: dict[str, Any], client: Path, batch: int) -> None:
    """Both servers in turns, so that what else the machine does meets both; the best round of each counts."""
    best: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        for name, server in servers.items():
            told = _measure(running, server, client, batch)
            if name not in best or told["micros"] < best[name]["micros"]:
                best[name] = told
    for name, told in best.items():
        print(
            f"   batch {batch:>2}, {name:<12} {told['micros']:6.0f} µs CPU each, {told['rate']:6.0f}/s, "
            f"p50 {told['p50_ms']:.1f} ms, p99 {told['p99_ms']:.1f} ms, {told['mib']:.0f} MiB, "
            f"{told['failed']} failed {told['last_error']}"
        )
    ours, theirs = best["gatehouse"]["micros"], best["spire-server"]["micros"]
    figures = f"{ours:.0f} µs CPU each", f"spire-server {theirs:.0f} µs"
    tell(Result(f"BatchNewX509SVID, batch {batch}", *figures, ours / theirs, MUST))


def _measure(running: ModuleType, server: Any, client: Path, batch: int) -> dict[str, Any]:
    """CPU per certificate, rate and latencies of one server in one round of load, by an agent of its own."""
    token = server.token()
    parent = f"spiffe://{server.trust_domain}/spire/agent/join_token/{token}"
    server.register_all(parent, {f"load/{number}": f"unix:uid:{number}" for number in range(ENTRIES)})
    command = [
        str(client), "load", "-server", f"127.0.0.1:{server.port}", "-trust-domain", server.trust_domain,
        "-bundle", str(server.bundle_file()), "-join-token", token, "-batch", str(batch),
        "-connections", str(CONNECTIONS), "-warm", "1s", "-for", f"{SECONDS}s",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None and load.stderr is not None
        begin = load.stdout.readline()
        if not begin:
            raise SystemExit(f"the load client ended: {load.stderr.read()}{running.tail(server.log)}")
        before = server.cpu_seconds()
        told: dict[str, Any] = json.loads(load.stdout.readline())
        spent = server.cpu_seconds() - before
    if not told["issued"]:
        raise SystemExit(f"nothing was issued: {told['last_error']}")
    told["micros"] = spent / told["issued"] * 1e6
    told["rate"] = told["issued"] / told["seconds"]
    told["mib"] = server.resident_mib()
    return told


def _module(path: str) -> ModuleType:
    """A file below `tests/` as a module."""
    name = "gatehouse_bench_" + path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"tests/{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
