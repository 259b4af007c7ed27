"""Fuzz targets of the agent: what Envoys ask, what services say of themselves, what the disk and the server
give back.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.discovery.v3 import discovery_pb2
from fuzz_files import InMemory
from fuzz_identity import BUNDLE, LEAF, NOW, TD, WEB

from agent import cache_content
from agent.enforcement.bundle import read_policy
from agent.enforcement.news import Held, Quarantine
from agent.enforcement.ports import Ruling
from agent.envoy.authorization import Authorization
from agent.envoy.description_file import read_description
from agent.envoy.resources import KINDS
from agent.envoy.sds import SECRETS
from agent.envoy.streams import DELTA, STATE_OF_THE_WORLD, Subscriptions
from agent.envoy.subscription import Resource
from agent.holdings import HeldSvid
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError
from control_plane.core.secret import Secret
from control_plane.core.signature import POLICY_BUNDLE
from control_plane.core.svid import X509Svid
from control_plane.proto.gatehouse.node.v1 import node_pb2

_CLUSTER: Final = KINDS[0].type_url
_HAD: Final = {name: Resource(name, "1", b"") for name in ("a", "b")}


def fuzz_xds(data: bytes) -> bool:
    """Two requests of one discovery stream, cut where a line ends, in both dialects; each is answered."""
    accepted = False
    for dialect in (STATE_OF_THE_WORLD, DELTA):
        for kinds in (KINDS, (SECRETS,)):
            subscriptions = Subscriptions(kinds, dialect, 1)
            with contextlib.suppress(GatehouseError):
                for payload in data.split(b"\n--\n", 1):
                    ask = subscriptions.take(payload)
                    found = subscriptions.get(ask.type_url or kinds[0].type_url)
                    if found is not None and (answer := found.due(_HAD)) is not None:
                        dialect.write(answer)
                        accepted = True
    return accepted


class _Agent:
    """Knows everybody, attests everybody, allows everything."""

    asked: object = None

    def match(self, selectors: object) -> list[object]:
        return [SimpleNamespace(spiffe_id=WEB)]

    async def of(self, peer: object) -> object:
        return SimpleNamespace(selectors=frozenset())

    def decide(self, destination: object, document: object) -> Ruling:
        self.asked = document
        return Ruling(allowed=True, reason="all is", lines=("policy.rego:1",), version=1, certain=True)

    def not_entitled(self, destination: object) -> GatehouseError:
        return GatehouseError("no")


def fuzz_check_request(data: bytes) -> bool:
    """What Envoy's ext_authz asks: a decision, or a refusal."""
    agent = cast(Any, _Agent())
    authorization = Authorization(agent, agent, agent, agent)
    call = cast(Any, SimpleNamespace(peer=SimpleNamespace(attributes={})))
    request = SimpleNamespace(SerializeToString=lambda: data)
    with contextlib.suppress(GatehouseError):
        checking: Coroutine[Any, Any, bytes] = authorization.check(call, request)
        with contextlib.suppress(StopIteration):
            checking.send(None)
            raise AssertionError("it waits")
        return True
    return False


def fuzz_description(data: bytes) -> bool:
    """A service's description, TOML or YAML; what is read reads the same from its plain values."""
    InMemory.content = data
    accepted = False
    for name in ("service.toml", "service.yaml"):
        with contextlib.suppress(GatehouseError):
            read = read_description(InMemory(name))
            assert type(read).parse(read.to_document()) == read
            accepted = True
    return accepted


def fuzz_agent_cache(data: bytes) -> bool:
    """The cache's content behind its authentication: what is read is written as it was."""
    accepted = False
    with contextlib.suppress(GatehouseError):
        agent = cache_content.parse_agent(data)
        assert cache_content.parse_agent(cache_content.dump_agent(agent)) == agent
        accepted = True
    with contextlib.suppress(GatehouseError):
        workloads = cache_content.parse_workloads(data)
        assert cache_content.parse_workloads(cache_content.dump_workloads(workloads)) == workloads
        accepted = True
    return accepted


def fuzz_policy_held(data: bytes) -> bool:
    """What an agent keeps of pushes."""
    with contextlib.suppress(GatehouseError):
        read = Held.parse(data)
        assert Held.parse(read.dump()) == read
        return True
    return False


