"""`gatehouse policy schema`: what it writes, OPA checks by."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from control_plane.cli.policy import app


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
    project = tmp_path / "project"
    assert CliRunner().invoke(app, ["init", str(project)]).exit_code == 0
    shipped = [files / "lib", project]
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


def test_a_package_beside_those_of_the_library_doesnt_hide_them(tmp_path: Path) -> None:
    """Whoever adds `gatehouse.lib.mine` still has `gatehouse.lib.spiffe`; whoever has their own keeps it."""
    (tmp_path / "mine.rego").write_text("package gatehouse.lib.mine\n\nsame(x) := x\n")
    policy = tmp_path / "authz.rego"
    policy.write_text(
        "package gatehouse.authz\n\nimport data.gatehouse.lib.mine\nimport data.gatehouse.lib.spiffe\n\n"
        'allow if mine.same(input.source.spiffe_id) == spiffe.mesh_id("a", "b")\n'
    )
    found = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert found.exit_code == 0, found.output
    (tmp_path / "own.rego").write_text("package gatehouse.lib.spiffe\n\nmesh_id(a, b) := [a, b]\n")
    found = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert found.exit_code == 0, found.output
