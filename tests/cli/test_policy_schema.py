"""`gatehouse policy schema`: what it writes, OPA checks by."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from control_plane.cli.policy import app

REGO = Path(__file__).parents[2] / "rego"


def test_opa_knows_our_fields_and_built_ins_from_the_files(
    tmp_path: Path, peer: Callable[[str], Path]
) -> None:
    files = tmp_path / "schema"
    assert CliRunner().invoke(app, ["schema", str(files)]).exit_code == 0
    assert json.loads((files / "inventory.schema.json").read_text())["$schema"]
    command: list[str | Path] = [
        peer("opa"), "check", "--strict", "--schema", files / "input.schema.json",
        "--capabilities", files / "capabilities.json",
    ]  # fmt: skip
    shipped = [REGO / "lib", REGO / "starter"]
    assert subprocess.run([*command, *shipped], timeout=60, check=False).returncode == 0
    for wrong, told in (
        ("input.request.methd", "undefined ref: input.request.methd"),
        ('http.send({"method": "GET", "url": "https://a"})', "undefined function http.send"),
    ):
        policy = tmp_path / "wrong.rego"
        policy.write_text(f"package p\n\nq if {wrong}\n")
        done = subprocess.run([*command, policy], timeout=60, check=False, capture_output=True, text=True)
        assert done.returncode == 1
        assert told in done.stderr
