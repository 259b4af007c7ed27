"""The runner of the benchmarks: what it says of them, and what they leave behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import __main__ as runner
from bench.report import COLLECTED, Result, Skipped, load, skip, tell

HELD = Result("fast", "1 µs", "peer 2 µs", 0.5, 0.6)
MISSED = Result("slow", "3 µs", "peer 2 µs", 1.5, 0.6)

LEAVES_ONE_BEHIND = """
import subprocess
from bench import _ending
_ending.LEAVING_SECONDS = 0.3
_ending.inherit_orphans()
subprocess.run(["sh", "-c", "sleep 1000 & sleep 1001 &"], start_new_session=True)
print(len(_ending.left_behind()), len(_ending.children()))
"""

# As benchmarks do: one child is waited for, one is stubborn and has left a child of its own somewhere else.
WAITS_FOR_ITS_CHILDREN = """
import subprocess
from bench import _ending
from bench.report import command_line
_ending.LEAVING_SECONDS = 1
command_line("A benchmark.").parse_args()
stubborn = (
    "import os, signal, time; signal.signal(15, signal.SIG_IGN); "
    "print(os.getpid(), flush=True); time.sleep(1000)"
)
with subprocess.Popen([PYTHON, "-c", stubborn]), subprocess.Popen(["sleep", "1000"]) as waited:
    subprocess.run(["sh", "-c", "sleep 1000 & echo $!"], start_new_session=True)
    print(waited.pid, flush=True)
    waited.wait()
"""


def test_every_benchmark_says_what_it_measures() -> None:
    assert "issue_x509" in runner.names() and "report" not in runner.names()
    for name in runner.names():
        text = (runner.FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert text.startswith('"""') and "command_line(__doc__)" in text, name


def test_results_and_what_was_skipped_reach_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    collected = tmp_path / "results"
    monkeypatch.setenv(COLLECTED, str(collected))
    tell(HELD)
    skip("the other", "`make peers` builds it")
    assert load(collected) == ([HELD], [Skipped("the other", "`make peers` builds it")])
    capsys.readouterr()
    runner._table(*load(collected))
    told = capsys.readouterr().out
    assert "held" in told and "the other: not measured, `make peers` builds it" in told


@pytest.mark.parametrize(("told", "status", "expected"), [(HELD, 0, 0), (MISSED, 0, 1), (HELD, 3, 1)])
def test_only_missed_limits_and_failures_are_failures(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    told: Result,
    status: int,
    expected: int,
) -> None:
    def run(name: str, collected: Path) -> list[str]:
        collected.write_text(json.dumps(asdict(told)) + "\n")
        return [f"{name}: failed, it ended with {status}"] if status else []

    monkeypatch.setattr(runner, "_run", run)
    monkeypatch.setattr(runner, "end_with_us", lambda: None)
    monkeypatch.setattr(sys, "argv", ["bench", "issue_x509"])
    assert runner.main() == expected
    assert told.verdict in capsys.readouterr().out


def test_what_a_benchmark_leaves_behind_is_named_and_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_ONE_BEHIND], cwd=runner.FOLDER.parent, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "0"], done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_benchmark_that_is_told_to_end_leaves_nothing_running(number: signal.Signals) -> None:
    program = WAITS_FOR_ITS_CHILDREN.replace("PYTHON", repr(sys.executable))
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=runner.FOLDER.parent, stdout=subprocess.PIPE, text=True
    ) as benchmark:
        assert benchmark.stdout is not None
        pids = [int(benchmark.stdout.readline()) for _ in range(3)]
        benchmark.send_signal(number)
        assert benchmark.wait(40) == 128 + number
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
