"""What people mistype: told in a line with an exit code, as JSON where that is asked, without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent.cli import app as agent_app
from control_plane.cli.root import app

Gatehouse = Callable[..., Result]
PARENT, WEB = "spiffe://cli.test/node", "spiffe://cli.test/web"
NEEDED = ("--spiffe-id", WEB, "--parent-id", PARENT, "--selector", "unix:uid:1")


@pytest.mark.parametrize(
    "command",
    [
        ("entry", "create", *NEEDED, "--x509-svid-ttl", "2147483648"),
        ("entry", "create", *NEEDED, "--jwt-svid-ttl", "99999999999"),
        ("entry", "create", *NEEDED, "--entry-expiry", str(2**63)),
        ("entry", "update", "--entry-id", "e", *NEEDED, "--x509-svid-ttl", "99999999999"),
        ("token", "generate", "--ttl", "99999999999"),
        ("svid", "mint", "x509", "--spiffe-id", WEB, "--ttl", "99999999999"),
        ("svid", "mint", "jwt", "--spiffe-id", WEB, "--audience", "a", "--ttl", "99999999999"),
        ("healthcheck", "--timeout", "inf"),
        ("healthcheck", "--timeout", "nan"),
    ],
    ids=str,
)
def test_a_number_that_no_message_can_carry_names_its_flag(
    gatehouse: Gatehouse, registry: Any, command: tuple[str, ...]
) -> None:
    refused = gatehouse(*command)
    assert refused.exit_code == 2, refused.exception
    assert command[-2] in refused.stderr
    assert not registry.asked


@pytest.mark.parametrize("flags", [("--pid", "4194305"), ("--pid", "1", "--timeout", "inf")], ids=str)
def test_the_agents_numbers_have_bounds_as_well(short_dir: Path, flags: tuple[str, ...]) -> None:
    refused = CliRunner().invoke(agent_app, ["explain", *flags, "--data-dir", str(short_dir)])
    assert refused.exit_code == 2, refused.exception
    assert flags[-2] in refused.stderr


def test_a_dns_name_that_no_certificate_can_hold_names_its_flag(gatehouse: Gatehouse, registry: Any) -> None:
    refused = gatehouse("svid", "mint", "x509", "--spiffe-id", WEB, "--dns", "ümlaut.test")
    assert refused.exit_code == 2, refused.exception
    assert "--dns" in refused.stderr and "xn--" in refused.stderr
    assert not registry.asked


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        (app, ["entry", "create", "--output", "json"], "--spiffe-id"),
        (app, ["entry", "show", "--output=json", "--nonsense"], "--nonsense"),
        (app, ["entry", "delete", "--output", "json"], "--entry-id"),
        (app, ["token", "generate", "--output", "json", "--ttl", "x"], "--ttl"),
        (app, ["nothing", "--output", "json"], "nothing"),
        (app, ["--remote", "http://x", "entry", "show", "--output", "json"], "--remote"),
        (agent_app, ["explain", "--output", "json"], "--pid"),
        (agent_app, ["api", "fetch", "jwt", "--output", "json"], "--audience"),
    ],
)
def test_wrong_usage_is_json_where_that_is_asked(program: Any, arguments: list[str], said: str) -> None:
    refused = CliRunner().invoke(program, arguments, prog_name="prog")
    assert refused.exit_code == 2, refused.exception
    assert refused.stdout == ""
    told = json.loads(refused.stderr)
    assert (told["error"], told["code"]) == ("wrong-usage", "INVALID_ARGUMENT")
    assert said in told["message"]
    assert told["hint"].startswith("prog") and told["hint"].endswith("--help")


def test_exit_codes_are_the_same_in_both_forms(gatehouse: Gatehouse, registry: Any) -> None:
    for form in ("human", "json"):
        assert gatehouse("entry", "count", "--output", form).exit_code == 0
        assert gatehouse("entry", "show", "--entry-id", "none", "--output", form).exit_code == 3
        assert gatehouse("entry", "show", "--help", "--output", form).exit_code == 0


def test_a_script_gets_json_from_the_program_itself() -> None:
    """As installed, not as a test's runner calls it."""
    refused = subprocess.run(
        [sys.executable, "-m", "control_plane", "entry", "create", "--output", "json"],
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert refused.returncode == 2
    assert json.loads(refused.stderr)["hint"].endswith("entry create --help")


def test_flags_beside_a_file_of_entries_are_refused(
    gatehouse: Gatehouse, registry: Any, tmp_path: Path
) -> None:
    """They would mean nothing."""
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([{"spiffe_id": WEB, "parent_id": PARENT, "selectors": ["unix:uid:1"]}]))
    for command in ("create", "update"):
        refused = gatehouse("entry", command, "--data", str(path), "--hint", "h")
        assert refused.exit_code == 2
        assert "--data" in refused.stderr and "--hint" in refused.stderr
    assert gatehouse("entry", "create", "--data", str(path)).exit_code == 0


