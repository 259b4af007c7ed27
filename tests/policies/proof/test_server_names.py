"""Server names of TLS, asked of Envoy itself: absent, empty and given, against the model and the emitter.

Envoy's matcher sees an empty text where the client sent no name. The greeting goes out as bytes, so that one
with an empty name can be sent too; what a listener lets through, it echoes.
"""

import socket
import ssl
from types import ModuleType

import pytest
import yaml

from policies import formula as f
from policies.formula import Decision, Disjunct, Question
from policies.inventory_file import inventory_from_document
from policies.proof.dimensions import Dimensions
from policies.proof.envoy_policy import RbacReader
from policies.proof.space import Space
from policies.targets.emission import Options
from policies.targets.envoy_rbac import emit_workload
from policies.targets.manifest import files

NAMES = (None, "shop.test", "a.test", "aa", "SHOP.test")
MATCHERS = [
    {"safe_regex": {"regex": ".+"}}, {"safe_regex": {"regex": ".*"}}, {"safe_regex": {"regex": "a*"}},
    {"exact": ""}, {"exact": "shop.test"}, {"exact": "Shop.TEST", "ignore_case": True}, {"prefix": "shop"},
    {"suffix": ".test"}, {"contains": "op"},
]  # fmt: skip
FORMULAS = [
    f.present(f.SNI), f.equals(f.SNI, "shop.test"), f.equals(f.SNI, ""), f.differs(f.SNI, "shop.test"),
    f.one_of(f.SNI, ["", "aa"]), f.starts_with(f.SNI, "shop"), f.ends_with(f.SNI, ".test"),
    f.contains(f.SNI, "op"), f.matches(f.SNI, "^a*$"), f.matches_glob(f.SNI, "*", (".",)),
]  # fmt: skip
RBAC = "network.rbac.v3.RBAC"


def greeting(name: str | None) -> bytes:
    """The first message of a TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def with_empty_name(hello: bytes) -> bytes:
    """A greeting whose server name is the one character `a`, with an empty one instead."""
    entry = b"\x00\x00\x00\x06\x00\x04\x00\x00\x01a"  # extension 0, its length, the list's, a host name of 1
    at = hello.index(entry)
    shorter = hello[:at] + b"\x00\x00\x00\x05\x00\x03\x00\x00\x00" + hello[at + len(entry) :]
    fixed = bytearray(shorter)
    extensions = at - 2  # it is the first extension, behind the length of all
    for place, size in ((3, 2), (6, 3), (extensions, 2)):
        length = int.from_bytes(fixed[place : place + size], "big") - 1
        fixed[place : place + size] = length.to_bytes(size, "big")
    return bytes(fixed)


def echoed(port: int, data: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        try:
            return bool(connection.recv(1))
        except ConnectionResetError:
            return False


def guarded(envoy: ModuleType, port: int, filters: list[object]) -> dict[str, object]:
    echo = {"name": "echo", "typed_config": {"@type": envoy.TYPES + "network.echo.v3.Echo"}}
    found: dict[str, object] = envoy.listener(port, [*filters, echo], "tls_inspector")
    return found


def test_matchers_mean_what_the_model_says(envoy: ModuleType) -> None:
    nodes = [{"requested_server_name": one} for one in MATCHERS]
    nodes += [{"not_rule": one} for one in nodes]
    ports = envoy.free_ports(len(nodes))
    configs = []
    for node in nodes:
        policy = {"permissions": [node], "principals": [{"any": True}]}
        rules = {"action": "ALLOW", "policies": {"p": policy}}
        configs.append({"@type": envoy.TYPES + RBAC, "stat_prefix": "t", "rules": rules})
    listeners = [
        guarded(envoy, port, [{"name": "rbac", "typed_config": config}])
        for port, config in zip(ports, configs, strict=True)
    ]
    space, dimensions = Space(), Dimensions.of(strict=True)
    with envoy.running(listeners, ports):
        for port, config in zip(ports, configs, strict=True):
            meaning = RbacReader(space, dimensions, http=False).filter({"typed_config": config})
            for name in NAMES:
                values = {} if name is None else {dimensions.sni: name.lower()}
                assert echoed(port, greeting(name)) == space.holds(meaning, values), (config, name)
        unnamed, empty = greeting(None), with_empty_name(greeting("a"))
        answers = [echoed(port, unnamed) for port in ports]
        assert [echoed(port, empty) for port in ports] == answers, "an empty name isn't counted as none"
        assert [echoed(port, greeting("a")) for port in ports] != answers


def test_what_is_emitted_means_what_rego_says(envoy: ModuleType) -> None:
    formulas = [*FORMULAS, *map(f.negate, FORMULAS)]
    ports = envoy.free_ports(2 * len(formulas))
    workloads = [
        {"name": f"w{port}", "namespace": "n", "mode": "envoy", "labels": {"app": f"w{port}"},
         "services": [{"name": "s", "ports": [{"port": port, "protocol": "tcp"}]}]}
        for port in ports
    ]  # fmt: skip
    inventory = inventory_from_document({"mesh": {"trust_domain": "example.org"}, "workloads": workloads})
    listeners, questions = [], {}
    for index, port in enumerate(ports):
        formula = formulas[index // 2]
        allow, deny = (formula, f.FALSE) if index % 2 else (f.TRUE, formula)
        asked = Question(Decision.of(Disjunct(allow)), Decision.of(Disjunct(deny)))
        emission = emit_workload(asked, inventory.by_key[f"n/w{port}"], inventory, "x", Options())
        documents = [yaml.safe_load(text) for text in files(emission.manifests).values()]
        (document,) = (one for one in documents if one["kind"] == "EnvoyRbac")
        listeners.append(guarded(envoy, port, document["tcp"]))
        questions[port] = asked
    with envoy.running(listeners, ports):
        for port, asked in questions.items():
            for name in NAMES:
                request = f.Request.of({} if name is None else {f.SNI: name.lower()})
                assert echoed(port, greeting(name)) == f.evaluate(asked.formula, request), (asked, name)
