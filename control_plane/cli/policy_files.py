"""Policies on disk: reading a project's folder, and the library and starter project that ship with us."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from control_plane.core.errors import FailedPrecondition, InvalidInput, NotFound, ResourceExhausted
from control_plane.runtime.files import read_text_bounded
from control_plane.runtime.packaged import shipped
from policies.files import DATA_FILES, is_test

if TYPE_CHECKING:
    from policies.inventory import Inventory

FolderArgument = Annotated[Path, typer.Argument(help="Folder with Rego and data, or one file.")]
InventoryFlag = Annotated[Path, typer.Option("--inventory", help="What exists: workloads, services, labels.")]

CacheFlag = Annotated[
    Path | None,
    typer.Option("--cache", help="A folder for what is kept.", show_default="the XDG cache folder"),
]
NoCacheFlag = Annotated[bool, typer.Option("--no-cache", help="Work out everything, and keep nothing.")]

MAX_FILES: Final = 10_000
MAX_BYTES: Final = 64 << 20
MAX_TEXT_BYTES: Final = 256 << 20  # an inventory is the largest text; its reader has the same bound

LIBRARY: Final = "lib"
_PACKAGE: Final = re.compile(r"^package[ \t]+([\w.]+)", re.MULTILINE)

__all__ = [
    "LIBRARY", "CacheFlag", "FolderArgument", "InventoryFlag", "NoCacheFlag", "read_inventory",
    "read_project", "read_text", "shipped", "write_files", "writing",
]  # fmt: skip


def read_project(folder: Path, *, with_library: bool = True) -> dict[str, str]:
    """Rego and data files below a folder (or one file) by relative name, and the library where it is missing.

    Raises NotFound for a missing folder, InvalidInput for one without Rego or for what isn't text,
    ResourceExhausted past the bounds.
    """
    if not folder.exists():
        hint = "name a folder with Rego, or one file, before anything else"
        raise NotFound(f"reading the policy: {folder} doesn't exist", hint=hint)
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
    if not any(name.endswith(".rego") for name in found):
        hint = "`gatehouse policy init` makes a project to start from"
        raise InvalidInput(f"reading the policy: {folder} holds no .rego file", hint=hint)
    if not with_library:
        return found
    own = _packages(found.values())
    library = {
        name: text
        for name, text in shipped(LIBRARY).items()
        if not is_test(name) and own.isdisjoint(_packages([text]))
    }
    return {**library, **found}


def read_text(path: Path) -> str:
    """A file as text. Raises InvalidInput where it isn't UTF-8 or can't be read."""
    try:
        return read_text_bounded(path, MAX_TEXT_BYTES)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"reading {path}: byte {error.start} isn't UTF-8 text") from error
    except OSError as error:
        raise NotFound(f"reading {path}: {error.strerror}") from error


def read_inventory(path: Path) -> Inventory:
    """An inventory's file. Raises InvalidInput and ResourceExhausted with the file's name."""
    from policies.inventory_file import parse_inventory

    try:
        return parse_inventory(read_text(path))
    except (InvalidInput, ResourceExhausted) as error:
        hint = error.hint or "`gatehouse policy schema DIR` writes the JSON Schema of this file"
        raise type(error)(f"{path}: {error.message}", hint=hint) from error


def write_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Writes texts by relative name, and gives the paths. Raises FailedPrecondition where it can't."""
    for name, text in files.items():
        path = folder / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return [str(folder / name) for name in files]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of an error of the file system what was being written."""
    try:
        yield
    except OSError as error:
        raise FailedPrecondition(
            f"writing {path}: {error.strerror}", hint="name a folder that you may write to"
        ) from error


def _packages(texts: Iterable[str]) -> set[str]:
    """The packages that modules say they are, as far as a line tells."""
    return {name for text in texts for name in _PACKAGE.findall(text)}
