"""What people see of a policy's life and of quarantine, and which requests their commands become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Gatehouse = Callable[..., Result]

VERSION = {
    "version": 3, "digest": "sha256:" + "ab" * 32, "author": "login:ada", "reason": "more of it",
    "created_at": 1_700_000_000, "state": "planned", "signed_by": "k",
}  # fmt: skip
SHIFT = {
    "direction": "gains", "caller": "spiffe://cli.test/web", "workload": "shop/pay", "question": "authz",
    "request": "request.path = '/'", "before": [], "after": ["authz.rego:12"],
}  # fmt: skip
STEPS = [
    {"step": "evaluated", "at": 1_700_000_000, "files": 2, "tests": 5, "warnings": ["a.rego:1: unused"]},
    {
        "step": "planned", "at": 1_700_000_001, "by": "login:ada", "against": 4, "against_version": 2,
        "gains": 21, "loses": 1, "undecided": 0, "shifts": [SHIFT] * 22, "digest": "d",
    },
]  # fmt: skip


def answers(registry: Any, method: str, path: str, body: Any, status: int = 200) -> None:
    registry.rest[(method, f"/v1/{path}")] = (status, json.dumps(body).encode())


def asked(registry: Any) -> list[tuple[Any, ...]]:
    return [one for one in registry.asked if isinstance(one, tuple)]


def test_push_sends_the_folder_and_tells_each_step(
    gatehouse: Gatehouse, registry: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.rego").write_text("package gatehouse.lib\n")
    (tmp_path / "inventory.yaml").write_text("mesh: {}\n")
    answers(registry, "POST", "policy/versions", {**VERSION, "state": "proved", "steps": STEPS[:1]}, 201)
    told = gatehouse("policy", "push", str(tmp_path), "--reason", "more of it")
    assert told.exit_code == 0, told.stderr
    assert "version 3  sha256:abababababab  by login:ada: more of it" in told.stdout
    assert "2 files, 5 tests passed" in told.stdout and "a.rego:1: unused" in told.stdout
    assert "gatehouse policy plan 3" in told.stderr
    [(_, _, body)] = asked(registry)
    assert (
        body["files"].pop("gatehouse/lib/spiffe.rego").startswith("# METADATA")
    )  # kept beside the user's own
    assert body["files"] == {"a.rego": "package gatehouse.lib\n"} and body["inventory"] == "mesh: {}\n"
    refusal = {"step": "refused", "at": 1, "stage": "prove", "reasons": ["shop/pay is too wide\nhere"]}
    answers(registry, "POST", "policy/versions", {**VERSION, "state": "refused", "steps": [refusal]}, 201)
    refused = gatehouse("policy", "push", str(tmp_path))
    assert refused.exit_code == 1 and "      here" in refused.stdout


def test_plan_shows_requests_and_lines_and_counts_the_rest(gatehouse: Gatehouse, registry: Any) -> None:
    answers(registry, "GET", "policy/versions", {"versions": [VERSION], "next_cursor": None})
    answers(registry, "POST", "policy/versions/3/plan", {**VERSION, "steps": STEPS})
    told = gatehouse("policy", "plan")
    assert "version 3 against version 2: 21 gain, 1 lose access" in told.stdout
    assert "+ spiffe://cli.test/web gains authz access to shop/pay" in told.stdout
    assert "before no rule" in told.stdout and "after  authz.rego:12" in told.stdout
    assert "… and 2 more: --all shows them" in told.stdout
    assert "more" not in gatehouse("policy", "plan", "3", "--all").stdout


def test_what_waits_for_nobody_is_said(gatehouse: Gatehouse, registry: Any) -> None:
    answers(registry, "GET", "policy/versions", {"versions": [], "next_cursor": None})
    told = gatehouse("policy", "approve", "--reason", "fine")
    assert told.exit_code == 3
    assert told.stderr == (
        "gatehouse: policy approve: no version waits for it — plan one first: gatehouse policy plan\n"
    )


def test_status_and_history(gatehouse: Gatehouse, registry: Any) -> None:
    one = {
        "sequence": 4, "version": 2, "digest": "sha256:x", "percent": 100, "cause": "apply", "by": "olga",
        "reason": "go", "assigned_at": 1_700_000_000, "agents": 3,
    }  # fmt: skip
    answers(
        registry, "GET", "policy/status",
        {
            "sequence": 5, "in_force": one, "canary": {**one, "sequence": 5, "version": 3, "percent": 10,
            "agents": 1}, "agents": 4, "quarantined": 2,
            "denials": {"judged": "7.0 % of 200 requests denied"},
        },
    )  # fmt: skip
    answers(registry, "GET", "policy/versions", {"versions": [VERSION], "next_cursor": None})
    answers(registry, "GET", "policy/assignments", {"assignments": [one], "next_cursor": None})
    told = gatehouse("policy", "status").stdout
    assert "in force: version 2 on all other agents (3 of 4), assignment 4" in told
    assert "canary: version 3 on 10 % of the agents (1 of 4), assignment 5" in told
    assert "7.0 % of 200 requests denied" in told
    assert "waiting: version 3 is planned, by login:ada" in told and "quarantined: 2" in told
    answers(registry, "GET", "policy/status", {
        "sequence": 4, "in_force": {**one, "cause": "denials"}, "canary": None, "agents": 3, "quarantined": 0,
    })  # fmt: skip
    told = gatehouse("policy", "status").stdout
    assert "in force: version 2 on all agents (3 of 3), assignment 4" in told
    assert "rolled back for denials by olga: go" in told


def test_history_fits_a_narrow_terminal(gatehouse: Gatehouse, registry: Any) -> None:
    one = {
        "sequence": 4, "version": 2, "digest": "sha256:x", "percent": 100, "cause": "apply", "by": "olga",
        "reason": "go", "assigned_at": 1_700_000_000,
    }  # fmt: skip
    answers(registry, "GET", "policy/versions", {"versions": [VERSION], "next_cursor": None})
    answers(registry, "GET", "policy/assignments", {"assignments": [one], "next_cursor": None})
    listed = gatehouse("policy", "history").stdout.splitlines()
    assert listed[0].startswith("assignment 4    version 2 on 100 %  2023-11-14 22:13:20Z (")
    assert listed[1] == "    apply by olga: go"
    assert listed[3].startswith("version 3    planned   sha256:abababababab  ")
    assert listed[4].startswith("    by login:ada: ")
    assert max(map(len, listed)) <= 80
    for kind in ("versions", "assignments"):
        answers(registry, "GET", f"policy/{kind}", {kind: [], "next_cursor": None})
    nothing = gatehouse("policy", "history").stdout
    assert nothing == "nothing was ever in force\n\nno version was pushed yet\n"


def test_who_calls_is_told_by_a_token_and_never_printed(
    gatehouse: Gatehouse, registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from control_plane.cli import remote

    sent: list[dict[str, str]] = []
    real = remote._request

    def spy(endpoint: Any, method: str, target: str, body: Any, headers: Any, timeout: float) -> Any:
        sent.append(headers)
        return real(endpoint, method, target, body, headers, timeout)

    monkeypatch.setattr(remote, "_request", spy)
    answers(registry, "POST", "policy/rollback", {**VERSION, "state": "recorded", "steps": []})
    token = tmp_path / "token"
    token.write_text("aaa.bbb.ccc\n")
    gatehouse("policy", "rollback", "--reason", "r", "--token-file", str(token), "--break-glass")
    assert sent[-1] == {"authorization": "Bearer aaa.bbb.ccc", "gatehouse-break-glass": "1"}
    monkeypatch.setenv("GATEHOUSE_TOKEN", "ddd.eee.fff")
    gatehouse("policy", "rollback", "--reason", "r")
    assert sent[-1] == {"authorization": "Bearer ddd.eee.fff"}
    token.write_text("two words")
    refused = gatehouse("policy", "rollback", "--reason", "r", "--token-file", str(token))
    assert refused.exit_code == 1 and "two words" not in refused.stderr


def test_quarantine_short_and_long(gatehouse: Gatehouse, registry: Any) -> None:
    member = "spiffe://cli.test/web"
    answer = {"spiffe_id": member, "quarantined": True, "changed": True, "revision": 1, "entries": 2}
    answers(registry, "POST", "quarantine", answer)
    answers(registry, "POST", "quarantine/release", {**answer, "quarantined": False})
    for command in (["quarantine", member], ["quarantine", "add", member]):
        told = gatehouse(*command, "--reason", "odd")
        assert "is cut off; 2 entries give no SVID any more" in told.stdout, told.stderr
        assert asked(registry)[-1] == ("POST", "/v1/quarantine", {"spiffe_id": member, "reason": "odd"})
    for who, effect in (
        ("spiffe://cli.test/spire/agent/a", "the server refuses this agent until it is released"),
        ("spiffe://other.test/web", "no entry gives it an SVID, and every agent denies it"),
    ):
        answers(registry, "POST", "quarantine", {**answer, "spiffe_id": who, "entries": 0})
        assert f"{who} is cut off; {effect}" in gatehouse("quarantine", who, "--reason", "odd").stdout
    assert "is let in again" in gatehouse("quarantine", "release", member, "--reason", "over").stdout
    authority = gatehouse("quarantine", "3f2a", "--reason", "odd")
    assert authority.exit_code == 1 and "gatehouse quarantine authority 3f2a" in authority.stderr
    answers(registry, "GET", "quarantine", {"revision": 0, "quarantined": []})
    for kind in ("x509", "jwt"):
        answers(registry, "GET", f"authority/{kind}", {"authorities": []})
    assert "nobody is cut off" in gatehouse("quarantine", "list").stdout


def test_quarantine_of_an_authority(gatehouse: Gatehouse, registry: Any) -> None:
    cut = {"reason": "odd", "by": "olga", "quarantined_at": 1_700_000_000, "withheld": False}
    old = {"authority_id": "3f2a", "quarantine": cut}
    answers(registry, "GET", "authority/x509", {"authorities": []})
    answers(registry, "GET", "authority/jwt", {"authorities": [old]})
    answers(registry, "GET", "quarantine", {"revision": 0, "quarantined": []})
    answer = {"kind": "jwt", **old, "changed": True, "signing_now": "9c1d"}
    answers(registry, "POST", "authority/jwt/quarantine", answer)
    told = gatehouse("quarantine", "authority", "3f2a", "--reason", "odd", "--force").stdout
    assert "jwt authority 3f2a is cut off; 9c1d signs" in told and "half a minute from now" in told
    body = {"authority_id": "3f2a", "reason": "odd", "force": True, "at_once": False}
    assert asked(registry)[-1] == ("POST", "/v1/authority/jwt/quarantine", body)
    listed = gatehouse("quarantine", "list").stdout
    assert "jwt authority 3f2a" in listed and "olga" in listed
    answers(registry, "POST", "authority/jwt/release", {**answer, "quarantine": None})
    assert "9c1d signs on" in gatehouse("quarantine", "release", "3f2a", "--reason", "over").stdout
    unknown = gatehouse("quarantine", "authority", "0000", "--reason", "odd")
    assert unknown.exit_code == 3 and "there is none of this ID" in unknown.stderr
