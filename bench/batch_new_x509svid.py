"""`BatchNewX509SVID` over mutual TLS: server CPU per certificate, ours beside the real spire-server's.

One load client, written in Go on SPIRE's API SDK, attests by join token and asks on eight connections. Both
servers run one after the other on the same machine in the same run; all processes of a server are counted,
user and system time, and our ledger is on. spire-server's rate limits are off, which favours it.

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
SECONDS = float(os.environ.get("GATEHOUSE_BENCH_SECONDS", "10"))
MUST, GOAL = 0.6, 0.5


def main() -> int:
    """Measures both servers at both batch sizes."""
    peers, running = _module("interop/peers.py"), _module("fakes/running.py")
    client, spire = peers.find("gatehouse-peer-client"), peers.find("spire-server")
    if client is None or spire is None:
        print("skipped: `make peers` builds the load client and spire-server")
        return 0
    for batch in (50, 10):
        with running.short_folder() as folder:
            theirs = _measure(running, running.SpireServer(folder, spire), client, batch)
        with running.short_folder() as folder:
            ours = _measure(running, running.GatehouseServer(folder), client, batch)
        for name, told in (("spire-server", theirs), ("gatehouse", ours)):
            print(
                f"   batch {batch:>2}, {name:<12} {told['micros']:6.0f} µs CPU each, {told['rate']:6.0f}/s, "
                f"p50 {told['p50_ms']:.1f} ms, p99 {told['p99_ms']:.1f} ms, {told['mib']:.0f} MiB, "
                f"{told['failed']} failed {told['last_error']}"
            )
        tell(
            Result(
                f"BatchNewX509SVID, batch {batch}",
                f"{ours['micros']:.0f} µs CPU each",
                f"spire-server {theirs['micros']:.0f} µs",
                ours["micros"] / theirs["micros"],
                MUST,
            )
        )
    print(f"   (the goal beyond what must hold is {GOAL:g})")
    return 0


def _measure(running: ModuleType, server: Any, client: Path, batch: int) -> dict[str, Any]:
    """CPU per certificate, rate and latencies of one server under load."""
    with running.stopping(server):
        server.run()
        token = server.token()
        parent = f"spiffe://{server.trust_domain}/spire/agent/join_token/{token}"
        server.register_all(parent, {f"load/{number}": f"unix:uid:{number}" for number in range(ENTRIES)})
        command = [
            str(client), "load", "-server", f"127.0.0.1:{server.port}", "-trust-domain", server.trust_domain,
            "-bundle", str(server.bundle_file()), "-join-token", token, "-batch", str(batch),
            "-connections", str(CONNECTIONS), "-for", f"{SECONDS}s",
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
