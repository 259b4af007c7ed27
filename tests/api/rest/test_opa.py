"""A real OPA beside us: it fetches what is in force, decides the same, switches, refuses forgeries."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import io
import json
import random
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from control_plane.rollout.opa_bundle import MEDIA_TYPE
from policies.inventory_file import parse_inventory
from policies.project import Project
from policies.questions import destination_document
from policies.rulings import Rulings

INVENTORY = """
mesh: {trust_domain: example.org}
workloads:
- name: web
  namespace: shop
  service_account: web
  labels: {tier: front}
  services: [{name: web, ports: [{port: 80, target_port: 8080, protocol: http}]}]
- name: db
  namespace: shop
  service_account: db
  services: [{name: db, ports: [{port: 5432, protocol: tcp}]}]
"""
AUTHZ = """package gatehouse.authz

default allow := false

allow if {
	input.destination.service == "web"
	input.request.method in data.methods
	startswith(input.request.path, "%s")
}

deny contains "not from there" if startswith(input.source.spiffe_id, "spiffe://example.org/ns/nobody/")

deny contains "no refunds" if contains(input.request.path, "refund")
"""
SEGMENTATION = """package gatehouse.segmentation

default allow := false

default deny := false

allow if input.source.spiffe_id

deny if input.source.labels.tier == "front"
"""
FILES = {"seg/segmentation.rego": SEGMENTATION, "data.json": '{"methods": ["GET", "π\\u2028<&>\\u007f"]}'}
WORKLOADS = parse_inventory(INVENTORY).workloads
WEB, DB = (f"spiffe://example.org/ns/shop/sa/{name}" for name in ("web", "db"))


def files(path: str) -> dict[str, str]:
    return {**FILES, "authz.rego": AUTHZ % path}


async def in_force(api: Any, number: int, path: str) -> None:
    """Pushes, plans, approves and applies a version."""
    body = {"files": files(path), "inventory": INVENTORY, "reason": "because"}
    reply = await api.call("POST", "/v1/policy/versions", body, by="ada")
    assert (reply.status, reply.body.get("state")) == (201, "proved"), reply
    for step, by in (("plan", "ada"), ("approve", "grace"), ("apply", "olga")):
        reply = await api.call("POST", f"/v1/policy/versions/{number}/{step}", {"reason": "r"}, by=by)
        assert reply.status == 200, reply


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else json.dumps(body), told)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def unpacked(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def repacked(found: dict[str, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in found.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(plain.getvalue())


@contextlib.contextmanager
def forger(upstream: int) -> Iterator[tuple[int, list[str]]]:
    """A relay that opens every bundle to everybody once the list that it gives isn't empty."""
    forging: list[str] = []

    class Relay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {"if-none-match": self.headers["if-none-match"] or "", "prefer": self.headers["prefer"]}
            if forging:
                headers = {}
            status, told, content = ask(upstream, "GET", self.path, **headers)
            if forging and status == 200:
                found = unpacked(content)
                found["authz.rego"] = b"package gatehouse.authz\n\nallow := true\n"
                content = repacked(found)
            self.send_response(status)
            for name in ("etag", "content-type"):
                self.send_header(name, "forged" if forging and name == "etag" else told[name])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # OPA has ended meanwhile
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, forging
    finally:
        server.shutdown()


