"""What `gatehouse policy` commands may use: they end with a name for what is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.cli.policy import app
from control_plane.cli.policy_budget import Spending, used_mib, used_seconds
from control_plane.core.errors import ResourceExhausted

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "rego" / "starter"
INVENTORY = ROOT / "deploy" / "demo" / "inventory.yaml"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_budget_is_spent_where_more_than_that_was_used() -> None:
    used = iter([9.0, 10.0, 10.1])
    spending = Spending(10, 100, lambda: next(used), lambda: 50)
    spending("shop/a")
    spending("shop/b")
    with pytest.raises(
        ResourceExhausted, match=r"10 s of processor time, at most 10 .* workload shop/c"
    ) as told:
        spending("shop/c")
    assert told.value.hint is not None
    assert "--max-seconds" in told.value.hint


def test_memory_is_looked_at_now_and_then() -> None:
    used = iter([100.0, 101.0])
    spending = Spending(10, 100, lambda: 0, lambda: next(used))
    with pytest.raises(ResourceExhausted, match="101 MiB of memory, at most 100 ") as told:
        for number in range(100):
            spending(f"shop/{number}")
    assert "--max-memory" in str(told.value.hint)


def test_time_and_memory_are_those_of_this_process() -> None:
    before = used_seconds()
    block = bytearray(64 << 20)
    assert used_seconds() >= before > 0
    with_block = used_mib()
    assert with_block > len(block) >> 20
    del block
    assert used_mib() < with_block - 32


@pytest.mark.parametrize("caching", [(), ("--no-cache",)])
def test_a_command_ends_when_its_budget_is_spent(
    caching: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.cli.policy_manifests.Spending", _spent)
    command = (STARTER, "--inventory", INVENTORY, *caching, "--output", "json")
    for arguments in (("compile", *command), ("render", *command, "--out", tmp_path / "out")):
        result = run(*arguments)
        assert result.exit_code == 1
        told = json.loads(result.stderr)
        assert told["error"] == "resource-exhausted"
        assert "at most 1 may be used" in told["message"]
    assert not (tmp_path / "out").exists()


def test_a_difference_has_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.cli.policy_meaning.Spending", _spent)
    result = run("diff", STARTER, STARTER, "--inventory", INVENTORY)
    assert result.exit_code == 1
    assert "more with --max-seconds" in result.stderr


def _spent(_seconds: float, _mib: float) -> Spending:
    return Spending(1, 1024, lambda: 2)


def test_many_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.cli.policy_cache._MAX_UNWRITTEN_BYTES", 1)
    command = ("compile", STARTER, "--inventory", INVENTORY, "--cache", tmp_path / "cache")
    first = run(*command)
    assert (first.exit_code, first.stderr) == (0, "")
    monkeypatch.setattr("policies.questions.Questions.asked", lambda *_: pytest.fail("evaluated"))
    monkeypatch.setattr("policies.kept.proofs.prove", lambda *_: pytest.fail("proved"))
    assert run(*command).stdout == first.stdout


def test_rows_without_room_are_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.cli.policy_cache._MAX_UNWRITTEN_BYTES", 1)
    monkeypatch.setattr("control_plane.cli.policy_cache._Rows._write", _no_room)
    result = run("compile", STARTER, "--inventory", INVENTORY, "--cache", tmp_path / "cache")
    assert result.exit_code == 0
    assert "nothing new is kept" in result.stderr


def _no_room(_rows: object) -> None:
    raise OSError(28, "No space left on device")
