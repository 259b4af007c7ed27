"""The supervisor at moments that a kill rarely meets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from control_plane.core.errors import FailedPrecondition
from control_plane.settings import load_settings
from control_plane.wiring import data_directory, supervisor


def test_a_child_that_is_killed_before_it_reads_its_settings_has_ended_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor does the interrupt of a terminal reach it, which goes to a whole group of processes: it would end
    with a traceback while it loads, beside a supervisor that is about to end it in order."""
    start = asyncio.create_subprocess_exec
    groups = []

    async def killed_at_once(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        child = await start(*command, **options)
        groups.append(os.getpgid(child.pid))
        child.kill()
        await child.wait()
        return child

    async def main() -> int:
        flags = {"data_dir": str(tmp_path), "trust_domain": "example.org"}
        settings = load_settings(file=None, environment={}, flags=flags)
        group: Any = SimpleNamespace(inherited=0)  # never ready
        child = supervisor._Child(settings, "issuer", 1, group)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", killed_at_once)
        stopping: Any = asyncio.ensure_future(asyncio.Event().wait())
        try:
            return await asyncio.wait_for(child._once(stopping), 20)
        finally:
            stopping.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == -9
    assert groups and groups != [os.getpgid(0)]


def test_a_directory_is_free_again_when_the_last_process_has_ended(tmp_path: Path) -> None:
    """The supervisor is gone, however it went; a process that it started isn't."""
    folder = tmp_path / "d"

    async def main() -> None:
        async with data_directory.own(folder) as inherited:
            with pytest.raises(FailedPrecondition, match="another server"):
                await data_directory.own(folder).__aenter__()
            left = subprocess.Popen(  # noqa: ASYNC220 -- it is to outlive the loop's care
                [sys.executable, "-c", "import sys; sys.stdin.read()"],
                stdin=subprocess.PIPE,
                pass_fds=(inherited,),
            )
        try:
            with pytest.raises(FailedPrecondition, match=r"former server.*processes\.lock"):
                await data_directory.own(folder, former_seconds=0.2).__aenter__()
            assert left.stdin is not None
            threading.Timer(0.3, left.stdin.close).start()
            async with data_directory.own(folder, former_seconds=40):
                left.wait(20)
        finally:
            left.kill()
            left.wait()

    asyncio.run(main())


def test_a_process_whose_supervisor_died_before_it_had_said_the_settings_ends_quietly() -> None:
    for said in (b"", b'{"data_dir": "/so'):
        ended = subprocess.run(
            [sys.executable, "-m", "control_plane.wiring", "issuer", "0"],
            input=said,
            capture_output=True,
            timeout=60,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
