"""`BatchNewX509SVID` over mutual TLS: server CPU per certificate, ours beside the real spire-server's.

One load client, written in Go on SPIRE's API SDK, attests by join token and asks on eight connections. All
servers run on the same machine in the same run and are asked in turns; all processes of a server are counted,
user and system time, and our ledger is on. The rate limits of both are off. What counts is the median of the
rounds, each of them ours beside theirs of a moment before; the spread is printed, since other load on the
machine moves both.

A second server of ours with one issuing process shows what another process adds to the rate.

Skipped, with a line that says so, where the peers are not built.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from bench.report import Result, command_line, skip, tell

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = 50
CONNECTIONS = 8
ROUNDS = 5
SECONDS = float(os.environ.get("GATEHOUSE_BENCH_SECONDS", "3"))
MUST, GOAL = 0.6, 0.5
GROWTH = 1.25
"""What the rate must grow by with a second issuer. The load client takes its share of the same cores."""


def main() -> int:
    """Measures all servers at both batch sizes."""
    command_line(__doc__).parse_args()
    peers, running = _module("interop/peers.py"), _module("fakes/running.py")
    client, spire = peers.find("gatehouse-peer-client"), peers.find("spire-server")
    if client is None or spire is None:
        skip("BatchNewX509SVID", "`make peers` builds the load client and spire-server")
        return 0
    with contextlib.ExitStack() as folders:
        theirs, ours, alone = (folders.enter_context(running.short_folder()) for _ in range(3))
        servers = {
            "spire-server": running.SpireServer(theirs, spire),
            "gatehouse": running.GatehouseServer(ours, extra=_settings(ours)),
            "one issuer": running.GatehouseServer(alone, extra=(*_settings(alone), "--issuers", "1")),
        }
        with running.stopping(*servers.values()):
            for server in servers.values():
                server.run()
            for batch in (50, 10):
                _compare(running, servers, client, batch)
    print(f"   (the goal beyond what must hold is {GOAL:g})")
    return 0


def _settings(folder: Path) -> tuple[str, str]:
    """Flags for a configuration without rate limits."""
    path = folder / "server.toml"
    path.write_text("[rate_limits]\nsigning_per_second = 0\nattestation_per_second = 0\n")
    return "--config", str(path)


def _compare(running: ModuleType, servers: dict[str, Any], client: Path, batch: int) -> None:
    """All servers in turns, so that what else the machine does meets each of them."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, server in servers.items():
            rounds[name].append(_measure(running, server, client, batch))
    for name, told in rounds.items():
        micros = [each["micros"] for each in told]
        print(
            f"   batch {batch:>2}, {name:<12} {median(micros):6.0f} µs CPU each ({min(micros):.0f} to "
            f"{max(micros):.0f}), {_middle(told, 'rate'):6.0f}/s, p50 {_middle(told, 'p50_ms'):.1f} ms, "
            f"p99 {_middle(told, 'p99_ms'):.1f} ms, {_middle(told, 'mib'):.0f} MiB, "
            f"{sum(each['failed'] for each in told)} failed {told[-1]['last_error']}"
        )
    ours, theirs, alone = (rounds[name] for name in ("gatehouse", "spire-server", "one issuer"))
    ratios = [one["micros"] / other["micros"] for one, other in zip(ours, theirs, strict=True)]
    print(f"   batch {batch:>2}, ratios of the rounds: {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
    figures = f"{_middle(ours, 'micros'):.0f} µs CPU each", f"spire-server {_middle(theirs, 'micros'):.0f} µs"
    tell(Result(f"BatchNewX509SVID, batch {batch}", *figures, median(ratios), MUST))
    growth = median(one["rate"] / other["rate"] for one, other in zip(ours, alone, strict=True))
    rates = f"{_middle(ours, 'rate'):.0f}/s", f"one issuer {_middle(alone, 'rate'):.0f}/s"
    name = f"rate with an issuer a core ({os.cpu_count()}), batch {batch}"
    tell(Result(name, *rates, growth, GROWTH, more_is_better=True))


def _middle(rounds: list[dict[str, Any]], figure: str) -> float:
    return median(float(each[figure]) for each in rounds)


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
