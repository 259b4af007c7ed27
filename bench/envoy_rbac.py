"""What a policy with a thousand callers adds to a request through Envoy.

`python -m bench.envoy_rbac [--callers 1000] [--requests 4000]`: Rego that names each caller is compiled for
the edge, and a real Envoy gets two listeners that differ only in the filters of that policy, as the agent
delivers them. One caller, one connection to each with mutual TLS, requests in turns; and wrk, where it is
installed, through a plain listener before each, since it has no certificates. Told is the difference of the
medians beside 0.2 ms, for a caller in the middle of the policy.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy.filters import http_contents
from agent.envoy.names import CONNECTION_MANAGER, DOWNSTREAM_TLS, ROUTER, UPSTREAM_TLS
from agent.envoy.program import find_envoy
from bench.report import Result, command_line, tell
from control_plane.core.spiffe_id import SpiffeId
from policies.edge import edge_policies
from policies.inventory_file import inventory_from_document
from policies.project import Project

LIMIT_MILLISECONDS = 0.2
WRK_ROUNDS, WRK_SECONDS = 3, 2
OWN = "spiffe://bench.test/ns/shop/sa/pay"


def caller(number: int) -> str:
    """One of the callers that the policy admits."""
    return f"spiffe://bench.test/ns/shop/sa/caller-{number:05}"


def filters(callers: int, port: int) -> list[dict[str, Any]]:
    """The HTTP filters of a policy that admits so many callers to one path."""
    names = ", ".join(f'"{caller(number)}"' for number in range(callers))
    rego = (
        "package gatehouse.authz\n"
        f"callers := {{{names}}}\n"
        'allow if { input.source.spiffe_id in callers; startswith(input.request.path, "/v1/") }\n'
    )
    services = [{"name": "api", "ports": [{"port": port, "protocol": "http"}]}]
    workload = {"name": "pay", "namespace": "shop", "service_account": "pay", "mode": "envoy"}
    inventory = inventory_from_document(
        {
            "mesh": {"trust_domain": "bench.test"},
            "workloads": [{**workload, "labels": {"app": "pay"}, "services": services}],
        }
    )
    (edge,) = edge_policies(Project.of({"a.rego": rego}), inventory, frozenset({OWN}))
    policy = WorkloadPolicy(edge.workload, SpiffeId.parse(OWN), edge.http, edge.tcp)
    found = http_contents(policy, policy.spiffe_id, frozenset())
    return [{"name": name, "typed_config": config} for name, config in found.items()]


def certificates(folder: Path, identity: str) -> None:
    """`ca.pem`, and `leaf.pem` with its key for the identity; Envoy and the caller share it."""
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(public: Any, *, authority: bool) -> bytes:
        builder = x509.CertificateBuilder(issuer, issuer if authority else x509.Name([]), public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
        if not authority:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
            builder = builder.add_extension(names, critical=True)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (folder / "ca.pem").write_bytes(certificate(ca_key.public_key(), authority=True))
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "leaf.pem").write_bytes(text + certificate(key.public_key(), authority=False))


def listener(port: int, folder: Path, chain: list[dict[str, Any]]) -> dict[str, Any]:
    """A listener that answers by itself."""
    leaf, authority = ({"filename": str(folder / name)} for name in ("leaf.pem", "ca.pem"))
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    manager = {
        "@type": CONNECTION_MANAGER,
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [*chain, {"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    tls = {
        "@type": DOWNSTREAM_TLS,
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": leaf, "private_key": leaf}],
            "validation_context": {"trusted_ca": authority},
        },
    }
    return {
        "name": str(port),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            }
        ],
    }


def way_to(port: int, guarded: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A plain listener, and the cluster that leads from it to a guarded one with the caller's certificate."""
    leaf, authority = ({"filename": str(folder / name)} for name in ("leaf.pem", "ca.pem"))
    name = f"to-{guarded}"
    manager = {
        "@type": CONNECTION_MANAGER,
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    tls = {
        "@type": UPSTREAM_TLS,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": leaf, "private_key": leaf}],
            "validation_context": {"trusted_ca": authority},
        },
    }

    def at(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": at(guarded)}}]}]
    return (
        {"name": str(port), "address": at(port), "filter_chains": [chain]},
        {
            "name": name,
            "load_assignment": {"cluster_name": name, "endpoints": endpoints},
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        },
    )


def by_wrk(ports: tuple[int, ...]) -> list[float]:
    """Median milliseconds of a request at each port, as wrk has it: the best of short rounds, in turns."""
    found: list[list[float]] = [[] for _ in ports]
    for _ in range(WRK_ROUNDS):
        for port, medians in zip(ports, found, strict=True):
            url = f"http://127.0.0.1:{port}/v1/charges"
            command = ["wrk", "-t", "1", "-c", "1", "-d", f"{WRK_SECONDS}s", "--latency", url]
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            median = re.search(r"^\s+50%\s+([0-9.]+)(us|ms)$", told, re.MULTILINE)
            if median is None or "Non-2xx" in told:
                raise RuntimeError(f"wrk says: {told}")
            medians.append(float(median[1]) / (1000 if median[2] == "us" else 1))
    return [min(medians) for medians in found]


def connect(port: int, folder: Path) -> ssl.SSLSocket:
    """A connection with the caller's certificate; waits until Envoy listens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # An SVID has no host name, and whom Envoy lets in is what is asked here, not who Envoy is.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(folder / "leaf.pem")
    deadline = time.monotonic() + 60
    while True:
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=20)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(plain)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def ask(connection: ssl.SSLSocket) -> float:
    """Milliseconds of one request."""
    began = time.perf_counter()
    connection.sendall(b"GET /v1/charges HTTP/1.1\r\nhost: pay\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    if b" 200 " not in answer:
        raise RuntimeError(f"the request wasn't allowed: {answer!r}")
    return (time.perf_counter() - began) * 1000


def free_ports(count: int) -> tuple[int, ...]:
    """Loopback ports that nobody has at this moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(int(one.getsockname()[1]) for one in sockets)


def measure(callers: int, requests: int, folder: Path) -> tuple[float, float, list[float]]:
    """Median milliseconds of a request without the policy and with it; the same by wrk, if it is there."""
    *ports, one, other = free_ports(4)
    ways = one, other
    certificates(folder, caller(callers // 2))
    listeners = [listener(ports[0], folder, []), listener(ports[1], folder, filters(callers, ports[1]))]
    config = folder / "envoy.json"
    plain, clusters = zip(
        *(way_to(way, port, folder) for way, port in zip(ways, ports, strict=True)), strict=True
    )
    static = {"listeners": [*listeners, *plain], "clusters": list(clusters)}
    config.write_text(json.dumps({"static_resources": static}))
    command = [
        str(find_envoy()),
        "-c",
        str(config),
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "-l",
        "error",
    ]
    process = subprocess.Popen(command)
    try:
        connections = [connect(port, folder) for port in ports]
        for connection in connections:
            for _ in range(200):
                ask(connection)
        times: list[list[float]] = [[], []]
        for _ in range(requests):
            for connection, found in zip(connections, times, strict=True):
                found.append(ask(connection))
        with_wrk = by_wrk(ways) if shutil.which("wrk") else []
    finally:
        process.terminate()
        process.wait(20)
    return statistics.median(times[0]), statistics.median(times[1]), with_wrk


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--callers", type=int, default=1_000)
    parser.add_argument("--requests", type=int, default=4_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        *own, with_wrk = measure(arguments.callers, arguments.requests, Path(folder))
    if not with_wrk:
        print("wrk isn't installed (apt-get install wrk): measured with a client of our own alone")
    for how, medians in (("", own), (", by wrk", with_wrk)):
        if not medians:
            continue
        without, with_policy = medians
        added = with_policy - without
        print(f"median of a request{how}: {without:.3f} ms without, {with_policy:.3f} ms with the policy")
        tell(
            Result(
                f"a policy of {arguments.callers} callers adds to a request{how}",
                f"{added:.3f} ms",
                f"a limit of {LIMIT_MILLISECONDS} ms",
                added / LIMIT_MILLISECONDS,
                1.0,
            )
        )


if __name__ == "__main__":
    main()
