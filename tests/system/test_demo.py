"""`make up` and `make down` as one meets them first, in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from deploy.demo import database

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [pytest.mark.xdist_group("demo"), pytest.mark.timeout(300)]


def _postgresql() -> bool:
    try:
        database.find()
    except database.NoDatabase:
        return False
    return True


POSTGRESQL = _postgresql()


def demo(action: str, folder: Path) -> str:
    """Runs one action to its end; its output."""
    environment = {**os.environ, "GATEHOUSE_DEMO_DIR": str(folder)}
    finished = subprocess.run(
        [sys.executable, "-m", "deploy.demo", action],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def runs(pid: int) -> bool:
    """Whether a process does anything still; its remains, which somebody has yet to collect, do not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@pytest.fixture(scope="module")
def folder(running: ModuleType) -> Iterator[Path]:
    """A folder in which the demo runs for this module, and not afterwards."""
    with running.short_folder() as path:
        yield path
        demo("down", path)


@pytest.fixture(scope="module")
def screen(folder: Path) -> tuple[str, float]:
    """What the first `make up` printed, and how long it took."""
    started = time.monotonic()
    return demo("up", folder), time.monotonic() - started


def test_it_shows_identities_an_exchange_and_a_refusal(screen: tuple[str, float]) -> None:
    shown, seconds = screen
    for expected in (
        "spiffe://gatehouse.test/storefront",
        "spiffe://gatehouse.test/warehouse",
        "'order ",
        "'paid order ",
        "TLSv1.3",
        "✓ frontend → payments   GET /v1/charges          200",
        "✗ frontend → payments   DELETE /v1/charges       403                no rule allows it",
        "denied by authz/authz.rego:56",
        "streams: charge 1",
        "✓ payments → card-db    TCP",
        "✗ frontend → card-db    TCP",
        "answered           card 4242 4242 4242 4242",
        "connection closed",
        "PostgreSQL in " if POSTGRESQL else "a small TCP service: ",
        "api fetch x509 --output json",
        "make down",
    ):
        assert expected in shown
    assert "23." in shown or "24.0" in shown, "identities live for a day"
    assert "permission" in shown.lower(), "the refusal of the stranger"
    assert seconds < 90, "it should take under 15 s on an idle machine"


def test_second_start_finds_everything_running(screen: tuple[str, float], folder: Path) -> None:
    before = json.loads((folder / "demo" / "processes.json").read_text())
    assert "all of it already" in demo("up", folder)
    assert json.loads((folder / "demo" / "processes.json").read_text()) == before


def test_registered_interpreter_fetches(screen: tuple[str, float], folder: Path) -> None:
    """The command that the screen prints, run by a registered copy of the interpreter and by another one."""
    for name, succeeds in (("storefront", True), ("stranger", False)):
        python = folder / "demo" / "interpreters" / name / "bin" / "python"
        command = [python, "-m", "agent", "api", "fetch", "x509", "--output", "json", "--data-dir", folder]
        finished = subprocess.run(
            [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (finished.returncode == 0) is succeeds, finished.stdout + finished.stderr
        assert (f"spiffe://gatehouse.test/{name}" in finished.stdout) is succeeds


def test_the_tour_changes_the_policy_and_cuts_off(screen: tuple[str, float], folder: Path) -> None:
    """`make demo` checks by itself that each change is seen on the wire; it fails where one isn't."""
    told = demo("tour", folder)
    for expected in (
        "version 2 against version 1: 1 gain, 0 lose access",
        "nobody decides on a change of their own",
        "rollback to 100 %",
        "frontend is cut off",
        '"event": "paid"',
    ):
        assert expected in told
    assert ("server closed the connection unexpectedly" in told) is POSTGRESQL


def test_missing_part_is_started_again(screen: tuple[str, float], folder: Path) -> None:
    listed = json.loads((folder / "demo" / "processes.json").read_text())
    payments = next(each for each in listed if each["name"] == "warehouse")
    os.kill(payments["pid"], 9)
    demo("up", folder)
    again = json.loads((folder / "demo" / "processes.json").read_text())
    changed = {each["name"] for each in again if each not in listed}
    assert changed == {"warehouse"}


def test_down_stops_exactly_these_and_up_comes_back(screen: tuple[str, float], folder: Path) -> None:
    listed = json.loads((folder / "demo" / "processes.json").read_text())
    demo("down", folder)
    assert not [each["name"] for each in listed if runs(each["pid"])]
    assert "nothing" in demo("down", folder)
    assert "spiffe://gatehouse.test/warehouse" in demo("up", folder), "with the data of before"
