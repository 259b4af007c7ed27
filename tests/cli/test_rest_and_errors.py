"""REST commands, and every way in which a server can be away or answer wrongly."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from control_plane.cli.options import Output, data_dir_of
from control_plane.cli.remote import reported
from control_plane.cli.root import GROUPS, app, main

Gatehouse = Callable[..., Result]


def test_authority_steps(gatehouse: Gatehouse, registry: Any) -> None:
    state = {
        "authorities": [
            {"authority_id": "ab", "status": "ACTIVE", "not_after": 4_000_000_000, "tainted": True}
        ]
    }
    registry.rest[("GET", "/v1/authority/x509")] = (200, json.dumps(state).encode())
    registry.rest[("POST", "/v1/authority/jwt/taint")] = (200, json.dumps(state).encode())
    shown = gatehouse("authority", "x509", "show")
    assert "ab" in shown.stdout
    assert "active" in shown.stdout
    assert gatehouse("authority", "jwt", "taint", "--authority-id", "ab").exit_code == 0
    assert registry.asked[-1] == (
        "POST",
        "/v1/authority/jwt/taint",
        {"authority_id": "ab", "reason": "taint by hand"},
    )


def test_ledger_query_and_cursor(gatehouse: Gatehouse, registry: Any) -> None:
    answer = {
        "records": [{"id": "0-1", "kind": "x509", "spiffe_id": "spiffe://cli.test/web"}],
        "next_cursor": "c",
    }
    registry.rest[("GET", "/v1/ledger")] = (200, json.dumps(answer).encode())
    listed = gatehouse("ledger", "list", "--spiffe-id", "spiffe://cli.test/web", "--limit", "5")
    assert "0-1" in listed.stdout
    assert "--cursor c" in listed.stderr
    assert registry.asked[-1][1] == "/v1/ledger?limit=5&spiffe_id=spiffe%3A%2F%2Fcli.test%2Fweb"
    missing = gatehouse("ledger", "show", "../../etc/passwd")
    assert missing.exit_code == 3
    assert registry.asked[-1][1] == "/v1/ledger/..%2F..%2Fetc%2Fpasswd"


def test_explain_tells_the_missing_selector(gatehouse: Gatehouse, registry: Any) -> None:
    near = {"entry_id": "e", "spiffe_id": "spiffe://cli.test/web", "missing": ["unix:gid:5"]}
    registry.rest[("POST", "/v1/explain")] = (200, json.dumps({"matches": [], "near": [near]}).encode())
    told = gatehouse("explain", "--selector", "unix:uid:1")
    assert told.exit_code == 3, "nothing found, as `gatehouse-agent explain` says it"
    assert "no entry matches" in told.stdout
    assert "misses unix:gid:5" in told.stdout
    assert registry.asked[-1][2] == {"selectors": ["unix:uid:1"]}


def test_explain_ends_with_0_when_an_entry_matches(gatehouse: Gatehouse, registry: Any) -> None:
    match = {"entry_id": "e", "spiffe_id": "spiffe://cli.test/web"}
    registry.rest[("POST", "/v1/explain")] = (200, json.dumps({"matches": [match], "near": []}).encode())
    told = gatehouse("explain", "--selector", "unix:uid:1")
    assert told.exit_code == 0 and "spiffe://cli.test/web" in told.stdout


def test_bytes_that_are_no_text_are_refused_by_flag_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    identities = ("--spiffe-id", "spiffe://cli.test/a", "--parent-id", "spiffe://cli.test/n")
    for given, said in (
        (("entry", "create", *identities, "--selector", "unix:uid:1", "--hint", "s3\udcff"), "--hint"),
        (("entry", "create", *identities, "--selector", "unix:uid:1", "--hint=s3\udcff"), "--hint"),
        (
            ("svid", "mint", "jwt", "--spiffe-id", "spiffe://cli.test/a", "--audience", "s3\udcff"),
            "--audience",
        ),
        (("ledger", "show", "s3\udcff"), "argument 3"),
    ):
        monkeypatch.setattr(sys, "argv", ["gatehouse", *given])
        monkeypatch.setenv("GATEHOUSE_DATA_DIR", str(tmp_path))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"gatehouse: {said} holds bytes that are not UTF-8: give text\n"


@pytest.mark.parametrize("endpoint", ["grpc://collector", "http://[::1", "http://a:99999"])
def test_an_address_that_is_no_collectors_is_told_in_a_line(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gatehouse", "--help"])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    with pytest.raises(SystemExit, match=r"gatehouse: OTEL_EXPORTER_OTLP_ENDPOINT is .* expected the URL"):
        main()


def test_a_reader_that_is_gone_is_no_server_that_is_away() -> None:
    with pytest.raises(BrokenPipeError), reported(Output.HUMAN):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # as printing for `| head` does


def test_problem_is_passed_on_in_the_servers_words(gatehouse: Gatehouse, registry: Any) -> None:
    problem = {
        "title": "failed-precondition",
        "detail": "no authority is prepared",
        "hint": "prepare one first",
    }
    registry.rest[("POST", "/v1/authority/x509/activate")] = (409, json.dumps(problem).encode())
    refused = gatehouse("authority", "x509", "activate")
    assert refused.exit_code == 1
    assert refused.stderr == "gatehouse: no authority is prepared — prepare one first\n"
    as_json = gatehouse("authority", "x509", "activate", "--output", "json")
    assert json.loads(as_json.stderr)["hint"] == "prepare one first"


def test_answer_that_is_no_json(gatehouse: Gatehouse, registry: Any) -> None:
    registry.rest[("GET", "/v1/ledger")] = (200, b"<html>")
    refused = gatehouse("ledger", "list")
    assert refused.exit_code == 1
    assert "not JSON" in refused.stderr


@pytest.mark.parametrize(
    "command", [("entry", "count"), ("ledger", "list"), ("healthcheck",), ("agent", "list")]
)
def test_no_server_is_one_line_with_what_to_do(gatehouse: Gatehouse, command: tuple[str, ...]) -> None:
    refused = gatehouse(*command)
    assert refused.exit_code == 4
    assert refused.stderr.count("\n") == 1
    assert "gatehouse server run" in refused.stderr


def test_dead_socket_is_the_same(gatehouse: Gatehouse, short_dir: Path) -> None:
    import socket

    for name in ("server.sock", "api.sock"):
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(str(short_dir / name))
    for command in (("entry", "count"), ("ledger", "list")):
        refused = gatehouse(*command)
        assert refused.exit_code == 4, refused.output
        assert refused.stderr.count("\n") == 1


def test_help_lists_every_group_and_loads_none() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert all(f"  {name} " in shown.stdout for name in ("entry", "ledger", "healthcheck"))
    code = (
        "import sys; from control_plane.cli import root; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(root.app, ['--help']).exit_code == 0;"
        "heavy = {'google.protobuf', 'cryptography', 'asyncio', 'sqlalchemy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_every_group_has_help_and_json(name: str) -> None:
    """Every leaf command takes --output."""
    import importlib.util

    import typer

    if importlib.util.find_spec(GROUPS[name][0]) is None:
        pytest.skip(f"{name} is not in this build")
    command = typer.main.get_command(importlib.import_module(GROUPS[name][0]).app)
    for leaf in _leaves(command):
        if leaf.hidden:
            continue
        assert leaf.help, f"{name} {leaf.name} has no help"
        assert any("--output" in each.opts for each in leaf.params), f"{name} {leaf.name} has no --output"


def _leaves(command: Any) -> list[Any]:
    """All commands below a command."""
    below = getattr(command, "commands", None)
    return [command] if below is None else [leaf for each in below.values() for leaf in _leaves(each)]


def test_unknown_command_gets_a_suggestion() -> None:
    refused = CliRunner().invoke(app, ["entri"])
    assert refused.exit_code == 2
    assert "entry" in refused.output


def test_data_dir_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert data_dir_of(None) == tmp_path / "state" / "gatehouse"
    (tmp_path / ".gatehouse").mkdir()
    assert data_dir_of(None) == Path(".gatehouse")
    assert data_dir_of(tmp_path / "given") == tmp_path / "given"


def test_help_is_fast() -> None:
    """Generous, for a loaded machine: a tenth of a second more than an empty typer program is the aim."""
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "control_plane", "--help"], capture_output=True, timeout=60, check=True
    )
    assert time.monotonic() - started < 3
