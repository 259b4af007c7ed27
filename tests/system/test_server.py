"""The server from the outside: real processes, a foreign gRPC client, kill -9."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.bundle import Bundle
from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types import bundle_pb2 as bundle_types
from control_plane.proto.spire.api.types import entry_pb2 as entry_types
from control_plane.proto.spire.api.types.selector_pb2 import Selector
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID
from control_plane.runtime.tls import TlsClient
from control_plane.runtime.transport import Channel

pytestmark = pytest.mark.xdist_group("server")
TD = TrustDomain("example.org")
ENTRY = "/spire.api.server.entry.v1.Entry/"


class Server:
    """`gatehouse server run` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "d"
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> "Server":
        (self.data / "server.json").unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "control_plane", "server", "run", "--data-dir", str(self.data),
            "--trust-domain", TD.name, "--bind", "127.0.0.1:0", "--issuers", "2", *flags,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        self.until((self.data / "server.json").exists, "the server to be ready")
        return self

    def until(self, condition: Any, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}\n{self.log.read_text()[-4000:]}"
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"the server ended\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    @property
    def port(self) -> int:
        return int(json.loads((self.data / "server.json").read_text())["address"].rpartition(":")[2])

    def events(self, name: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == name:
                    found.append(event)
        return found

    def pid_of(self, process: str) -> int:
        return int([one["pid"] for one in self.events("process_ready") if one["process"] == process][-1])

    def children(self) -> list[int]:
        assert self.process is not None
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(stat[1]) == self.process.pid and stat[0] != "Z":
                    found.append(int(folder.name))
        return found

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(40)

    def rest(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.data / "api.sock"))
        connection.request(
            method, path, None if body is None else json.dumps(body), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="gh"))
    running = Server(folder)
    try:
        yield running.start()
        assert running.stop() == 0
        assert not running.children()
    finally:
        if running.process is not None and running.process.poll() is None:  # a start that took too long
            running.process.kill()
            running.process.wait()
    shutil.rmtree(folder)


FOREIGN = """
    import json, sys
    import grpc
    from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
    from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
    from control_plane.proto.spire.api.types import entry_pb2 as types, jointoken_pb2
    from control_plane.proto.grpc.health.v1 import health_pb2

    channel = grpc.insecure_channel("unix:" + sys.argv[1])

    def call(path, request, reply):
        method = channel.unary_unary(path, type(request).SerializeToString, reply.FromString)
        return method(request, timeout=10)

    request, reply = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse
    health = call("/grpc.health.v1.Health/Check", request, reply)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    token = call(
        "/spire.api.server.agent.v1.Agent/CreateJoinToken",
        agent_pb2.CreateJoinTokenRequest(ttl=5), jointoken_pb2.JoinToken,
    )
    assert token.value and token.expires_at
    entry = types.Entry(hint="foreign")
    entry.spiffe_id.trust_domain, entry.spiffe_id.path = "example.org", "/foreign"
    entry.parent_id.trust_domain, entry.parent_id.path = "example.org", "/parent"
    entry.selectors.add(type="unix", value="uid:1")
    for expected in (0, 6):
        reply = call(
            "/spire.api.server.entry.v1.Entry/BatchCreateEntry",
            entry_pb2.BatchCreateEntryRequest(entries=[entry]), entry_pb2.BatchCreateEntryResponse,
        )
        assert reply.results[0].status.code == expected, reply
        assert reply.results[0].entry.hint == "foreign"
    try:
        request, reply = agent_pb2.PostStatusRequest(), agent_pb2.PostStatusResponse
        call("/spire.api.server.agent.v1.Agent/PostStatus", request, reply)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    else:
        raise AssertionError("a local caller is no agent")
    try:
        call("/spire.api.server.entry.v1.Entry/NoSuch", request, reply)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    print("done")
"""


