"""Generated policies and requests: what the running Envoy answers is what the evaluator of Rego says.

The whole way from Rego's text: compiled and proved for the edge, delivered by the agent's own discovery
service, enforced by Envoy on mutual TLS; what Envoy's rules can't say is asked of the agent. Requests come
from several identities over HTTP/1.1, HTTP/2, gRPC and TCP, and a real OPA, where there is one, is asked what
it says. Seeded; GATEHOUSE_EDGE_POLICIES says how many policies.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from http2_caller import Http2Caller

from agent.enforcement.ports import Ruling, WorkloadPolicy
from agent.envoy.request_input import input_document
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto import workloadapi_pb2 as pb
from policies.edge import edge_policies
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.project import Project
from policies.questions import destination_document, inventory_document
from policies.rulings import Rulings

POLICIES = int(os.environ.get("GATEHOUSE_EDGE_POLICIES", "34"))
REQUESTS = 150  # of each policy over HTTP and gRPC; 34 * 150 > 5,000
PATIENCE_SECONDS = 5.0
DOMAIN = "spiffe://agents.test"
PAY = f"{DOMAIN}/ns/shop/sa/pay"
CALLERS = (f"{DOMAIN}/ns/shop/sa/web", f"{DOMAIN}/ns/lab/sa/web", f"{DOMAIN}/ns/lab/sa/unknown")
# As sent, and as a policy sees it.
PATHS = {
    "/": "/", "/a": "/a", "/a/": "/a/", "/a/b": "/a/b", "/a/b/c": "/a/b/c", "/admin": "/admin", "/A": "/A",
    "/a*": "/a*", "/a.b": "/a.b", "/a/../b": "/b", "//a": "/a", "/%61/b": "/a/b", "/a/./b?c=/admin": "/a/b",
    "/b;v=1": "/b;v=1", "/shop.v1.Pay/Charge": "/shop.v1.Pay/Charge", "/%2e%2e/admin": "/admin", "/a?": "/a",
}  # fmt: skip
HOSTS = ("shop.test", "Shop.TEST", "a.test:8443", "x")
METHODS = ("GET", "POST", "PUT", "DELETE")
CALLS = ("/shop.v1.Pay/Charge", "/shop.v1.Pay/Refund", "/a/b", "/admin")  # methods of gRPC
TEAMS = ((), ("",), ("red",), ("Red",), ("blue,red",), ("red", "blue"))  # lines of one header

CONDITIONS = (
    'input.request.method == "GET"',
    'input.request.method in {"POST", "PUT"}',
    'input.request.method != "DELETE"',
    'input.request.path == "/a"',
    'startswith(input.request.path, "/a")',
    'not startswith(input.request.path, "/a/")',
    'endswith(input.request.path, "b")',
    'contains(input.request.path, ".")',
    'glob.match("/a/*", ["/"], input.request.path)',
    'glob.match("/**/b", ["/"], input.request.path)',
    'regex.match("^/[a-b](/|$)", input.request.path)',
    'not input.request.path in {"/admin", "/"}',
    'input.request.host == "shop.test"',
    'endswith(input.request.host, ".test")',
    'input.request.headers["x-team"]',
    'input.request.headers["x-team"] == "red"',
    'not input.request.headers["x-team"] == "red"',
    'startswith(input.request.headers["x-team"], "blue")',
    'input.source.namespace == "shop"',
    'input.source.labels.tier == "web"',
    'not input.source.labels.tier == "web"',
    'input.source.service_account == "web"',
    f'input.source.spiffe_id == "{CALLERS[2]}"',
    'startswith(input.source.spiffe_id, "spiffe://agents.test/ns/lab/")',
    'input.source.trust_domain == "agents.test"',
    'net.cidr_contains("127.0.0.0/8", input.source.ip)',
    "input.connection.mtls",
    'input.destination.service == "raw"',
    'input.destination.service == "rpc"',
    'startswith(input.request.path, "/shop.v1.Pay/")',
    'not input.destination.service == "raw"',
    "count(input.request.path) > 3",  # nothing that Envoy knows
)


WAYS = ("http/1.1", "h2", "grpc")
GRPC = {"content-type": "application/grpc", "te": "trailers"}


def random_request(dice: random.Random) -> Sent:
    way, host, team = dice.choice(WAYS), dice.choice(HOSTS), dice.choice(TEAMS)
    if way == "grpc":
        return Sent(way, "POST", dice.choice(CALLS), host, team)
    return Sent(way, dice.choice(METHODS), dice.choice(sorted(PATHS)), host, team)


def random_policy(dice: random.Random) -> str:
    """Rego with some rules of each kind; a request has to match all conditions of one."""
    lines = ["package gatehouse.authz", "import future.keywords.not"]
    for kind, most in (("allow", 4), ("deny", 2)):
        for _ in range(dice.randint(kind == "allow", most)):
            chosen = dice.sample(CONDITIONS, dice.randint(1, 3))
            lines.append(f"{kind} if {{\n\t" + "\n\t".join(chosen) + "\n}")
    return "\n".join(lines)


def shop(http: int, raw: int, rpc: int) -> Inventory:
    """The service with its ports, and the callers that an inventory knows."""
    ports = {"api": (http, "http"), "raw": (raw, "tcp"), "rpc": (rpc, "grpc")}
    services = [
        {"name": name, "ports": [{"port": port, "protocol": protocol}]}
        for name, (port, protocol) in ports.items()
    ]
    known = [("pay", "shop", "pay", services), ("web", "shop", "web", []), ("web", "lab", "batch", [])]
    return inventory_from_document(
        {
            "mesh": {"trust_domain": "agents.test"},
            "workloads": [
                {"name": name, "namespace": namespace, "service_account": name, "mode": "envoy",
                 "labels": {"app": name, "tier": tier}, "services": found}
                for name, namespace, tier, found in known
            ],
        }
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: how it travels (`http/1.1`, `h2`, `grpc`), and what is in it."""

    way: str
    method: str
    path: str
    host: str
    teams: tuple[str, ...]

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [("x-team", one) for one in self.teams]

    def seen(self, caller: str, ports: Mapping[str, int]) -> dict[str, Any]:
        """As a policy sees it."""
        headers = {"x-team": ",".join(self.teams)} if self.teams else {}
        if self.way == "grpc":
            headers |= GRPC
        elif self.way == "http/1.1":
            headers["content-length"] = "0"
        return dict(
            input_document(
                principal=caller, address="127.0.0.1", port=ports["grpc" if self.way == "grpc" else "http"],
                method=self.method, path=PATHS.get(self.path, self.path), host=self.host, headers=headers,
            )
        )  # fmt: skip


