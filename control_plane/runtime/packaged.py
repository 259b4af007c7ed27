"""Rego that ships with us: in a wheel as data of the package, in a checkout beside it."""

import posixpath
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def shipped(part: str) -> dict[str, str]:
    """Files of the Rego that ships, by name: `lib`, `starter` or `admin`."""
    packaged = resources.files("control_plane") / "rego"
    root = packaged if packaged.is_dir() else Path(__file__).parents[2] / "rego"
    return {posixpath.join("gatehouse", part, name): text for name, text in _walk(root / part, "")}


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        name = posixpath.join(prefix, entry.name)
        if entry.is_dir():
            yield from _walk(entry, name)
        elif entry.name.endswith(".rego"):
            yield name, entry.read_text(encoding="utf-8")
