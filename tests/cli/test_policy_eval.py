"""`gatehouse policy eval` and `test`: what they say of what is wrong, missing, or not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from control_plane.cli.policy import app

POLICY = "package gatehouse.authz\n\ndefault allow := false\n\nnames contains n if some n in input.names\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "authz.rego"
    file.write_text(POLICY)
    return file


def test_an_error_stands_where_it_was_written(policy: Path) -> None:
    found = CliRunner().invoke(app, ["eval", str(policy), "-q", "http.send({})"])
    assert found.exit_code == 1
    assert "query:1:1:" in found.output
    assert "  1 | http.send({})\n    | ^^^^^^^^^\n" in found.output


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("data.gatehouse.authz.alow", "did you mean data.gatehouse.authz.allow?"),
        ("data.gatehouse.auhtz.allow", "no rule is at data.gatehouse.auhtz.allow"),
        ("data.gatehouse.authz.names.x", ""),
        ("data.gatehouse.authz.names[3]", ""),
        ("input.nothing", ""),
    ],
)
def test_a_path_where_no_rule_is_is_told(policy: Path, query: str, told: str) -> None:
    found = CliRunner().invoke(app, ["eval", str(policy), "-q", query])
    assert found.exit_code == 0
    assert found.stdout == "undefined\n"
    assert told in found.stderr
    assert bool(found.stderr) == bool(told)


def test_our_library_counts_for_nobodys_coverage(policy: Path) -> None:
    tests = policy.with_name("authz_test.rego")
    tests.write_text('package t\n\ntest_a if "a" in data.gatehouse.authz.names with input.names as ["a"]\n')
    found = CliRunner().invoke(app, ["test", str(policy.parent)])
    assert found.exit_code == 0, found.output
    assert "gatehouse/lib" not in found.output
    assert "1 passed, 0 failed, 0 skipped; coverage 100.0 %" in found.output


def test_no_test_is_said(policy: Path) -> None:
    found = CliRunner().invoke(app, ["test", str(policy.parent)])
    assert found.exit_code == 1
    assert "there is no test" in found.output
