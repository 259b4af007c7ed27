"""Generated policies and requests: what the running Envoy answers is what the evaluator of Rego says.

The whole way from Rego's text: compiled and proved for the edge, delivered by the agent's own discovery
service, enforced by Envoy on mutual TLS; what Envoy's rules can't say is asked of the agent. Requests come
from several identities over HTTP and TCP. Seeded; GATEHOUSE_EDGE_POLICIES says how many policies.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.enforcement.ports import Ruling, WorkloadPolicy
from agent.envoy.request_input import input_document
from control_plane.core.spiffe_id import SpiffeId
from control_plane.proto import workloadapi_pb2 as pb
from policies.edge import edge_policies
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.project import Project
from policies.rulings import Rulings

POLICIES = int(os.environ.get("GATEHOUSE_EDGE_POLICIES", "34"))
REQUESTS = 150  # of each policy over HTTP; 34 * 150 > 5,000
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
TEAMS = (None, "", "red", "Red", "blue,red")

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
    'not input.destination.service == "raw"',
    "count(input.request.path) > 3",  # nothing that Envoy knows
)


def random_policy(dice: random.Random) -> str:
    """Rego with some rules of each kind; a request has to match all conditions of one."""
    lines = ["package gatehouse.authz", "import future.keywords.not"]
    for kind, most in (("allow", 4), ("deny", 2)):
        for _ in range(dice.randint(kind == "allow", most)):
            chosen = dice.sample(CONDITIONS, dice.randint(1, 3))
            lines.append(f"{kind} if {{\n\t" + "\n\t".join(chosen) + "\n}")
    return "\n".join(lines)


def shop(http: int, raw: int) -> Inventory:
    """The service with its two ports, and the callers that an inventory knows."""
    ports = {"api": (http, "http"), "raw": (raw, "tcp")}
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


class Caller:
    """One identity with a connection to the service that is kept open."""

    def __init__(self, identity: str, context: ssl.SSLContext) -> None:
        self.identity = identity
        self.context = context
        self.opened: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # An SVID has no host name, and whom Envoy lets in is what is asked here, not who Envoy is.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(path)
        found.append(Caller(svid.spiffe_id, context))
    return found


def certificates(chain: bytes) -> list[x509.Certificate]:
    from agent.cli_client import split

    return [x509.load_der_x509_certificate(one) for one in split(chain)]


@pytest.mark.timeout(400)
def test_the_running_envoy_answers_as_the_evaluator_says(
    lab: Any, entry: Any, enforcing: Any, short_dir: Path
) -> None:
    dice = random.Random(5)

    async def work() -> None:
        paths = [one.removeprefix(DOMAIN) for one in (PAY, *CALLERS)]
        async with lab(*(entry(f"e{n}", path) for n, path in enumerate(paths))) as it:
            envoy, http, raw = await it.service(PAY)
            inventory = shop(http, raw)
            clients = await callers(it, short_dir)
            seen: dict[str, set[bool]] = {"http": set(), "tcp": set(), "custom": set()}
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
                for _ in range(REQUESTS):
                    caller, sent = dice.choice(clients), dice.choice(sorted(PATHS))
                    method, host, team = dice.choice(METHODS), dice.choice(HOSTS), dice.choice(TEAMS)
                    headers = {} if team is None else {"x-team": team}
                    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                    request = f"{method} {sent} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: 0\r\n\r\n"
                    document = input_document(
                        principal=caller.identity, address="127.0.0.1", port=http, method=method,
                        path=PATHS[sent], host=host, headers=headers,
                    )  # fmt: skip
                    says = rulings.judge("shop/pay", document).allowed
                    seen["http"].add(says)
                    ask = partial(caller.ask, http, request.encode())
                    answer = await settled(ask, 200 if says else 403)
                    assert answer == (200 if says else 403), (text, caller.identity, request)
                if policy.custom:
                    continue  # the agent isn't asked about TCP, which is refused where Envoy can't say it
                for caller in clients:
                    document = input_document(principal=caller.identity, address="127.0.0.1", port=raw)
                    says = rulings.judge("shop/pay", document).allowed
                    seen["tcp"].add(says)
                    answer = await settled(partial(caller.reaches, raw), says)
                    assert answer == says, (text, caller.identity, "TCP")
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
