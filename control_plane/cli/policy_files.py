"""Policies on disk: reading a project's folder, and the library and starter project that ship with us."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.core.errors import InvalidInput, NotFound, ResourceExhausted
from control_plane.runtime.packaged import shipped
from policies.files import DATA_FILES, is_test

FolderArgument = Annotated[Path, typer.Argument(help="Folder with Rego and data, or one file.")]
InventoryFlag = Annotated[Path, typer.Option("--inventory", help="What exists: workloads, services, labels.")]

CacheFlag = Annotated[
    Path | None,
    typer.Option("--cache", help="A folder for what is kept.", show_default="the XDG cache folder"),
]
NoCacheFlag = Annotated[bool, typer.Option("--no-cache", help="Work out everything, and keep nothing.")]

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 64 << 20

LIBRARY: Final = "lib"

__all__ = [
    "CacheFlag", "FolderArgument", "InventoryFlag", "NoCacheFlag", "read_project", "read_text", "shipped"
]  # fmt: skip


def read_project(folder: Path, *, with_library: bool = True) -> dict[str, str]:
    """Rego and data files below a folder (or one file) by relative name, and the library where it is missing.

    Raises NotFound for a missing folder, InvalidInput for what isn't text, ResourceExhausted past the bounds.
    """
    if not folder.exists():
        raise NotFound(f"reading the policy: {folder} doesn't exist")
    found: dict[str, str] = {}
    total = 0
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
        if not path.is_file() or not (path.suffix == ".rego" or path.name in DATA_FILES):
            continue
        total += path.stat().st_size
        if len(found) >= MAX_FILES or total > MAX_BYTES:
            raise ResourceExhausted(
                f"reading the policy {folder}: more than {MAX_FILES} files or {MAX_BYTES} bytes"
            )
        name = path.name if folder.is_file() else path.relative_to(folder).as_posix()
        found[name] = read_text(path)
    if with_library and not _has_library(found):
        library = {name: text for name, text in shipped(LIBRARY).items() if not is_test(name)}
        return {**library, **found}
    return found


def read_text(path: Path) -> str:
    """A file as text. Raises InvalidInput where it isn't UTF-8 or can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"reading {path}: byte {error.start} isn't UTF-8 text") from error
    except OSError as error:
        raise NotFound(f"reading {path}: {error.strerror}") from error


def _has_library(files: Mapping[str, str]) -> bool:
    return any("package gatehouse.lib" in text for text in files.values())
