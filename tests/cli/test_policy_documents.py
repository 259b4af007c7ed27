"""The commands of docs/policies.md, run as a reader would, and what the page shows of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from control_plane.cli.policy import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
ENVOY = 'package envoy.authz\n\nallow if input.attributes.request.http.method == "GET"\n'


def commands() -> list[list[str]]:
    """Arguments after `gatehouse policy`, continued lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    prefix = "$ .venv/bin/gatehouse policy "
    return [shlex.split(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]


def test_the_examples_run_and_show_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "envoy-policies").mkdir()
    (tmp_path / "envoy-policies" / "p.rego").write_text(ENVOY)
    said = []
    for arguments in commands():
        if arguments[0] == "import-envoy":
            arguments[-1] = "from-envoy"  # `my-policies` is there by now
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output)
        said += [line.strip() for line in result.stdout.splitlines()]
    assert len(commands()) >= 5
    shown = [
        line.strip()
        for text in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
        for line in text.splitlines()
    ]
    for line in filter(None, shown):
        assert any(_matches(line, other) for other in said), line


def _matches(shown: str, said: str) -> bool:
    """The page leaves out parts of a line as `…`."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), said) is not None


def test_the_commands_of_the_table_exist() -> None:
    known = {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
    table = PAGE[PAGE.index("## Daily commands") :].partition("## What is assumed")[0]
    named = {
        name
        for first in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`([a-z-]+)", first)
    }
    assert named <= known
    assert {"check", "explain", "import-envoy", "compile"} <= named
