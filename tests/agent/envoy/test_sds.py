"""Secrets for clients that we didn't write: grpcio with the stubs of xds-protos, as a process of its own.

The client's program comes from the test and prints JSON; what it prints is what is checked.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from control_plane.core.bundle import Bundle, X509Authority
from control_plane.core.errors import Unavailable
from control_plane.core.spiffe_id import TrustDomain

DOMAIN, OTHER = "spiffe://agents.test", TrustDomain("other.test")

CLIENT = """
import json, queue, sys
import grpc
from envoy.service.discovery.v3 import discovery_pb2 as d
from envoy.service.secret.v3 import sds_pb2_grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2 as v
TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
channel = grpc.insecure_channel(f"unix:{sys.argv[1]}")
stub = sds_pb2_grpc.SecretDiscoveryServiceStub(channel)

def told(resource):
    secret = secret_pb2.Secret()
    assert resource.Unpack(secret)
    kind = secret.WhichOneof("type")
    out = {"name": secret.name, "kind": kind}
    if kind == "tls_certificate":
        out["chain"] = secret.tls_certificate.certificate_chain.inline_bytes.decode()
        out["key"] = secret.tls_certificate.private_key.inline_bytes.decode()
    elif secret.validation_context.HasField("custom_validator_config"):
        found = v.SPIFFECertValidatorConfig()
        assert secret.validation_context.custom_validator_config.typed_config.Unpack(found)
        out["domains"] = {one.name: one.trust_bundle.inline_bytes.decode() for one in found.trust_domains}
    else:
        out["ca"] = secret.validation_context.trusted_ca.inline_bytes.decode()
    return out

class Stream:
    def __init__(self, method):
        self.requests = queue.Queue()
        self.call = method(iter(self.requests.get, None), timeout=30)
    def send(self, *names, **fields):
        self.requests.put(d.DiscoveryRequest(type_url=TYPE, resource_names=names, **fields))
    def delta(self, *names, **fields):
        self.requests.put(d.DeltaDiscoveryRequest(type_url=TYPE, resource_names_subscribe=names, **fields))
    def next(self):
        return next(self.call)
    def end(self):
        self.requests.put(None)

def say(**fields):
    print(json.dumps(fields), flush=True)
"""


# In order, grpcio sometimes waits for ever for the threads of requests that it dropped with their streams.
AT_ONCE = "\nimport os; os._exit(0)\n"


class Client:
    """The client's process; `told` is its next line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, socket: Path, program: str) -> Client:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT + program + AT_ONCE, str(socket),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, limit=1 << 22,
            )
        )  # fmt: skip

    async def told(self) -> Any:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 50)
        if not line:
            raise AssertionError((await self.process.stderr.read()).decode()[-3000:])
        return json.loads(line)

    def go_on(self) -> None:
        """Lets it read one line of its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def end(self) -> None:
        _, errors = await asyncio.wait_for(self.process.communicate(), 30)
        assert self.process.returncode == 0, errors.decode()[-3000:]


def identity(secret: dict[str, Any]) -> str:
    """Whose certificate it is; its key must be that of the certificate."""
    leaf = x509.load_pem_x509_certificates(secret["chain"].encode())[0]
    key = serialization.load_pem_private_key(secret["key"].encode(), password=None)
    assert key.public_key() == leaf.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def test_every_name_has_its_secret(agent_in: Any, entry: Any, run_async: Any, node_server: Any) -> None:
    foreign = Bundle(OTHER, (X509Authority(node_server.Ca(OTHER, 1_700_000_000).certificate),), sequence=1)

    async def work() -> None:
        first = entry("e1", "/one", federates_with=["other.test"])
        async with agent_in(
            first,
            entry("e2", "/two", created_at=2),
            before=lambda server: server.federated.update({OTHER: foreign}),
        ) as run:
            own = run.server.bundle.to_pem()
            names = ["default", f"{DOMAIN}/two", "ROOTCA", DOMAIN, "spiffe://other.test", "ALL"]
            unknown = [
                "file-root:/etc/ssl/cert.pem",
                "kubernetes://x",
                f"{DOMAIN}/three",
                "spiffe://none.test",
                "",
                "x" * 4000,
            ]
            program = f"""
