"""Envoy's two clients for external authorization, gRPC and HTTP, end to end, with the same decisions.

`python -m bench.ext_authz [--requests 4000] [--connections 2]`: one real Envoy with mutual TLS from a plain
listener to three guarded ones: by nothing, by its gRPC client, by its HTTP client. Both ask one process over
a unix socket: the agent's own service, and as little of an HTTP server as gives the same judgement of the
same input (it is told less: see decision 0012). In turns, so that other work on the machine hits all alike.
Printed are latency at the client, and the CPU time of Envoy and of the judging process per request. Told is
the 99th percentile with the client that we use beside the limit of a request's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.enforcement.bundle import PolicyBundle
from agent.enforcement.compiler import judge_of
from agent.enforcement.ports import Json, Ruling
from agent.envoy import names
from agent.envoy.bootstrap import ALONE, FLAGS
from agent.envoy.filters import HTTP_EXTERNAL
from agent.envoy.program import find_envoy
from agent.envoy.request_input import input_document
from agent.envoy.services import envoy_services
from agent.refusals import Refusals
from bench.report import Result, command_line, tell
from control_plane.cli.policy_files import read_project
from control_plane.core.spiffe_id import SpiffeId
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.loop import run
from control_plane.runtime.transport import Server
from deploy.demo import mesh

WAYS = ("unguarded", "gRPC", "HTTP")
CALLER, SERVICE = (f"spiffe://gatehouse.test/ns/shop/sa/{name}" for name in ("frontend", "payments"))
PORT = 8080  # of the service in the policy, whatever port the listener has
ROUNDS = 5
LIMIT_SECONDS = 0.2
PATHS = (("/v1/charges", 200), ("/v1/secrets", 403))
_URI = re.compile(r"URI=([^;,]+)")


# --- the judging process -----------------------------------------------------------------------------


class Policy:
    """The starter policy; implements `Decisions`."""

    def __init__(self) -> None:
        inventory = mesh.INVENTORY.read_text(encoding="utf-8")
        self._judge = judge_of(PolicyBundle(1, 1, "", 0, read_project(mesh.POLICY), inventory))

    def decide(self, destination: SpiffeId, request: Json) -> Ruling:
        """As the agent's own `Policies` does; the port of the listener stands for that of the service."""
        judged = self._judge.judge("shop/payments", {**request, "destination": {"port": PORT}})
        lines = (str(judged.origin),) if judged.origin is not None else ()
        return Ruling(judged.allowed, judged.reason, lines, 1)


class _Entitled:
    """Everybody is attested and entitled: what is measured is the way there and the decision."""

    async def of(self, peer: object) -> SimpleNamespace:
        return SimpleNamespace(selectors=())

    def match(self, selectors: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(spiffe_id=SpiffeId.parse(SERVICE))]


async def serve(folder: Path) -> None:
    """Both services, until the process is ended."""
    policy, entitled = Policy(), _Entitled()

    def authorization() -> object:
        from agent.envoy.authorization import Authorization

        clock: Any = SystemClock()
        everybody: Any = entitled
        heard = asyncio.Event()
        heard.set()
        return Authorization(everybody, everybody, policy, Refusals(clock, heard, str))

    server = Server(envoy_services(object, object, authorization, object, object, object))
    await server.listen_unix(folder / "grpc.sock", 0o600)
    loop = asyncio.get_running_loop()
    plain = await loop.create_unix_server(lambda: _Http(policy), str(folder / "http.sock"))
    print("ready", flush=True)
    await plain.serve_forever()


