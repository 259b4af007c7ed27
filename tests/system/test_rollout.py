"""A policy on its way to the wire, seen from outside: a canary that goes by itself, and one trace of it all.

One shop as `make up` starts it, real processes all, whose spans come to a collector of the test's own.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from bench._shop import FRONTEND, PAYMENTS, Shop, shop, until
from control_plane.runtime.otlp_names import scopes

pytestmark = [pytest.mark.xdist_group("rollout"), pytest.mark.timeout(400)]
GATEHOUSE = str(Path(sys.executable).parent / "gatehouse")


@dataclass
class Collector:
    """What came, as (service, name, trace, span, parent), and the spans that tell of an error."""

    spans: list[tuple[str, str, bytes, bytes, bytes]] = field(default_factory=list)
    errors: set[bytes] = field(default_factory=set)

    def take(self, body: bytes) -> None:
        for resource in trace_service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            ]
            for scope in scopes(resource):
                self.spans += [
                    (service, one.name, one.trace_id, one.span_id, one.parent_span_id) for one in scope.spans
                ]
                self.errors |= {one.span_id for one in scope.spans if one.status.code}

    def until(self, root: str, wanted: set[tuple[str, str]]) -> None:
        """Waits for these spans in the trace of this one: every process sends when it gets to it."""
        until(lambda: wanted <= set(self.tree(root)), f"{wanted}", pause=0.2)

    def failed(self, root: str) -> list[str]:
        """Names of spans in the trace of this one that failed."""
        traces = {one[2] for one in self.spans if one[1] == root}
        return [one[1] for one in self.spans if one[2] in traces and one[3] in self.errors]

    def tree(self, root: str) -> list[tuple[str, str]]:
        """Service and name from the span of this name down, each with the one that it is below."""
        found = [one for one in self.spans if one[1] == root]
        names = {one[3]: f"{one[0]}: {one[1]}" for one in self.spans}
        traces = {one[2] for one in found}
        return sorted(
            (names.get(one[4], ""), f"{one[0]}: {one[1]}") for one in self.spans if one[2] in traces
        )


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["authorization"] == "Bearer of traces"
            found.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of%20traces")
        patch.setenv("GATEHOUSE_DEMO_POSTGRESQL", "no")  # other tests have it: the shop runs without, too
        yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def running(collector: Collector) -> Iterator[Shop]:
    with shop() as found:
        yield found


def command(running: Shop, *words: str) -> Any:
    """What a command of the person at the machine answers."""
    line = [GATEHOUSE, *words, "--data-dir", str(running.folder), "--output", "json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


class Client:
    """Asks the payment service for charges, again and again; counts the answers."""

    def __init__(self, running: Shop) -> None:
        self._running = running
        self._stop = threading.Event()
        self.seen: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def more(self, status: int, times: int) -> None:
        """Waits until this was the answer so many times more."""
        wanted = self.seen.get(status, 0) + times
        until(lambda: self.seen.get(status, 0) >= wanted, f"{times} answers {status}; {self.seen}", pause=0.1)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        while not self._stop.is_set():
            status = self._running.status()
            self.seen[status] = self.seen.get(status, 0) + 1
            time.sleep(0.01)


def grace(running: Shop) -> tuple[str, str]:
    return "--token-file", str(running.folder / "demo" / "people" / "grace.token")


def test_one_trace_from_the_command_to_the_agent(running: Shop, collector: Collector) -> None:
    version = running.approved({"authz/authz.rego": lambda text: f"{text}\n# another\n"})
    command(running, "policy", "apply", str(version), "-m", "a try", *grace(running))
    root, agents = "gatehouse policy apply", "gatehouse-agent: enforce policy"
    client, server = (f"{who}: POST v1/policy/versions" for who in ("gatehouse", "gatehouse-management"))
    wanted = {("", f"gatehouse: {root}"), (f"gatehouse: {root}", client), (client, server), (server, agents)}
    collector.until(root, wanted)
    assert not collector.failed(root)


def test_one_trace_of_a_quarantine_and_of_its_end(running: Shop, collector: Collector) -> None:
    """Each from the command through the server to the agent, where it holds from then on."""
    agents = "gatehouse-agent: enforce quarantine"
    for word, path in (("add", "v1/quarantine"), ("release", "v1/quarantine/release")):
        root = f"gatehouse quarantine {word}"
        command(running, "quarantine", word, FRONTEND, "--reason", "a try", *grace(running))
        client, server = (f"{who}: POST {path}" for who in ("gatehouse", "gatehouse-management"))
        collector.until(root, {(f"gatehouse: {root}", client), (client, server), (server, agents)})
        assert not collector.failed(root)


JUDGED = """
# METADATA
# title: What Envoy's rules can't say
allow if {
	to("payments")
	count(input.source.spiffe_id) > 1000
}
"""


def test_a_callers_trace_goes_through_the_shop_to_the_agents_judgement(
    running: Shop, collector: Collector
) -> None:
    """A customer's request at the front end, whose own call to payments is judged by the agent."""
    version = running.approved({"authz/authz.rego": lambda text: f"{text}{JUDGED}"})
    running.apply(version)
    until(lambda: [one for one in running.enforced()["workloads"] if one["judged_by_agent"]], "CUSTOM")
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    at = f"{running.at.host('frontend')}:18080"
    done = subprocess.run(
        ["curl", "-sS", "-H", f"traceparent: 00-{trace}-{span}-01", f"http://{at}/"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["payments"]["status"] == 200, done.stdout
    judged = ["ext_authz", "/envoy.service.auth.v3.Authorization/Check", "envoy payments asks the agent"]
    wanted = [*judged, "envoy payments inbound", "envoy frontend outbound"]

    def chain() -> list[str]:
        """From the judgement up to the customer's own span; shorter while not all have told."""
        mine = {one[3]: one for one in collector.spans if one[2] == bytes.fromhex(trace)}
        names, here = [], next((one for one in mine.values() if one[1] == "ext_authz"), None)
        while here is not None:
            names.append(here[1])
            above, here = here[4], mine.get(here[4])
        return names if names and above == bytes.fromhex(span) else []

    until(lambda: chain() == wanted, "one trace through both Envoys to the agent", pause=0.2)


@contextmanager
def watching(running: Shop, folder: Path) -> Iterator[Callable[[str], None]]:
    """`policy status --watch` in a terminal of its own until Ctrl-C; gives what waits for its next word."""
    # As at a terminal: what a shell starts in the background ignores interrupts, and passes that on.
    line = ["env", "--default-signal=INT", GATEHOUSE, "policy", "status", "--watch"]
    line += ["--data-dir", str(running.folder)]
    seen, screen = 0, folder / "screen"

    def until_told(word: str) -> None:
        nonlocal seen
        until(lambda: word in screen.read_text()[seen:], f"{word!r} in {screen.read_text()!r}", pause=0.1)
        seen = screen.read_text().index(word, seen) + len(word)

    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with screen.open("wb") as out:
        process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        yield until_told
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0, screen.read_text()
    finally:
        process.kill()
        process.wait()


def test_status_is_followed_over_a_restart_of_the_server(running: Shop, tmp_path: Path) -> None:
    with watching(running, tmp_path) as until_told:
        until_told("in force: version")
        running.end("server", signal.SIGKILL)
        until_told("the server is away; waiting for it")
        running.start("server")
        until_told("the server is back")
        until_told("missed")  # what the one before may have told
        until_told("in force: version")
        command(running, "quarantine", FRONTEND, "--reason", "a try", *grace(running))
        until_told(f"quarantine.set spiffe_id={FRONTEND}")
        command(running, "quarantine", "release", FRONTEND, "--reason", "a try", *grace(running))
        until_told("quarantine.released")


def canary_of(running: Shop, change: Callable[[str], str]) -> int:
    """A version in force as a canary on the only agent there is; nearly each version draws it."""
    for number in range(5):
        changes: dict[str, Callable[[str], str]] = {
            "authz/authz.rego": lambda text, n=number: f"{change(text)}\n# {n}\n",  # type: ignore[misc]
            "authz/authz_test.rego": lambda text: "package gatehouse.authz_test\n",  # they would stop it
        }
        version = running.approved(changes)
        running.rest("grace", f"policy/versions/{version}/apply", {"reason": "a try", "percent": 99})
        if running.rest("ada", "policy/status")["canary"]["agents"] == 1:
            return version
        running.rest("grace", "policy/rollback", {"reason": "it draws nobody"})
    raise AssertionError("five versions drew nobody")


def test_a_canary_that_denies_is_rolled_back_by_itself(running: Shop) -> None:
    before = running.rest("ada", "policy/status")["in_force"]["version"]
    client = Client(running)
    try:
        client.more(200, 200)  # what was usual before
        version = canary_of(running, lambda text: text.replace('{"GET", "POST"}', '{"POST"}'))
        client.more(403, 1)
        began = time.monotonic()
        until(lambda: running.rest("ada", "policy/status")["canary"] is None, "the rollback", pause=0.2)
        print(f"rolled back {time.monotonic() - began:.1f} s after the first denial")
        client.more(200, 20)
    finally:
        client.stop()
    now = running.rest("ada", "policy/status")["in_force"]
    assert (now["version"], now["cause"], now["by"]) == (before, "denials", "gatehouse")
    assert "requests denied" in now["reason"] and "on 1 of 1 agents" in now["reason"]
    assert PAYMENTS in now["reason"]
    canary, back = (running.rest("ada", "policy/assignments?limit=2")["assignments"])[::-1]
    assert (canary["version"], back["cause"]) == (version, "denials")
    records = command(running, "ledger", "list", "--kind", "change")["records"]
    recorded = [one for one in records if one["action"] == "policy.in-force"]
    assert recorded and recorded[0]["reason"] == now["reason"]