def test_a_foreign_client_administers(server: Server) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FOREIGN), str(server.data / "server.sock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "done\n", done.stderr


def test_files_are_private(server: Server) -> None:
    assert server.data.stat().st_mode & 0o777 == 0o700
    for name in ("registry.db", "server.sock", "api.sock"):
        assert (server.data / name).stat().st_mode & 0o777 == 0o600
    assert "BEGIN CERTIFICATE" in (server.data / "bundle.pem").read_text()
    assert json.loads((server.data / "bundle.json").read_text())["keys"]


def test_a_second_server_is_refused(server: Server) -> None:
    command = [sys.executable, "-m", "control_plane", "server", "run", "--data-dir", str(server.data)]
    command += ["--trust-domain", TD.name, "--bind", "127.0.0.1:0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "another server is running" in refused.stderr


def test_rest(server: Server) -> None:
    status, health = server.rest("GET", "/v1/health")
    assert (status, health["status"]) == (200, "serving")
    status, shown = server.rest("GET", "/v1/authority/x509")
    assert status == 200 and [one["status"] for one in shown["authorities"]] == ["active"]
    active = shown["authorities"][0]["authority_id"]
    status, problem = server.rest(
        "POST", "/v1/authority/x509/taint", {"authority_id": active, "reason": "a test"}
    )
    assert status == 409 and problem["title"] == "failed-precondition" and problem["detail"]
    assert server.rest("GET", "/v1/authority/nonsense")[0] == 400
    assert server.rest("GET", "/v1/nothing")[0] == 404
    assert server.rest("POST", "/v1/explain", {"selectors": ["nonsense"]})[0] == 400
    status, page = server.rest("GET", "/v1/ledger?limit=1&kind=x509")
    assert status == 200 and len(page["records"]) == 1
    record = page["records"][0]
    assert record["spiffe_id"] == "spiffe://example.org/spire/server"
    status, whole = server.rest("GET", f"/v1/ledger/{record['id']}")
    assert status == 200 and whole["certificate"] and whole["serial"] == record["serial"]
    seen, cursor = [], page["next_cursor"]
    while cursor:
        _, page = server.rest("GET", f"/v1/ledger?limit=1&kind=x509&cursor={cursor}")
        seen += [one["id"] for one in page["records"]]
        cursor = page["next_cursor"]
    assert record["id"] not in seen and len(set(seen)) == len(seen)
    assert server.rest("GET", "/v1/ledger/9-99")[0] == 404
    assert server.rest("GET", "/v1/ledger?cursor=%25%25")[0] == 400
    with pytest.raises((AssertionError, OSError, http.client.HTTPException)):
        assert server.rest("POST", "/v1/explain", {"selectors": ["u:" + "x" * (2 << 20)]})[0] == 200


async def get_bundle(server: Server) -> bundle_types.Bundle:
    """What an anonymous caller of an issuer sees."""
    own = Bundle.parse_pem(TD, (server.data / "bundle.pem").read_text())
    channel = Channel.tcp("127.0.0.1", server.port, TlsClient(server_id(TD), lambda: own))
    try:
        path = "/spire.api.server.bundle.v1.Bundle/GetBundle"
        return await channel.unary(path, bundle_pb2.GetBundleRequest(), bundle_types.Bundle, timeout=5)
    finally:
        await channel.close()


def test_issuers_serve_while_management_is_down(server: Server) -> None:
    before = server.pid_of("management-0")
    os.kill(before, signal.SIGKILL)
    for _ in range(3):
        assert asyncio.run(get_bundle(server)).x509_authorities
    server.until(
        lambda: any(e["process"] == "management-0" for e in server.events("process_ended")), "the notice"
    )

    def back() -> bool:
        try:
            return server.rest("GET", "/v1/health")[0] == 200
        except OSError:
            return False

    server.until(back, "management to come back")


def test_an_issuer_that_dies_comes_back(server: Server) -> None:
    os.kill(server.pid_of("issuer-1"), signal.SIGKILL)
    server.until(
        lambda: any(e["process"] == "issuer-1" for e in server.events("process_ended")), "the notice"
    )
    server.until(lambda: len(server.children()) == 3, "the issuer to come back")
    assert asyncio.run(get_bundle(server)).x509_authorities


def entry(name: str) -> entry_types.Entry:
    return entry_types.Entry(
        spiffe_id=SPIFFEID(trust_domain=TD.name, path=f"/{name}"),
        parent_id=SPIFFEID(trust_domain=TD.name, path="/p"),
        selectors=[Selector(type="unix", value="uid:1")],
    )


async def create_until_killed(server: Server, victim: int, round_: int) -> set[str]:
    """Creates entries one by one while the process is killed; the paths that were acknowledged."""
    acknowledged: set[str] = set()
    channel = Channel.unix(server.data / "server.sock")

    async def create() -> None:
        with contextlib.suppress(GatehouseError, OSError):
            for number in range(10_000):
                request = entry_pb2.BatchCreateEntryRequest(entries=[entry(f"r{round_}-{number}")])
                reply = await channel.unary(
                    ENTRY + "BatchCreateEntry", request, entry_pb2.BatchCreateEntryResponse, timeout=5
                )
                assert reply.results[0].status.code == 0
                acknowledged.add(reply.results[0].entry.spiffe_id.path)

    task = asyncio.create_task(create())
    await asyncio.sleep(0.2 + 0.07 * round_)
    os.kill(victim, signal.SIGKILL)
    await task
    await channel.close()
    return acknowledged


async def all_paths(server: Server) -> set[str]:
    channel = Channel.unix(server.data / "server.sock")
    paths: set[str] = set()
    token = ""
    while True:
        request = entry_pb2.ListEntriesRequest(page_size=500, page_token=token)
        reply = await channel.unary(ENTRY + "ListEntries", request, entry_pb2.ListEntriesResponse)
        paths |= {one.spiffe_id.path for one in reply.entries}
        token = reply.next_page_token
        if not token:
            await channel.close()
            return paths


def test_kill_9_loses_no_acknowledged_entry(short_dir: Path) -> None:
    server = Server(short_dir).start()
    try:
        acknowledged: set[str] = set()
        for round_ in range(2):
            ready = len(server.events("process_ready"))
            acknowledged |= asyncio.run(create_until_killed(server, server.pid_of("management-0"), round_))
            server.until(lambda ready=ready: len(server.events("process_ready")) > ready, "the restart")
        # Now everything at once: the supervisor, and with it, by themselves, the others.
        assert server.process is not None
        children = server.children()
        acknowledged |= asyncio.run(create_until_killed(server, server.process.pid, 9))
        server.process.wait(10)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline, "orphans remain"
            time.sleep(0.1)
        server.start()
        assert acknowledged and acknowledged <= asyncio.run(all_paths(server))
    finally:
        server.stop()
