"""Proofs kept between runs of `gatehouse policy compile`, in one file for each policy folder and target.

Reading never fails a compilation: what isn't there, isn't whole, or might have been written by somebody else
is as good as nothing, and everything is proved again. A folder that others may write is not used, because
whoever writes a proof into it could let a manifest pass.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from control_plane.cli import printing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.kept_proofs import KeptProofs

MAX_FILES: Final = 64
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class ProofCache:
    """The file that keeps the proofs of one policy folder for one target."""

    file: Path

    @staticmethod
    def of(given: Path | None, policy: Path, target: str) -> ProofCache:
        """Below `given`, else below the XDG cache folder."""
        home = os.environ.get("XDG_CACHE_HOME")
        usual = (Path(home) if home else Path.home() / ".cache") / "gatehouse" / "proofs"
        name = hashlib.sha256(f"{policy.resolve()}\n{target}".encode("utf-8", "surrogateescape")).hexdigest()
        return ProofCache((given or usual) / f"{name[:32]}.json")

    def read(self) -> KeptProofs:
        """The proofs that are kept, none where there are none that can be trusted."""
        from policies.kept_proofs import MAX_CHARACTERS, KeptProofs

        compiler = compiler_digest()
        try:
            if not _is_ours(self.file.parent.stat()):
                return KeptProofs(compiler)
            opened = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return KeptProofs(compiler)
        with os.fdopen(opened, "rb") as stream:
            status = os.fstat(opened)
            if not _is_ours(status) or not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CHARACTERS:
                return KeptProofs(compiler)
            content = stream.read(MAX_CHARACTERS + 1)
        return KeptProofs.read(compiler, content.decode("utf-8", "replace"))

    def write(self, proofs: KeptProofs) -> None:
        """Puts this run's proofs in the place of earlier ones; a crash leaves the old file or the new."""
        folder = self.file.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(folder.stat()):
                printing.note(f"proofs aren't kept: others may write {folder}")
                return
            handle, name = tempfile.mkstemp(dir=folder, suffix=".new")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(proofs.written())
                Path(name).replace(self.file)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
            _forget_oldest(folder)
        except OSError as error:
            printing.note(f"proofs aren't kept: writing {folder}: {error.strerror}")


def compiler_digest() -> str:
    """A digest of everything that emits, proves and reads: another compiler proves for itself."""
    digest = hashlib.sha256()
    for package in ("policies", "control_plane.core"):
        for name, source in _sources(resources.files(package), package):
            content = source.read_bytes()
            for part in (name.encode(), content):
                digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _sources(entry, f"{name}/{entry.name}")
        elif entry.name.endswith((".py", ".json")):
            yield f"{name}/{entry.name}", entry


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MAX_FILES:]:
        path.unlink(missing_ok=True)
