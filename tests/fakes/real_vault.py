"""A real Vault or OpenBao on loopback, and a bare client for setting either up as an operator would.

A dev server keeps everything in memory and starts unsealed; one on disk (raft, one node) is initialised with
one unseal key, and can be sealed, stopped and started again. Both are ended by their id.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from running import free_port, tail, until

from control_plane.clients.vault.door import VaultDoor
from control_plane.clients.vault.opening import open_pki, open_vault
from control_plane.clients.vault.pki import PkiMount
from control_plane.core.secret import Secret
from control_plane.runtime.vault_settings import VaultSettings

ROOT_TOKEN = "root"
# OpenBao can't be built by `make peers`; where there is one, the same tests run over it.
BAO = shutil.which("bao", path=os.pathsep.join((os.environ.get("GATEHOUSE_PEERS", ""), os.environ["PATH"])))
REAL_KINDS = ("vault", "bao") if BAO else ("vault",)
# Where Vault's small and free build hasn't what a test is about: Kubernetes logins, namespaces.
NOT_IN_VAULT = ("fake", *(pytest.param(kind, marks=pytest.mark.peers) for kind in REAL_KINDS[1:]))


class ApiError(Exception):
    """An answer that isn't good."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Api:
    """The HTTP API without any client library. Names of mounts are made unique per test by `name`."""

    def __init__(self, url: str, token: str = ROOT_TOKEN, ca_file: Path | None = None) -> None:
        self.url = url
        self.token = token
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._inside = ""

    def inside(self, namespace: str) -> Api:
        """The same in a namespace."""
        found = copy.copy(self)
        found._inside = f"{namespace}/"
        return found

    def __call__(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: str | None = None,
        wrap: str = "",
    ) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/v1/{self._inside}{path}", method=method)
        if method == "PATCH":
            request.add_header("Content-Type", "application/merge-patch+json")
        request.add_header("X-Vault-Token", token or self.token)
        request.add_header("X-Vault-Request", "true")
        if wrap:
            request.add_header("X-Vault-Wrap-TTL", wrap)
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=30, context=self._tls) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, error.read().decode()) from error
        return json.loads(content) if content.strip() else {}

    def write(self, path: str, /, **body: object) -> dict[str, Any]:
        return self("POST", path, body)

    def read(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self("GET", path)["data"]
        return found

    def mount(self, kind: str, name: str = "", **body: object) -> str:
        """Mounts an engine, under a name of its own, and gives the name."""
        name = name or unique(kind)
        self.write(f"sys/mounts/{name}", type=kind, **body)
        return name

    def login(self, kind: str) -> str:
        """Enables a login method, under a name of its own, and gives the name."""
        name = unique(kind)
        self.write(f"sys/auth/{name}", type=kind)
        return name

    def policy(self, text: str) -> str:
        """Writes a policy, under a name of its own, and gives the name."""
        name = unique("policy")
        self.write(f"sys/policies/acl/{name}", policy=text)
        return name

    def make_token(self, *policies: str, **body: object) -> str:
        answer = self.write("auth/token/create", policies=list(policies), **body)
        token: str = answer["auth"]["client_token"]
        return token


def unique(kind: str) -> str:
    """A name that no other test of the same server uses."""
    return f"{kind}-{secrets.token_hex(4)}"


class RealVault:
    """A server as a process. `program` is `vault` or `bao`; with `tls`, its certificate and key. What
    isn't a dev server keeps all in `storage`, by default a folder that goes with it."""

    def __init__(
        self,
        program: Path,
        *,
        dev: bool = True,
        tls: tuple[Path, Path, Path] | None = None,  # certificate, key, CA
        storage: Path | None = None,
    ) -> None:
        self._program = program
        self._dev = dev
        self._tls = tls
        self._folder = Path(tempfile.mkdtemp(prefix="ghv"))
        self._storage = storage or self._folder / "data"
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._cluster_port = free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.unseal_key = ""
        self.api = Api(self.url, ca_file=tls[2] if tls else None)

    def __enter__(self) -> RealVault:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts it, and initialises and unseals it where that is needed."""
        configuration = self._folder / "server.hcl"
        configuration.write_text(self._configuration())
        command = [str(self._program), "server", f"-config={configuration}"]
        if self._dev:
            command += ["-dev", f"-dev-root-token-id={ROOT_TOKEN}", "-dev-no-store-token"]
            command.append(f"-dev-listen-address=127.0.0.1:{free_port() if self._tls else self.port}")
        environment = {"HOME": str(self._folder), "PATH": os.environ["PATH"], "GOMAXPROCS": "2"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        until(self._answers, "Vault to answer", log=self._log)
        if not self._dev:
            if not self.unseal_key:
                made = self.api("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
                self.unseal_key, self.api.token = made["keys"][0], made["root_token"]
            self.unseal()

    def stop(self, *, kill: bool = False) -> None:
        """Ends the process; what is on disk stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stops it from doing anything, without closing a connection."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # A thread that runs on another processor goes on for a moment, which is enough for an answer.
        threads = Path(f"/proc/{self._process.pid}/task")
        until(lambda: all(_is_stopped(each) for each in threads.iterdir()), "Vault to stand still")

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def seal(self) -> None:
        with contextlib.suppress(ApiError):
            self.api("PUT", "sys/seal", {})

    def unseal(self) -> None:
        until(self._unsealed, "Vault to be unsealed", log=self._log)

    def _unsealed(self) -> bool:
        try:
            if self.api("PUT", "sys/unseal", {"key": self.unseal_key})["sealed"]:
                return False
            # Unsealed isn't active yet, and OpenBao's servers that aren't answer reads all the same.
            self.api("GET", "sys/health")
        except (ApiError, OSError):
            return False
        return True

    def _configuration(self) -> str:
        lines = ["disable_mlock = true", f'api_addr = "{self.url}"']
        if not self._dev:
            # Vault's small build has no storage in plain files.
            self._storage.mkdir(exist_ok=True)
            lines.append(f'storage "raft" {{\n  path = "{self._storage}"\n  node_id = "one"\n}}')
            lines.append(f'cluster_addr = "http://127.0.0.1:{self._cluster_port}"')
        if not self._dev or self._tls:
            certificate = "tls_disable = true"
            if self._tls:
                certificate = f'tls_cert_file = "{self._tls[0]}"\n  tls_key_file = "{self._tls[1]}"'
            places = f'address = "127.0.0.1:{self.port}"'
            if not self._dev:
                places += f'\n  cluster_address = "127.0.0.1:{self._cluster_port}"'
            lines.append(f'listener "tcp" {{\n  {places}\n  {certificate}\n}}')
        return "\n".join(lines) + "\n"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended; the end of its log:\n{tail(self._log)}"
        try:
            self.api("GET", "sys/health")
        except ApiError as error:
            # Not initialised or sealed is an answer; a dev server has to be ready.
            return error.status in (501, 503) and not self._dev
        except OSError:
            return False
        return True


def _is_stopped(thread: Path) -> bool:
    """By the state after the name, which ends at the last parenthesis (proc_pid_stat(5))."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass
class Server:
    """One server to test against, and what a test makes on it."""

    kind: str
    api: Api
    fake: Any = None  # a FakeVault, where it is one
    doors: list[VaultDoor] = field(default_factory=list)

    def settings(self, **changed: Any) -> VaultSettings:
        given: dict[str, Any] = {
            "address": self.api.url,
            "token": Secret(ROOT_TOKEN),
            "timeout_seconds": 20.0,
        }
        return VaultSettings(**(given | changed))

    def door(self, **changed: Any) -> VaultDoor:
        return self.open(self.settings(**changed))

    def open(self, settings: VaultSettings, **options: Any) -> VaultDoor:
        door = open_vault(settings, random=random.random, **options)
        self.doors.append(door)
        return door

    def pki(self, **changed: Any) -> PkiMount:
        settings = self.settings(**changed)
        return open_pki(self.open(settings), settings)

    def make_pki(self, *, ttl: str = "8760h", back: str = "600s") -> str:
        """A mount with a root, made as an operator would."""
        mount = self.api.mount("pki", config={"max_lease_ttl": "87600h"})
        self.make_root(mount, ttl=ttl, back=back)
        return mount

    def make_root(self, mount: str, *, ttl: str = "8760h", back: str = "600s", name: str = "") -> str:
        made = self.api.write(
            f"{mount}/root/generate/internal",
            common_name=f"Root {unique('ca')}",
            ttl=ttl,
            key_type="ec",
            not_before_duration=back,
            issuer_name=name or unique("issuer"),
        )
        issuer: str = made["data"]["issuer_id"]
        return issuer

    def close(self) -> None:
        for door in self.doors:
            door.close()


def csr(*uris: str) -> bytes:
    """A request for a certificate (DER) with a key that nobody keeps."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uris:
        names = [x509.UniformResourceIdentifier(each) for each in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
