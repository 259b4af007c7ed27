"""What a run makes of a target that fails: the input is kept, and told."""

from __future__ import annotations

from pathlib import Path

import fuzz_run
import pytest


def _counted(target: fuzz_run.Target, folder: Path) -> fuzz_run.Counted:
    (folder / "found").mkdir()
    return fuzz_run.Counted("a", target, folder, fuzz_run.Progress("code"), goal=3)


def test_an_input_that_takes_for_ever_is_ended_by_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_run, "HANG_SECONDS", 0.05)

    def hangs(data: bytes) -> bool:
        while data == b"bad":
            pass
        return True

    counted = _counted(hangs, tmp_path)
    with pytest.raises(fuzz_run.Hung):
        fuzz_run._mutate(counted, [b"good", b"bad", b"never"])
    assert [path.read_bytes() for path in (tmp_path / "found").iterdir()] == [b"bad"]
    assert counted.progress.inputs == 1


def test_inputs_are_counted_and_written_down_at_the_goal(tmp_path: Path) -> None:
    counted = _counted(lambda data: data == b"x", tmp_path)
    assert fuzz_run._mutate(counted, [b"x", b"y", b"x"]) == 3
    assert str(fuzz_run.Progress.read(tmp_path, "code")).startswith("3 inputs (2 accepted)")
    assert fuzz_run.Progress.read(tmp_path, "other code").inputs == 0
