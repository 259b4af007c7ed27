"""What `gatehouse policy compile` prints for people: once what holds for many, nothing of what is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from control_plane.cli import printing
from control_plane.cli.policy import app

INVENTORY = """
mesh: {trust_domain: example.org}
workloads:
- {name: a, namespace: shop, service_account: a, labels: {app: a}, services: [{name: a, ports: [{port: 80, protocol: http}]}]}
- {name: b, namespace: shop, service_account: b, labels: {app: b}, services: [{name: b, ports: [{port: 80, protocol: http}]}]}
- {name: c, namespace: shop, service_account: c, labels: {app: c}, services: [{name: c, ports: [{port: 80, protocol: http}]}]}
"""  # noqa: E501 - one workload a line
AUTHZ = """package gatehouse.authz

import future.keywords.not

allow if {
	input.destination.service in {"a", "b"}
	contains(input.request.path, "x")
}

allow if {
	input.destination.service == "c"
	glob.match("/v1/*", ["/"], input.request.path)
	input.request.method == "GET"
}

allow if {
	input.destination.service == "c"
	input.request.method == "GET"
}
"""


def compiled(folder: Path, rules: str, *flags: str) -> str:
    policy, inventory = folder / "policy", folder / "inventory.yaml"
    policy.mkdir()
    (policy / "authz.rego").write_text(rules)
    inventory.write_text(INVENTORY)
    arguments = ["compile", str(policy), "--inventory", str(inventory), "--no-cache", *flags]
    return CliRunner().invoke(app, arguments).output


def test_one_reason_is_told_once_and_not_of_what_is_exact(tmp_path: Path) -> None:
    shown = compiled(tmp_path, AUTHZ)
    assert shown.count("Istio has no contains match") == 1
    assert "    at shop/a, shop/b\n" in shown
    assert "glob" not in shown  # narrowed, but what it lost another rule lets in


def test_a_target_that_nothing_is_asked_for_says_so(tmp_path: Path) -> None:
    shown = compiled(tmp_path, AUTHZ, "--target", "network-policy")
    assert "no workload is guarded: network-policy asks data.gatehouse.segmentation" in shown


def test_an_invariant_with_a_text_of_the_request_is_shown_as_it_is_written(tmp_path: Path) -> None:
    rules = tmp_path / "policy"
    compiled(tmp_path, AUTHZ)
    (rules / "never.rego").write_text(
        "package gatehouse.invariants\n\n"
        'never contains $"{input.request.method} gets in" if data.gatehouse.authz.allow\n'
    )
    shown = CliRunner().invoke(
        app, ["compile", str(rules), "--inventory", str(tmp_path / "inventory.yaml"), "--no-cache"]
    )
    assert shown.exit_code == 1
    assert 'broken invariant: $"{input.request.method} gets in" (never.rego:3)' in shown.output


def test_a_paragraph_is_folded_for_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(["word"] * 30)
    printing.paragraph(text, 4)
    assert capsys.readouterr().out == f"    {text}\n"
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    printing.paragraph(text, 4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and all(len(line) <= 50 for line in lines)
    assert lines[1].startswith("      word")
