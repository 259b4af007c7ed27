"""The supervisor at moments that a kill rarely meets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop

from control_plane.settings import load_settings
from control_plane.wiring import supervisor


def test_a_child_that_is_killed_before_it_reads_its_settings_has_ended_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start = asyncio.create_subprocess_exec

    async def killed_at_once(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        child = await start(*command, **options)
        child.kill()
        await child.wait()
        return child

    async def main() -> int:
        flags = {"data_dir": str(tmp_path), "trust_domain": "example.org"}
        settings = load_settings(file=None, environment={}, flags=flags)
        child = supervisor._Child(settings, "issuer", 1, group=None)  # type: ignore[arg-type]  # never ready
        monkeypatch.setattr(asyncio, "create_subprocess_exec", killed_at_once)
        stopping: Any = asyncio.ensure_future(asyncio.Event().wait())
        try:
            return await asyncio.wait_for(child._once(stopping), 20)
        finally:
            stopping.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == -9
