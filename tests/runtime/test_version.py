"""`--version` of both programs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("module", ["control_plane", "agent"])
def test_the_version_is_that_of_the_project(module: str) -> None:
    expected = tomllib.loads(PROJECT.read_text())["project"]["version"]
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"gatehouse {expected}\n", "")
