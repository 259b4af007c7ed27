"""A server of ours, and workloads on go-spiffe that are told apart by their program's path."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NODE = "node/one"


@pytest.fixture(scope="module")
def folder(running: ModuleType) -> Iterator[Path]:
    """A short folder for this module's servers and agents."""
    with running.short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def server(running: ModuleType, folder: Path) -> Iterator[Any]:
    """Our server."""
    process = running.GatehouseServer(folder)
    with running.stopping(process):
        yield process.run()


@pytest.fixture(scope="module")
def agent(running: ModuleType, folder: Path, server: Any) -> Iterator[Any]:
    """Our agent, attested to our server as `node/one`."""
    node = f"spiffe://{server.trust_domain}/{NODE}"
    token = server.cli("token", "generate", "--spiffe-id", node)["token"]
    process = running.GatehouseAgent(folder)
    with running.stopping(process):
        yield process.run(f"127.0.0.1:{server.port}", server.trust_domain, server.bundle_file(), token)


@pytest.fixture(scope="module")
def workload(peer: Callable[[str], Path], folder: Path) -> Callable[[str], Path]:
    """A copy of the go-spiffe client under a name of its own, so that its path is its selector."""

    def make(name: str) -> Path:
        program = folder / "bin" / name
        if not program.exists():
            program.parent.mkdir(exist_ok=True)
            shutil.copy2(peer("gatehouse-peer-client"), program)
        return program

    return make


@pytest.fixture(scope="session")
def my_uid() -> str:
    """The selector of whoever runs these tests."""
    return f"unix:uid:{os.getuid()}"


@dataclass(frozen=True)
class X509Pop:
    """A node's certificate from a CA of the operator's own, and the server's flags that accept it."""

    key: Path
    certificate: Path
    fingerprint: str
    server_flags: tuple[str, ...]


@pytest.fixture(scope="session")
def x509pop(tmp_path_factory: pytest.TempPathFactory) -> X509Pop:
    """A CA, a node certificate that may sign, and a configuration file."""
    place = tmp_path_factory.mktemp("x509pop")
    ca_key, node_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _certificate("node CA", ca_key, "node CA", ca_key, is_ca=True)
    node = _certificate("node one", node_key, "node CA", ca_key, is_ca=False)
    pem = serialization.Encoding.PEM
    (place / "ca.pem").write_bytes(ca.public_bytes(pem))
    (place / "node.pem").write_bytes(node.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (place / "node.key").write_bytes(node_key.private_bytes(pem, *private))
    (place / "server.toml").write_text(f'[x509pop]\nca_bundle = "{place / "ca.pem"}"\n')
    fingerprint = node.fingerprint(hashes.SHA1()).hex()
    return X509Pop(
        place / "node.key", place / "node.pem", fingerprint, ("--config", str(place / "server.toml"))
    )


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    """A certificate valid today."""
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (subject, issuer)]
    usage = x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(signer, hashes.SHA256())
    )