answer = stub.FetchSecrets(d.DiscoveryRequest(resource_names={[*unknown, *names]!r}))
say(type=answer.type_url, secrets=[told(one) for one in answer.resources])
say(all=[told(one)["name"] for one in stub.FetchSecrets(d.DiscoveryRequest()).resources])
"""
            client = await Client.start(run.settings.socket_path, program)
            answer = await client.told()
            found = {one["name"]: one for one in answer["secrets"]}
            assert list(found) == names and answer["type"].endswith("tls.v3.Secret")
            assert identity(found["default"]) == f"{DOMAIN}/one"
            assert identity(found[f"{DOMAIN}/two"]) == f"{DOMAIN}/two"
            assert found["ROOTCA"]["ca"] == found[DOMAIN]["ca"] == own
            assert found["spiffe://other.test"]["ca"] == foreign.to_pem()
            assert found["ALL"]["domains"] == {"agents.test": own, "other.test": foreign.to_pem()}
            assert sorted((await client.told())["all"]) == sorted([*names, f"{DOMAIN}/one"])
            await client.end()

    run_async(work())


def test_a_stream_hears_of_rotation_and_a_rejection_is_no_loop(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    program = """
stream = Stream(stub.StreamSecrets)
stream.send("default", "file-root:x")
one = stream.next()
say(version=one.version_info, names=[told(each)["name"] for each in one.resources])
stream.send("default", "file-root:x", version_info=one.version_info, response_nonce=one.nonce)
two = stream.next()
say(version=two.version_info, nonces=[one.nonce, two.nonce])
error = {"code": 3, "message": "I don't like it"}
stream.send("default", "file-root:x", response_nonce=two.nonce, error_detail=error)
stream.send("ROOTCA", response_nonce=one.nonce)          # stale: left aside
stream.send("default", "ROOTCA", response_nonce=two.nonce)
three = stream.next()
say(version=three.version_info, names=[told(each)["name"] for each in three.resources])
stream.end()
say(rest=[answer.nonce for answer in stream.call], code=str(stream.call.code()))
"""

    async def work() -> None:
        async with agent_in(entry("e1", "/one")) as run:
            client = await Client.start(run.settings.socket_path, program)
            first = await client.told()
            assert first["names"] == ["default"]
            run.server.rotate(taint=True)
            second = await client.told()
            assert second["version"] != first["version"] and len(set(second["nonces"])) == 2
            third = await client.told()
            assert third["names"] == ["default", "ROOTCA"]
            assert await client.told() == {"rest": [], "code": "StatusCode.OK"}
            await client.end()

    run_async(work())


def test_a_delta_stream_hears_only_what_is_new(agent_in: Any, entry: Any, run_async: Any) -> None:
    program = """
stub.FetchSecrets(d.DiscoveryRequest(resource_names=["default"]))  # until it is signed
stream = Stream(stub.DeltaSecrets)
def answer():
    one = stream.next()
    stream.delta(response_nonce=one.nonce)
    say(names=[each.name for each in one.resources], removed=list(one.removed_resources),
        versions={each.name: each.version for each in one.resources})
    return {each.name: each.version for each in one.resources}
stream.delta("default", "ROOTCA", "spiffe://agents.test/two")
known = answer()
known |= answer()
stream.end()
assert list(stream.call) == []
stream = Stream(stub.DeltaSecrets)
stream.delta("default", "ROOTCA", initial_resource_versions=known | {"ROOTCA": "old"})
answer()
stream.end()
"""

    async def work() -> None:
        async with agent_in(entry("e1", "/one")) as run:
            client = await Client.start(run.settings.socket_path, program)
            assert (await client.told())["names"] == ["default", "ROOTCA"]
            run.server.put(entry("e2", "/two", created_at=2))
            second = await client.told()
            assert second["names"] == [f"{DOMAIN}/two"] and not second["removed"]
            assert (await client.told())["names"] == ["ROOTCA"]
            await client.end()

    run_async(work())


def test_nobody_gets_another_processes_identity(agent_in: Any, entry: Any, run_async: Any) -> None:
    program = """
stream = Stream(stub.StreamSecrets)
stream.send("spiffe://agents.test/two")
try:
    stream.next()
