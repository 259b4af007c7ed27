"""What `gatehouse authority status` and `gatehouse ledger list` say to people about who signs."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from control_plane.cli import authority_status, ledger
from control_plane.cli.root import app

VAULT = {"address": "https://vault.test:8200", "mode": "leaf", "health": "active", "last_error": ""}


def told(monkeypatch: pytest.MonkeyPatch, module: Any, answer: dict[str, Any], *command: str) -> str:
    monkeypatch.setattr(module, "rest", lambda *arguments, **options: answer)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    ("signer", "vault", "expected"),
    [
        ("embedded", None, ["this server, below a root of its own", "issuing ca ends"]),
        ("vault", VAULT | {"last_error_at": 0}, ["Vault, each leaf", "mode leaf: active", "vault none"]),
        (
            "standby",
            VAULT | {"health": "sealed", "last_error": "it is sealed", "last_error_at": 1_800_000_000},
            ["Vault is away", "without vault, issuing until 2027-01-19", "mode leaf: sealed", "it is sealed"],
        ),
        ("intermediate", VAULT | {"mode": "intermediate", "last_error_at": 0}, ["that Vault signed"]),
        (
            "embedded",
            VAULT | {"last_error_at": 0, "policy_keys_missing": "Vault is sealed"},
            ["issuing ca ends", "no policy can be signed: Vault is sealed"],
        ),
        ("nobody", None, ["no authority is active"]),
    ],
)
def test_who_signs_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, signer: str, vault: Any, expected: list[str]
) -> None:
    answer = {
        "signer": signer,
        "since_at": 1_800_000_000,
        "authority_id": "ab" * 20,
        "issuing_ends_at": 1_800_345_600,
        "seconds_left": 345_600,
        "vault": vault,
    }
    text = told(monkeypatch, authority_status, answer, "authority", "status")
    for needle in expected:
        assert needle in text


def test_the_ledger_names_who_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = {
        "kind": "x509",
        "spiffe_id": "spiffe://a/b",
        "issued_at": 1_800_000_000,
        "not_after": 1_800_080_000,
    }
    records = [
        leaf | {"id": "1-9", "issuer": "CN=a root", "mark": ""},
        leaf | {"id": "1-8", "issuer": "CN=Gatehouse Issuing CA 1f", "mark": "standby"},
        {"id": "1-7", "kind": "authority-mark", "authority_id": "ff", "mark": "standby", "issued_at": 1},
        {"id": "1-6", "kind": "authority-mark", "authority_id": "ff", "mark": "", "issued_at": 1},
        {"id": "1-5", "kind": "x509-withheld", "spiffe_id": "spiffe://a/b", "reason": "no", "issued_at": 1},
    ]
    monkeypatch.setenv("COLUMNS", "250")
    text = told(monkeypatch, ledger, {"records": records, "next_cursor": None}, "ledger", "list")
    for needle in (
        "spiffe://a/b CN=a root 2027",
        "CN=Gatehouse Issuing CA 1f (standby)",
        "authority ff: the standby signs",
        "authority ff: Vault signs",
        "spiffe://a/b: no",
    ):
        assert needle in text
