"""What `gatehouse ledger list` says to people; a program reads all of it with `--output json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

Gatehouse = Callable[..., Result]


def change(number: int, detail: str = "", **other: Any) -> dict[str, Any]:
    record = {"id": f"0-{number}", "kind": "change", "issued_at": 1_700_000_000, "action": "policy.apply"}
    told = {
        "by": "local:root",
        "resource": "policy version 1",
        "reason": "r",
        "request_id": "",
        "detail": detail,
    }
    return {**record, **told, **other}


@pytest.fixture
def listed(gatehouse: Gatehouse, registry: Any) -> Callable[..., Result]:
    """What is listed of these records."""

    def run(*records: dict[str, Any]) -> Result:
        answer = json.dumps({"records": records, "next_cursor": None})
        registry.rest[("GET", "/v1/ledger")] = (200, answer.encode())
        done = gatehouse("ledger", "list")
        assert done.exit_code == 0, done.output
        return done

    return run


def test_a_change_against_the_rules_is_told_loudly(listed: Callable[..., Result]) -> None:
    told = listed(change(3, '{"sequence": 4, "break_glass": true}'), change(2, '{"sequence": 3}'))
    broken, ordinary = told.stdout.splitlines()[1:]
    assert "  BREAK-GLASS: policy.apply of policy version 1  local:root  " in broken
    assert "BREAK-GLASS" not in ordinary
    assert (
        "1 change above was made by break-glass, against the roles: gatehouse ledger show 0-3" in told.stderr
    )


def test_what_was_changed_within_the_rules_makes_no_noise(listed: Callable[..., Result]) -> None:
    told = listed(change(2, '{"reason": "break_glass"}'), change(1))
    assert "BREAK-GLASS" not in told.stdout and "glass" not in told.stderr


@pytest.mark.parametrize("detail", ["{", "[true]", "null", '"break_glass"', "[" * 100_000, 5, None])
def test_a_detail_that_cannot_be_read_is_no_break_glass(listed: Callable[..., Result], detail: Any) -> None:
    assert "policy.apply" in listed(change(1) | {"detail": detail}).stdout


def test_a_line_fits_its_terminal_by_what_tells_certificates_apart(listed: Callable[..., Result]) -> None:
    leaf = {"id": "2-14", "kind": "x509", "spiffe_id": "spiffe://a/b", "issued_at": 1_700_000_000}
    issuer = {"issuer": "serialNumber=13f7c5656b37eafa49535a520ac06e861,CN=Issuing CA,O=Gatehouse"}
    row = listed({**leaf, **issuer, "mark": "standby", "not_after": 1}).stdout.splitlines()[1]
    assert row.split("  ")[:5] == [
        "2-14", "x509", "spiffe://a/b", "CA 13f7c565… (standby)", "2023-11-14 22:13:20Z",
    ]  # fmt: skip
    assert row.rstrip().endswith(" ago")
