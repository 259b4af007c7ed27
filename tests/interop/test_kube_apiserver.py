"""Every object that we write, applied (dry run) to a real kube-apiserver with Istio's definitions.

The server checks what no schema says: Istio's rules in CEL, Kubernetes' own validation of NetworkPolicy,
names and labels, and unknown fields. etcd and kube-apiserver run for this module only, on loopback; no
controllers, no nodes.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import rendered
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300), pytest.mark.xdist_group("kube-apiserver")]
TOKEN = "gatehouse-test-admin"
READY_SECONDS = 120
PLURALS = {
    "AuthorizationPolicy": "authorizationpolicies",
    "PeerAuthentication": "peerauthentications",
    "RequestAuthentication": "requestauthentications",
    "NetworkPolicy": "networkpolicies",
}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True)
class Cluster:
    """A kube-apiserver's port, and who to trust there."""

    port: int
    trusted: ssl.SSLContext

    def call(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> tuple[int, str]:
        """Status and text of an answer."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.trusted)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def apply(self, document: dict[str, object], dry_run: bool = True) -> tuple[int, str]:
        """Server-side apply with strict fields."""
        metadata = document["metadata"]
        assert isinstance(metadata, dict)
        place = f"/apis/{document['apiVersion']}"
        if "namespace" in metadata:
            place += f"/namespaces/{metadata['namespace']}/{PLURALS[str(document['kind'])]}"
        else:
            place = CRDS
        options = "fieldManager=gatehouse&force=true&fieldValidation=Strict" + (
            "&dryRun=All" if dry_run else ""
        )
        return self.call(
            "PATCH", f"{place}/{metadata['name']}?{options}", document, "application/apply-patch+yaml"
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(peer: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """etcd, kube-apiserver, Istio's definitions, and the namespaces that our objects live in."""
    etcd, server, crds = peer("etcd"), peer("kube-apiserver"), peer("istio-crds")
    folder = tmp_path_factory.mktemp("kube")
    store, peers, port = free_port(), free_port(), free_port()
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "sa.key").write_bytes(key)
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
    commands = [
        [etcd, "--data-dir", folder / "etcd", "--listen-client-urls", f"http://127.0.0.1:{store}",
         "--advertise-client-urls", f"http://127.0.0.1:{store}",
         "--listen-peer-urls", f"http://127.0.0.1:{peers}", "--unsafe-no-fsync"],
        [server, f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={port}",
         "--bind-address=127.0.0.1", f"--cert-dir={folder / 'certificates'}",
         "--service-account-issuer=https://kubernetes.default.svc",
         f"--service-account-signing-key-file={folder / 'sa.key'}",
         f"--service-account-key-file={folder / 'sa.key'}", "--service-cluster-ip-range=10.96.0.0/16",
         f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC",
         "--disable-admission-plugins=ServiceAccount"],
    ]  # fmt: skip
    processes = []
    try:
        for command in commands:
            log = (folder / f"{Path(command[0]).name}.log").open("wb")
            processes.append(
                subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=dict(os.environ))
            )
        yield ready(folder, port, crds, processes)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def ready(folder: Path, port: int, crds: Path, processes: list[subprocess.Popen[bytes]]) -> Cluster:
    """Waits until the server answers and knows Istio's kinds; fails with its log."""
    certificate = folder / "certificates" / "apiserver.crt"

    def wait(what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and all(one.poll() is None for one in processes):
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.2)
        said = (folder / "kube-apiserver.log").read_text()[-1500:]
        pytest.fail(f"kube-apiserver: no {what} within {READY_SECONDS} s:\n{said}")

    wait("certificate", lambda: certificate.is_file() and b"END" in certificate.read_bytes())
    found = Cluster(port, ssl.create_default_context(cafile=str(certificate)))
    wait("readiness", lambda: found.call("GET", "/readyz")[0] == 200)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte: seconds in plain Python
    for crd in yaml.load_all(crds.read_text(), loader):
        if crd["spec"]["names"]["kind"] in PLURALS:
            status, text = found.apply(crd, dry_run=False)
            assert status in (200, 201), text
    for name in ("shop", *demo_namespaces()):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        wait(
            f"namespace {name}",
            lambda body=body: found.call("POST", "/api/v1/namespaces", body)[0] in (201, 409),
        )
    for plural in ("authorizationpolicies", "peerauthentications", "requestauthentications"):
        path = f"/apis/security.istio.io/v1/namespaces/shop/{plural}"
        wait(plural, lambda path=path: found.call("GET", path)[0] == 200)
    return found


def demo_namespaces() -> set[str]:
    inventory = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "demo" / "inventory.yaml").read_text())
    return {one["namespace"] for one in inventory["workloads"]}


def test_kubernetes_takes_every_object(cluster: Cluster) -> None:
    seen = set()
    for name, text in rendered.objects(15):
        document = yaml.safe_load(text)
        status, answer = cluster.apply(document)
        assert status in (200, 201), (name, answer)
        seen.add(document["kind"])
    assert seen == set(PLURALS)


@pytest.mark.parametrize(("kind", "spec", "why"), [
    ("AuthorizationPolicy", {"selector": {"matchLabels": {"a": "b"}},
                             "targetRefs": [{"group": "", "kind": "Service", "name": "x"}]}, "only one of"),
    ("AuthorizationPolicy", {"actoin": "DENY"}, "actoin"),
    ("PeerAuthentication", {"portLevelMtls": {"80": {"mode": "STRICT"}}}, "portLevelMtls requires selector"),
    ("NetworkPolicy", {"podSelector": {}, "ingress": [{"ports": [{"port": 70000}]}]}, "65535"),
])  # fmt: skip
def test_kubernetes_refuses_what_is_wrong(cluster: Cluster, kind: str, spec: object, why: str) -> None:
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "security.istio.io/v1"
    metadata = {"name": "wrong", "namespace": "shop"}
    status, answer = cluster.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
    assert status >= 400 and why in answer, answer