def fuzz_signed_policy(data: bytes) -> bool:
    """A policy that one of the server's keys has signed: packed as it should be, and as it comes."""
    accepted = False
    for payload in (zlib.compress(data, 0), data):
        signature = _SIGNER.sign(POLICY_BUNDLE + payload)
        signed = node_pb2.SignedPolicy(payload=payload, signature=signature, key_id="k")
        with contextlib.suppress(GatehouseError):
            read_policy(signed, {"k": _SIGNER_PUBLIC}, TD)
            accepted = True
    return accepted


_SIGNER: Final = Ed25519PrivateKey.generate()
_SIGNER_PUBLIC: Final = _SIGNER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _asks() -> list[bytes]:
    world = discovery_pb2.DiscoveryRequest(type_url=_CLUSTER, resource_names=["a"], version_info="1")
    world.node.id = "web"
    world.node.metadata.update({"gatehouse": {"service": {"name": "web"}}})
    again = discovery_pb2.DiscoveryRequest(type_url=_CLUSTER, resource_names=["b"], response_nonce="1")
    again.error_detail.message = "no"
    delta = discovery_pb2.DeltaDiscoveryRequest(type_url=_CLUSTER, resource_names_subscribe=["a", "*"])
    delta.initial_resource_versions["b"] = "1"
    less = discovery_pb2.DeltaDiscoveryRequest(type_url=_CLUSTER, resource_names_unsubscribe=["a"])
    streams = ((world, again), (delta, less))
    return [b"\n--\n".join(one.SerializeToString() for one in stream) for stream in streams]


def _checks() -> list[bytes]:
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.source.principal = attributes.destination.principal = str(WEB)
    attributes.source.address.socket_address.address = "10.0.0.1"
    attributes.destination.address.socket_address.port_value = 8443
    attributes.tls_session.sni = "web.test"
    attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].update(
        {"payload": {"iss": "https://issuer.test", "aud": ["a"], "exp": NOW}}
    )
    plain = request.SerializeToString()
    http = attributes.request.http
    http.method, http.path, http.host = "GET", "/a?b=c", "web.test:8443"
    http.headers["x-a"] = "1"
    return [plain, request.SerializeToString()]


_TOML: Final = b"""name = "web"
spiffe_id = "spiffe://example.org/web"
[[inbound]]
listen = "0.0.0.0:8443"
upstream = "127.0.0.1:8080"
protocol = "http"
[[outbound]]
name = "db"
listen = "127.0.0.1:15432"
upstream = "10.0.0.7:9432"
spiffe_id = "spiffe://example.org/db"
protocol = "tcp"
"""
_YAML: Final = b"""name: web
spiffe_id: spiffe://example.org/web
inbound:
- {listen: "0.0.0.0:8443", upstream: "127.0.0.1:8080", protocol: http}
"""


def _caches() -> list[bytes]:
    held = HeldSvid(X509Svid.from_chain([LEAF]), Secret(b"key"), NOW)
    credential = cache_content.AgentCredential(held, True, "x509pop", "e")
    entry = Entry.parse(spiffe_id=str(WEB), parent_id=str(WEB), selectors=["unix:uid:1"], id="one")
    workloads = cache_content.WorkloadsContent(TD, (entry,), {"one": held}, (BUNDLE,), NOW)
    return [
        cache_content.dump_agent(cache_content.AgentContent(TD, credential, BUNDLE, ("a",))),
        cache_content.dump_workloads(workloads),
    ]


def _policy() -> bytes:
    policy = node_pb2.PolicyBundle(trust_domain=TD.name, sequence=1, version=1, digest="sha256:a")
    policy.files.add(path="a.rego", content=b"package a")
    policy.inventory = b"version: 1\n"
    return policy.SerializeToString()


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "xds": _asks,
    "check_request": _checks,
    "description": lambda: [_TOML, _YAML],
    "agent_cache": _caches,
    "policy_held": lambda: [
        Held({"k": b"key"}, {}, node_pb2.SignedPolicy(key_id="k"), Quarantine(1, frozenset({WEB}))).dump()
    ],
    "signed_policy": lambda: [_policy(), zlib.compress(_policy())],
}