class _Http(asyncio.Protocol):
    """HTTP/1.1 without bodies, one request after the other."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            headers = {
                name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
            }
            self._transport.write(self._answer(method, path, headers))

    def _answer(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        caller = _URI.search(headers.get("x-forwarded-client-cert", ""))
        document = input_document(
            principal=caller[1] if caller else "", address="", port=PORT,
            method=method, path=path, host=headers.get("host", ""), headers=headers,
        )  # fmt: skip
        ruling = self._policy.decide(SpiffeId.parse(SERVICE), document)
        status = "200 OK" if ruling.allowed else "403 Forbidden"
        told = f"x-reason: {ruling.reason}\r\nx-lines: {','.join(ruling.lines)}\r\n"
        return f"HTTP/1.1 {status}\r\n{told}content-length: 0\r\n\r\n".encode()


# --- Envoy -------------------------------------------------------------------------------------------


def certificates() -> dict[str, tuple[str, str]]:
    """An authority as `ca`, and certificates with keys of the caller and the service, in PEM."""
    now = datetime.datetime.now(datetime.UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    found = {}
    for name, uri in (("ca", "spiffe://gatehouse.test"), ("caller", CALLER), ("service", SERVICE)):
        key = authority if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(issuer if name == "ca" else x509.Name([]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=name != "ca"
            )
            .sign(authority, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        found[name] = certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
    return found


def configuration(folder: Path, ports: Mapping[str, int]) -> Json:
    """Per way a plain listener, mutual TLS from there, and a guarded listener that answers by itself."""
    known = certificates()
    guards: dict[str, list[Json]] = {
        "unguarded": [],
        "gRPC": [_ext_authz({"grpc_service": {"envoy_grpc": {"cluster_name": "grpc"}, "timeout": "2s"}})],
        "HTTP": [
            _ext_authz(
                {
                    "http_service": {
                        "server_uri": {"uri": "http://judge", "cluster": "http", "timeout": "2s"}
                    },
                    "allowed_headers": {"patterns": [{"exact": "x-forwarded-client-cert"}]},
                }
            )
        ],
    }
    listeners, clusters = [], [_judge(folder, "grpc"), _judge(folder, "http")]
    for way, guard in guards.items():
        inner = f"@gatehouse-bench-{os.getpid()}-{way}"
        validated = {"trusted_ca": {"inline_string": known["ca"][0]}}
        clusters.append(
            {
                "name": way,
                "load_assignment": _at(way, {"pipe": {"path": inner}}),
                "transport_socket": _tls(names.UPSTREAM_TLS, known["caller"], validated),
            }
        )
        route = {"match": {"prefix": "/"}, "route": {"cluster": way}}
        listeners.append(
            {
                "name": f"to-{way}",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": ports[way]}},
                "filter_chains": [{"filters": [_manager(way, [], route)]}],
            }
        )
        answer = {
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
        }
        chain = {
            "filters": [_manager(f"in-{way}", guard, answer)],
            "transport_socket": _tls(names.DOWNSTREAM_TLS, known["service"], validated),
        }
        listeners.append({"name": way, "address": {"pipe": {"path": inner}}, "filter_chains": [chain]})
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _ext_authz(service: Json) -> Json:
    ours = {key: value for key, value in HTTP_EXTERNAL.items() if key != "grpc_service"}
    return {"name": names.EXTERNAL, "typed_config": {**ours, **service}}


def _judge(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = {
        "name": name,
        "load_assignment": _at(name, {"pipe": {"path": str(folder / f"{name}.sock")}}),
    }
    if name == "grpc":
        options = {"@type": names.HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    return found


def _at(cluster: str, address: Json) -> Json:
    endpoint = {"endpoint": {"address": address}}
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]}


def _manager(name: str, guard: list[Json], route: Json) -> Json:
    hosts = [{"name": name, "domains": ["*"], "routes": [route]}]
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": names.ROUTER}}
    config = {
        "@type": names.CONNECTION_MANAGER,
        "stat_prefix": name,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "route_config": {"name": name, "virtual_hosts": hosts},
        "http_filters": [*guard, router],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _tls(kind: str, pair: tuple[str, str], validated: Json) -> Json:
    certificate = {
        "certificate_chain": {"inline_string": pair[0]},
        "private_key": {"inline_string": pair[1]},
    }
    common = {"tls_certificates": [certificate], "validation_context": validated}
    config: dict[str, object] = {"@type": kind, "common_tls_context": common}
    if kind == names.DOWNSTREAM_TLS:
        config["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


# --- the client --------------------------------------------------------------------------------------


async def ask(port: int, requests: int, *, guarded: bool) -> list[float]:
    """Seconds of each request on one connection. Raises RuntimeError for another decision."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for number in range(requests):
        path, judged = PATHS[number % len(PATHS)]
        status = judged if guarded else 200
        began = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0))
        times.append(time.perf_counter() - began)
        found = int(head.split()[1])
        if found != status:
            raise RuntimeError(f"{path}: {found} came, {status} is expected")
    writer.close()
    return times