def test_a_life_that_no_certificate_gets_is_refused(gatehouse: Gatehouse, registry: Any) -> None:
    """The server takes it, as SPIRE's does, and then no agent ever gets a certificate for it."""
    refused = gatehouse("entry", "create", *NEEDED, "--x509-svid-ttl", "59")
    assert refused.exit_code == 2
    assert "--x509-svid-ttl" in refused.stderr and "at least 60" in refused.stderr
    assert gatehouse("entry", "create", *NEEDED, "--x509-svid-ttl", "60").exit_code == 0


def test_an_entry_has_one_parent(gatehouse: Gatehouse, registry: Any) -> None:
    refused = gatehouse("entry", "create", "--node", *NEEDED)
    assert refused.exit_code == 2
    assert "--node" in refused.stderr and "--parent-id" in refused.stderr


def test_a_file_that_is_no_json_is_said_to_be_none(gatehouse: Gatehouse, tmp_path: Path) -> None:
    path = tmp_path / "entries.yaml"
    path.write_text("entries: []")
    refused = gatehouse("entry", "create", "--data", str(path))
    assert refused.exit_code == 2
    assert "JSON" in refused.stderr and "line 1" in refused.stderr


def test_a_bundle_in_the_other_format_is_told_its_flag(gatehouse: Gatehouse, tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_text('{"keys": []}')
    refused = gatehouse("bundle", "set", "--id", "other.test", "--path", str(path))
    assert refused.exit_code == 2 and "--format spiffe" in refused.stderr
    path.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    refused = gatehouse("bundle", "set", "--id", "other.test", "--path", str(path), "--format", "spiffe")
    assert refused.exit_code == 2 and "--format pem" in refused.stderr


def test_what_was_not_deleted_is_told_on_standard_error(gatehouse: Gatehouse, registry: Any) -> None:
    refused = gatehouse("entry", "delete", "--entry-id", "none")
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert refused.stderr == "gatehouse: none: no such entry\n"


def test_nothing_that_fits_is_not_nothing_at_all(gatehouse: Gatehouse, registry: Any) -> None:
    registry.rest[("GET", "/v1/ledger")] = (200, b'{"records": [], "next_cursor": null}')
    assert gatehouse("ledger", "list").stdout == "nothing was issued yet\n"
    assert gatehouse("ledger", "list", "--kind", "jwt").stdout == "no record fits\n"
    assert gatehouse("agent", "list").stdout == "no agent has attested\n"
    assert gatehouse("agent", "list", "--banned").stdout == "no agent fits\n"


def test_a_wrong_request_is_invalid_not_a_matter_of_state(gatehouse: Gatehouse, registry: Any) -> None:
    for status, code in ((400, "INVALID_ARGUMENT"), (403, "PERMISSION_DENIED"), (409, "FAILED_PRECONDITION")):
        registry.rest[("GET", "/v1/ledger")] = (status, b'{"detail": "serial: expected hex digits"}')
        refused = gatehouse("ledger", "list", "--serial", "zz", "--output", "json")
        assert refused.exit_code == 1
        assert json.loads(refused.stderr)["code"] == code


def test_entries_below_another_parent_are_told(gatehouse: Gatehouse, registry: Any) -> None:
    """They are why an agent has nothing for a process that has the right selectors."""
    entry = {"spiffe_id": WEB, "entry_id": "e", "parent_id": PARENT}
    answer = {"matches": [], "near": [], "elsewhere": [entry]}
    registry.rest[("POST", "/v1/explain")] = (200, json.dumps(answer).encode())
    told = gatehouse("explain", "--selector", "unix:uid:1", "--parent-id", "spiffe://cli.test/other")
    assert told.exit_code == 3
    assert told.stdout == f"no entry matches\nelsewhere: {WEB} (entry e) would match below {PARENT}\n"