class Caller:
    """One identity with connections to the service that are kept open."""

    def __init__(
        self, identity: str, contexts: Callable[[], ssl.SSLContext], ports: Mapping[str, int]
    ) -> None:
        self.identity = identity
        self.context = contexts()
        self.ports = ports
        self.http2 = Http2Caller(ports["http"], contexts())
        self.grpc = Http2Caller(ports["grpc"], contexts())
        self.opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def admits(self, sent: Sent) -> bool:
        """Whether Envoy lets the request pass. Fails for an answer that says neither."""
        if sent.way == "http/1.1":
            lines = "".join(f"{name}: {value}\r\n" for name, value in sent.headers)
            head = (
                f"{sent.method} {sent.path} HTTP/1.1\r\nhost: {sent.host}\r\n{lines}content-length: 0\r\n\r\n"
            )
            status = await self.ask(self.ports["http"], head.encode())
            assert status in (200, 403), (status, sent)
            return status == 200
        fields = [
            (":method", sent.method), (":scheme", "https"), (":authority", sent.host), (":path", sent.path),
            *sent.headers,
        ]  # fmt: skip
        if sent.way == "h2":
            answer = await self.http2.ask(fields)
            assert answer.status in (200, 403), (answer, sent)
            return answer.status == 200
        answer = await self.grpc.ask([*fields, *GRPC.items()], b"\0\0\0\0\0")
        # Its service knows none of these methods (12); Envoy refuses with 7.
        assert (answer.status, answer.grpc) in ((200, "12"), (200, "7")), (answer, sent)
        return answer.grpc == "12"

    async def ask(self, port: int, request: bytes) -> int:
        """The status; a connection that Envoy closed is opened again."""
        for attempt in (0, 1):
            if self.opened is None:
                self.opened = await asyncio.open_connection("127.0.0.1", port, ssl=self.context)
            reader, writer = self.opened
            try:
                writer.write(request)
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode().lower()
                length = head.partition("content-length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length or 0))
            except (OSError, asyncio.IncompleteReadError):
                writer.close()
                self.opened = None
                assert not attempt, f"no answer to {request!r}"
                continue
            return int(head.split()[1])
        raise AssertionError

    async def reaches(self, port: int) -> bool:
        """Whether bytes come back from the TCP service."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self.context)
            writer.write(b"ping")
            answer = await asyncio.wait_for(reader.read(4), 20)
            writer.close()
        except OSError:
            return False
        return answer == b"ping"


async def callers(it: Any, folder: Path) -> list[Caller]:
    """The identities of this very process, from the Workload API."""
    async with it.run.x509() as call:
        message: pb.X509SVIDResponse
        while True:
            message = await asyncio.wait_for(call.receive(), 20)
            if {*CALLERS} <= {one.spiffe_id for one in message.svids}:
                break
    found = []
    for number, svid in enumerate(message.svids):
        if svid.spiffe_id not in CALLERS:
            continue
        path = folder / f"{number}.pem"
        key = serialization.load_der_private_key(svid.x509_svid_key, password=None)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates(svid.x509_svid))
        )

        def contexts(path: Path = path) -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # An SVID has no host name, and whom Envoy lets in is what is asked here, not who Envoy is.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.load_cert_chain(path)
            return context

        found.append(Caller(svid.spiffe_id, contexts, it.ports))
    return found


def certificates(chain: bytes) -> list[x509.Certificate]:
    from agent.cli_client import split

    return [x509.load_der_x509_certificate(one) for one in split(chain)]


def completed(document: Mapping[str, Any], inventory: Inventory) -> dict[str, Any]:
    """The document with what the inventory knows of both ends, as a sidecar has to give it to OPA."""
    pay = inventory.by_key["shop/pay"]
    ports = {port.target_port: service.name for service in pay.services for port in service.ports}
    destination = destination_document(pay, ports[document["destination"]["port"]])
    source = dict(document["source"])
    known = inventory.by_identity.get(source["spiffe_id"])
    facts = {"trust_domain": "agents.test"} if known is None else destination_document(known[0], None)
    return {
        **document,
        "destination": {**destination, **document["destination"]},
        "source": {**facts, **source},
    }


async def opa_says(
    opa: Path, folder: Path, text: str, documents: list[dict[str, Any]], inventory: Inventory
) -> list[bool]:
    """What a real OPA answers to each."""
    policy, data = folder / "policy.rego", folder / "data.json"
    policy.write_text(text)
    data.write_text(json.dumps({"inventory": inventory_document(inventory), "asked": documents}))
    yes = "count([1 | data.gatehouse.authz.{} with input as one]) > 0"
    query = f"[x | one := data.asked[_]; x := [{yes.format('allow')}, {yes.format('deny')}]]"
    process = await asyncio.create_subprocess_exec(
        opa, "eval", "-f", "json", "-d", policy, "-d", data, query, stdout=PIPE, stderr=PIPE
    )
    out, told = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, (out.decode()[:2000], told.decode()[:2000], text)
    return [a and not d for a, d in json.loads(out)["result"][0]["expressions"][0]["value"]]


@pytest.fixture
def real_opa(peer: Callable[[str], Path]) -> Path | None:
    """The real OPA, where there is one."""
    try:
        return peer("opa")
    except pytest.skip.Exception:
        return None


@pytest.mark.timeout(400)
def test_the_running_envoy_answers_as_the_evaluator_says(
    lab: Any, entry: Any, enforcing: Any, short_dir: Path, real_opa: Path | None
) -> None:
    dice = random.Random(5)

    async def work() -> None:
        paths = [one.removeprefix(DOMAIN) for one in (PAY, *CALLERS)]
        async with lab(*(entry(f"e{n}", path) for n, path in enumerate(paths))) as it:
            envoy, http, raw = await it.service(PAY)
            inventory = shop(http, raw, it.ports["grpc"])
            clients = await callers(it, short_dir)
            seen: dict[str, set[bool]] = {way: set() for way in (*WAYS, "tcp", "custom")}
            for sequence in range(1, POLICIES + 1):
                text = random_policy(dice)
                project = Project.of({"a.rego": text})
                (edge,) = edge_policies(project, inventory, frozenset({PAY}))
                rulings = Rulings(project.compiled(), inventory, project.data)
                policy = WorkloadPolicy(
                    edge.workload, SpiffeId.parse(PAY), edge.http, edge.tcp, edge.lines, bool(edge.narrower)
                )

                def judge(_: SpiffeId, request: Any, rulings: Rulings = rulings) -> Ruling:
                    return Ruling(rulings.judge("shop/pay", request).allowed, "as the evaluator says")

                it.enforcement.judge = judge
                it.enforcement.put(enforcing(policy, sequence=sequence))
                seen["custom"].add(policy.custom)
                asked: list[tuple[dict[str, Any], bool]] = []
                for _ in range(REQUESTS):
                    caller, sent = dice.choice(clients), random_request(dice)
                    document = sent.seen(caller.identity, it.ports)
                    says = rulings.judge("shop/pay", document).allowed
                    seen[sent.way].add(says)
                    asked.append((document, says))
                    answer = await settled(partial(caller.admits, sent), says)
                    assert answer == says, (text, caller.identity, sent)
                for caller in clients:
                    document = dict(input_document(principal=caller.identity, address="127.0.0.1", port=raw))
                    says = rulings.judge("shop/pay", document).allowed
                    seen["tcp"].add(says)
                    asked.append((document, says))
                    answer = await settled(partial(caller.reaches, raw), says)
                    assert answer == says, (text, caller.identity, "TCP")
                if real_opa is not None:
                    whole = [completed(document, inventory) for document, _ in asked]
                    theirs = await opa_says(real_opa, short_dir, text, whole, inventory)
                    for (document, says), allowed in zip(asked, theirs, strict=True):
                        assert allowed == says, (text, document)
            assert seen == {kind: {True, False} for kind in seen}
            assert await envoy.stat(r".*update_rejected") == 0

    async def settled(ask: Any, wanted: Any) -> Any:
        """The answer, asked again for a while if it isn't the wanted one: the first requests may meet the
        policy before, and an agent on a machine without a free core may judge too late, which denies."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while (answer := await ask()) != wanted:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.02)
        return answer

    asyncio.run(work())