def cpu_seconds(pid: int) -> float:
    """CPU time of one process so far."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in threads) / 1e9


@contextlib.contextmanager
def processes() -> Iterator[tuple[Mapping[str, int], int, int]]:
    """The ports by way, and the ids of Envoy and of the judging process."""
    with tempfile.TemporaryDirectory(prefix="gh") as name, contextlib.ExitStack() as ending:
        folder = Path(name)
        command = [sys.executable, "-m", "bench.ext_authz", "--serve", name]
        judging = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ending.callback(judging.wait)
        ending.callback(judging.terminate)
        assert judging.stdout is not None
        assert judging.stdout.readline() == "ready\n"
        ports = {way: free_port() for way in WAYS}
        config = folder / "envoy.json"
        config.write_text(json.dumps(configuration(folder, ports)))
        flags = [*FLAGS, ALONE, "--concurrency", "1", "-l", "error"]
        envoy = subprocess.Popen([str(find_envoy()), "-c", str(config), *flags])
        ending.callback(envoy.wait)
        ending.callback(envoy.terminate)
        yield ports, envoy.pid, judging.pid


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(requests: int, connections: int) -> None:
    """All ways in turns."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with processes() as (ports, envoy, judging):
        for way in WAYS:
            await until_open(ports[way])
            await ask_all(way, ports[way], 50, connections)
        for _ in range(ROUNDS):
            for way in WAYS:
                before = cpu_seconds(envoy), cpu_seconds(judging)
                times[way] += await ask_all(way, ports[way], requests, connections)
                used = cpu_seconds(envoy) - before[0], cpu_seconds(judging) - before[1]
                cpu[way].append((used[0] / requests, used[1] / requests))
    report(times, cpu)


async def ask_all(way: str, port: int, requests: int, connections: int) -> list[float]:
    """So many requests over so many connections."""
    share = requests // connections
    found = await asyncio.gather(*(ask(port, share, guarded=way != WAYS[0]) for _ in range(connections)))
    return [one for each in found for one in each]


def report(times: Mapping[str, list[float]], cpu: Mapping[str, list[tuple[float, float]]]) -> None:
    """Prints each way, tells that of gRPC."""
    middle, late, used = {}, {}, {}
    for way in WAYS:
        ordered = sorted(times[way])
        middle[way] = statistics.median(ordered) * 1e6
        late[way] = ordered[int(len(ordered) * 0.99)] * 1e6
        own, judge = (statistics.median(one[place] for one in cpu[way]) * 1e6 for place in (0, 1))
        used[way] = own, judge
        print(
            f"{way:9}  median {middle[way]:5.0f} µs, p99 {late[way]:6.0f} µs; "
            f"CPU a request: Envoy {own:4.0f} µs, judge {judge:4.0f} µs"
        )
    added = {way: middle[way] - middle[WAYS[0]] for way in WAYS}
    spent = {way: sum(used[way]) - sum(used[WAYS[0]]) for way in WAYS}
    for way in WAYS[1:]:
        print(f"{way:9}  adds {added[way]:.0f} µs to a request and {spent[way]:.0f} µs of CPU")
    name = "a request judged by the agent over gRPC, p99"
    value, peer = f"{late['gRPC'] / 1e3:.1f} ms", f"{LIMIT_SECONDS * 1e3:.0f} ms"
    tell(Result(name, value, peer, late["gRPC"] / 1e6 / LIMIT_SECONDS, 1.0))


async def until_open(port: int) -> None:
    """Waits for Envoy to let through what everybody admits."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, RuntimeError, EOFError):
                await ask(port, 1, guarded=True)
                return
            await asyncio.sleep(0.05)


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--serve", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        run(serve(arguments.serve))
    else:
        asyncio.run(measure(arguments.requests, arguments.connections))
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
