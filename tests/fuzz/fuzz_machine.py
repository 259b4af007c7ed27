"""Fuzz targets of what the machine says: /proc, the environment, settings of the agent, keys in files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_der_x509_certificate
from fuzz_files import InMemory
from fuzz_identity import AUTHORITY, LEAF

from agent.attest.process import Credentials, parse_start_time
from agent.endpoint import parse_endpoint
from agent.envoy.address import Address
from agent.envoy.files import foreign
from agent.node_attestors import X509ProofOfPossession
from agent.settings import ENVIRONMENT_PREFIX, AgentSettings, WrittenSettings
from control_plane.authority.disk_keys import parse_key
from control_plane.core.errors import GatehouseError
from control_plane.runtime import settings
from control_plane.runtime.otlp import Collector

_STATUS: Final = (
    "Name:\t{}\nUmask:\t0022\nState:\tS (sleeping)\nPid:\t7\nUid:\t1000\t1001\t1002\t1003\n"
    "Gid:\t100\t101\t102\t103\nFDSize:\t64\nGroups:\t4 27 101 \nVmPeak:\t 8 kB\n"
)
_STAT: Final = "7 ({}) S 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4242 1000 10 184467\n"
_FILE: Final = InMemory("input")


def fuzz_process(data: bytes) -> bool:
    """/proc/PID/status and stat: as they come, and with a name that a process gave itself, which may hold
    anything but the line feed and the backslash that the kernel writes differently."""
    text = data.decode("utf-8", "surrogateescape")
    name = text[:64].replace("\\", "\\\\").replace("\n", "\\n")
    assert Credentials.parse(_STATUS.format(name)) == Credentials(1001, 101, (4, 27, 101))
    assert parse_start_time(_STAT.format(text[:64])) == "4242"
    accepted = False
    for read in (Credentials.parse, parse_start_time):
        with contextlib.suppress(ValueError):
            read(text)
            accepted = True
    return accepted


def fuzz_agent_settings(data: bytes) -> bool:
    """The agent's TOML file."""
    InMemory.content = data
    with contextlib.suppress(GatehouseError):
        written = settings.load(WrittenSettings, file=_FILE, environment={}, flags={})
        AgentSettings.parse(written, Path("/nowhere"))
        return True
    return False


def fuzz_environment(data: bytes) -> bool:
    """Variables, a line each: settings of the agent, where its socket and the collector of traces are."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    environment = {name: value for name, _, value in (line.partition("=") for line in lines) if name}
    readers: tuple[Callable[[], object], ...] = (
        lambda: settings.load(WrittenSettings, environment=environment, prefix=ENVIRONMENT_PREFIX),
        lambda: Collector.from_environment(environment),
        *(lambda text=text: parse_endpoint(text) for text in environment.values()),
        *(lambda text=text: Address.parse(text) for text in environment.values()),
    )
    accepted = False
    for reader in readers:
        with contextlib.suppress(GatehouseError):
            accepted = reader() != WrittenSettings() or accepted
    return accepted


def fuzz_private_key(data: bytes) -> bool:
    """Files of keys and certificates: the server's own, and what a node attests with."""
    InMemory.content = data
    accepted = False
    attestor = X509ProofOfPossession(_FILE, _FILE, bytes)
    for read in (
        lambda: parse_key(data, "a"),
        attestor.payload,
        lambda: attestor.respond(b'{"ecdsa_signature":{"nonce":"' + b"A" * 43 + b'="}}'),
    ):
        with contextlib.suppress(GatehouseError):
            read()
            accepted = True
    return accepted


def fuzz_envoy_file(data: bytes) -> bool:
    """What somebody wrote into a file that is ours: told by place; accepted means it is JSON."""
    found = foreign(_WRITTEN, data.decode("utf-8", "replace"))
    assert found
    return found != ["the file is no JSON"]


_WRITTEN: Final = '{"version_info": "1", "resources": [{"name": "a/~b", "list": [1, 2.5, {"c": null}]}]}'


def _pem() -> list[bytes]:
    keys = (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate())
    found = [one.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for one in keys]
    found.append(keys[0].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    small = rsa.generate_private_key(65537, 1024)
    found.append(small.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return found


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "process": lambda: [
        _STATUS.format("web").encode(),
        _STAT.format("we) b").encode(),
        b"a\x0cUid:\t0 0 0 0",
    ],
    "agent_settings": lambda: [
        b'trust_domain = "example.org"\nserver = "gatehouse.example.org:8081"\njoin_token = "a"\n',
        b'data_dir = "d"\ntrust_domain = "example.org"\nserver = "[::1]:1"\nsvid_cache_size = 5\n'
        b'x509pop_certificate = "c"\nx509pop_key = "k"\nmetrics_bind = "127.0.0.1:9"\nlog_level = "debug"\n',
    ],
    "environment": lambda: [
        b"GATEHOUSE_AGENT_TRUST_DOMAIN=example.org\nGATEHOUSE_AGENT_SVID_CACHE_SIZE=5\n"
        b"GATEHOUSE_AGENT_INSECURE_BOOTSTRAP=true",
        b"OTEL_EXPORTER_OTLP_ENDPOINT=http://[::1]:4318/a\nOTEL_EXPORTER_OTLP_HEADERS=a=b%20c,d=e",
        b"SPIFFE_ENDPOINT_SOCKET=unix:///run/agent.sock\na=10.0.0.1:80\nb=db.test:1",
    ],
    "private_key": lambda: [
        *_pem(),
        *(load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (LEAF, AUTHORITY)),
    ],
    "envoy_file": lambda: [_WRITTEN.encode()],
}