@contextlib.contextmanager
def opa(binary: Path, folder: Path, service: int, keys: Any) -> Iterator[int]:
    """An OPA that gets its policy from a port; gives its own port."""
    port = free_port()
    polling = {"long_polling_timeout_seconds": 30, "min_delay_seconds": 1, "max_delay_seconds": 1}
    config = {
        "services": {"gatehouse": {"url": f"http://127.0.0.1:{service}"}},
        "keys": keys,
        "bundles": {
            "gatehouse": {
                "service": "gatehouse",
                "resource": "v1/opa/bundle",
                "polling": polling,
                "signing": {},
            }
        },
        "status": {"console": True},
    }
    (folder / "opa.json").write_text(json.dumps(config))
    command = [binary, "run", "--server", "--addr", f"127.0.0.1:{port}", "-c", folder / "opa.json"]
    with (folder / "opa.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def allows(port: int, document: Any) -> bool:
    status, _, body = ask(port, "POST", "/v1/data/gatehouse/sidecar/allow", {"input": document})
    assert status == 200, body
    return json.loads(body).get("result") is True


def until(holds: Callable[[], bool], seconds: float = 30) -> float:
    """Waits until something holds; gives how long that took."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        with contextlib.suppress(OSError):
            if holds():
                return time.monotonic() - begun
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def inputs(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Requests to the web, with everything missing that may be missing."""
    draw = random.Random(seed)
    for _ in range(count):
        caller = draw.choice(
            [DB, WEB, "spiffe://example.org/ns/nobody/sa/x", "spiffe://example.org/ns/x/sa/x"]
        )
        request = {
            "method": draw.choice(["GET", "POST", "π\u2028<&>\u007f"]),
            "path": draw.choice(["/a", "/b", "/a/refund", "/", "/ab"]),
        }
        yield {
            "source": draw.choice([{}, {"spiffe_id": caller}]),
            "request": {name: value for name, value in request.items() if draw.random() < 0.9},
        }


def complete(document: Any) -> Any:
    """What the caller of a sidecar fills in, from the same inventory."""
    known = {one.spiffe_id: destination_document(one, None) for one in WORKLOADS}
    caller = document["source"].get("spiffe_id")
    facts = known.get(caller, {"trust_domain": "example.org"}) if caller else {}
    destination = {**known[WEB], "service": "web", "port": 8080}
    return {**document, "source": {**facts, **document["source"]}, "destination": destination}


def test_an_opa_beside_us(rest: Any, peer: Callable[[str], Path], tmp_path: Path) -> None:
    binary = peer("opa")
    ours = free_port()

    async def scenario(api: Any) -> None:
        assert (await asyncio.to_thread(ask, ours, "GET", "/v1/opa/bundle"))[0] == 404
        await in_force(api, 1, "/a")
        keys = (await api.call("GET", "/v1/opa/keys", by="vera")).body["keys"]
        assert (await api.call("GET", "/v1/opa/keys", by="nobody")).status == 403
        with forger(ours) as (relay, forging), opa(binary, tmp_path, relay, keys) as port:
            one = {
                "source": {"spiffe_id": DB, "namespace": "shop"},
                "request": {"method": "GET", "path": "/a"},
            }
            other = {**one, "request": {"method": "GET", "path": "/b"}}
            await asyncio.to_thread(until, lambda: allows(port, complete(one)))
            await asyncio.to_thread(_agrees, port, "/a")

            await in_force(api, 2, "/b")
            took = await asyncio.to_thread(until, lambda: allows(port, complete(other)))
            assert took < 2, took
            await asyncio.to_thread(_agrees, port, "/b")

            body = {"spiffe_id": DB, "reason": "odd"}
            reply = await api.call("POST", "/v1/quarantine", body, by="olga")
            assert reply.status in (200, 201), reply
            await asyncio.to_thread(until, lambda: not allows(port, complete(other)), 5)

            forging.append("now")
            body = {"reason": "r", **body}
            await api.call("POST", "/v1/quarantine/release", body, by="olga")

            def refused() -> bool:
                return "digest mismatch" in (tmp_path / "opa.log").read_text()

            await asyncio.to_thread(until, refused)
            assert not await asyncio.to_thread(allows, port, complete(other))
            forging.clear()
            await asyncio.to_thread(until, lambda: allows(port, complete(other)))

    rest(scenario, more=f'[opa]\nbind = "127.0.0.1:{ours}"\n')


def _agrees(port: int, path: str) -> None:
    """OPA and our evaluator give the same answers; both answers occur."""
    project = Project.of(files(path))
    rulings = Rulings(project.checked().compiled, parse_inventory(INVENTORY), project.data)
    seen = set()
    for document in inputs(7, 150):
        ours = rulings.judge("shop/web", {**document, "destination": {"port": 8080}}).allowed
        assert allows(port, complete(document)) == ours, document
        seen.add(ours)
    assert seen == {True, False}


def test_the_manners_of_the_route(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        await in_force(api, 1, "/a")
        status, headers, content = await asyncio.to_thread(ask, ours, "GET", "/v1/opa/bundle")
        assert (status, headers["content-type"]) == (200, MEDIA_TYPE)
        again = await asyncio.to_thread(ask, ours, "GET", "/v1/opa/bundle")
        assert again[2] == content
        known = {"If_None_Match": headers["etag"], "Prefer": "modes=snapshot,delta"}
        status, headers, content = await asyncio.to_thread(ask, ours, "GET", "/v1/opa/bundle", **known)
        assert (status, content, headers["content-type"]) == (304, b"", MEDIA_TYPE)

        known["Prefer"] += ";wait=1"
        begun = time.monotonic()
        status, _, _ = await asyncio.to_thread(ask, ours, "GET", "/v1/opa/bundle", **known)
        assert status == 304 and 0.9 < time.monotonic() - begun < 10

        agent = "spiffe://example.org/spire/agent/join_token/x"
        status, _, content = await asyncio.to_thread(ask, ours, "GET", f"/v1/opa/bundle?agent={agent}")
        assert status == 200
        manifest = json.loads(unpacked(content)[".manifest"])
        assert manifest["revision"] == "v1-a1-q0"
        assert manifest["roots"] == ["gatehouse", "inventory", "methods"]
        assert (await asyncio.to_thread(ask, ours, "GET", "/v1/opa/bundle?agent=x"))[0] == 400
        assert (await asyncio.to_thread(ask, ours, "GET", "/v1/policy/status"))[0] == 404

        # Whoever waits is let go when the process stops: the fixture would time out otherwise.
        known["Prefer"] = "wait=300"
        waiting = threading.Thread(target=lambda: ask(ours, "GET", "/v1/opa/bundle", **known), daemon=True)
        waiting.start()
        await asyncio.sleep(0.2)

    ours = free_port()
    begun = time.monotonic()
    rest(scenario, more=f'[opa]\nbind = "127.0.0.1:{ours}"\n')
    assert time.monotonic() - begun < 60


@contextlib.contextmanager
def bare_opa(binary: Path, port: int) -> Iterator[None]:
    """An OPA without a policy."""
    command = [binary, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error"]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_an_opa_that_is_told(rest: Any, peer: Callable[[str], Path]) -> None:
    """Pushed by its REST API it decides the same; what others change there is healed, foreign rules go."""
    binary, port = peer("opa"), free_port()

    async def scenario(api: Any) -> None:
        ask(port, "PUT", "/v1/data/theirs", {"a": 1})
        await in_force(api, 1, "/a")
        document = {"source": {"spiffe_id": DB}, "request": {"method": "GET", "path": "/a"}}
        await asyncio.to_thread(until, lambda: allows(port, complete(document)))
        await asyncio.to_thread(_agrees, port, "/a")
        await in_force(api, 2, "/b")
        await asyncio.to_thread(until, lambda: not allows(port, complete(document)), 15)
        document["request"] = {"method": "GET", "path": "/b"}
        await asyncio.to_thread(until, lambda: allows(port, complete(document)))
        await asyncio.to_thread(_agrees, port, "/b")

        opened = {"source": {}, "request": {"method": "DELETE", "path": "/b"}}
        rule = "package gatehouse.sidecar\n\nallow if true\n"
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", "/v1/policies/theirs", rule)
        assert connection.getresponse().status == 200
        ask(port, "PUT", "/v1/data/methods", ["DELETE"])
        assert await asyncio.to_thread(allows, port, opened)
        body = {"spiffe_id": WEB, "reason": "odd"}
        await api.call("POST", "/v1/quarantine", body, by="olga")  # a look, at once
        await asyncio.to_thread(until, lambda: not allows(port, opened))
        await asyncio.to_thread(until, lambda: not allows(port, complete(document)))
        await api.call("POST", "/v1/quarantine/release", body, by="olga")
        await asyncio.to_thread(until, lambda: allows(port, complete(document)))
        await asyncio.to_thread(_agrees, port, "/b")
        assert json.loads(ask(port, "GET", "/v1/data/theirs")[2])["result"] == {"a": 1}

    with bare_opa(binary, port):
        until(lambda: ask(port, "GET", "/health")[0] == 200)
        rest(scenario, more=f'[opa]\npush = ["http://127.0.0.1:{port}"]\n')