except grpc.RpcError as error:
    say(code=error.code().name, text=error.details())
"""

    async def work() -> None:
        async with agent_in(entry("e2", "/two", "unix:uid:4242")) as run:
            client = await Client.start(run.settings.socket_path, program)
            answer = await client.told()
            assert answer["code"] == "PERMISSION_DENIED" and "no identity issued" in answer["text"]
            await client.end()

    run_async(work())


def test_a_stream_ends_with_the_last_identity(agent_in: Any, entry: Any, run_async: Any) -> None:
    program = """
stream = Stream(stub.StreamSecrets)
stream.send("default")
say(names=[told(each)["name"] for each in stream.next().resources])
try:
    stream.next()
except grpc.RpcError as error:
    say(code=error.code().name)
"""

    async def work() -> None:
        async with agent_in(entry("e1", "/one")) as run:
            client = await Client.start(run.settings.socket_path, program)
            assert (await client.told())["names"] == ["default"]
            run.server.remove("e1")
            assert (await client.told())["code"] == "PERMISSION_DENIED"
            await client.end()

    run_async(work())


def test_hostile_requests_cost_their_stream_and_nothing_else(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    program = """
def outcome(send):
    stream = Stream(stub.StreamSecrets)
    send(stream)
    try:
        return stream.next().type_url.rpartition(".")[2]
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
raw = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")
def garbage(payload):
    try:
        return repr(next(raw(iter([payload]), timeout=10)))
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
wrong = d.DiscoveryRequest(type_url="type.googleapis.com/x.Y", resource_names=["default"])
say(type=outcome(lambda s: s.requests.put(wrong)))
say(many=outcome(lambda s: s.send(*(f"spiffe://agents.test/{i}" for i in range(100_000)))))
say(nonce=outcome(lambda s: s.send("default", response_nonce="n" * 1_000_000, version_info="v" * 1_000_000)))
say(garbage=garbage(b"\\xff" * 100))
say(text=garbage(b"\\x0a\\x02\\xff\\xfe"))
say(large=garbage(b"\\x1a" + b"\\x80\\x80\\x80\\x08" + b"x" * (8 << 20)))
# A flood that never acknowledges and asks for something else each time: the stream's state stays one answer.
stream = Stream(stub.StreamSecrets)
for number in range(5_000):
    stream.send("default", f"x{number}")
say(flood=told(stream.next().resources[0])["name"])
stream.end()
still = stub.FetchSecrets(d.DiscoveryRequest(resource_names=["ROOTCA"]))
say(still=[told(one)["name"] for one in still.resources])
"""

    async def work() -> None:
        async with agent_in(entry("e1", "/one")) as run:
            client = await Client.start(run.settings.socket_path, program)
            assert "asks for the type 'type.googleapis.com/x.Y'" in (await client.told())["type"]
            assert (await client.told())["many"].startswith(
                "RESOURCE_EXHAUSTED: a discovery request names 100000 resources"
            )
            assert (await client.told())["nonce"] == "Secret"
            for name in ("garbage", "text"):
                assert (await client.told())[name].startswith("INVALID_ARGUMENT: the request of")
            assert (await client.told())["large"].startswith("RESOURCE_EXHAUSTED")
            assert (await client.told())["flood"] == "default"
            assert (await client.told())["still"] == ["ROOTCA"]
            await client.end()
            assert run.agent.identities.match(frozenset()) == ()

    run_async(work())


def test_whoever_comes_before_the_agent_knows_anything_is_asked_to_come_again(
    agent_in: Any, entry: Any, run_async: Any
) -> None:
    program = """
try:
    stub.FetchSecrets(d.DiscoveryRequest(resource_names=["default"]))
except grpc.RpcError as error:
    say(code=error.code().name, text=error.details())
"""

    async def work() -> None:
        def silent(server: Any) -> None:
            server.refuse["AttestAgent"] = Unavailable("starting")

        async with agent_in(entry("e1", "/one"), before=silent, wait=False) as run:
            await run.until(run.settings.socket_path.exists, "the socket")
            client = await Client.start(run.settings.socket_path, program)
            answer = await client.told()
            assert answer["code"] == "UNAVAILABLE" and "the agent isn't ready" in answer["text"]
            await client.end()

    run_async(work())
