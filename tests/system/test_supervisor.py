"""The supervisor at moments that a kill rarely meets."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from control_plane.core.errors import FailedPrecondition, InvalidInput, Unavailable
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


def test_a_folder_too_deep_for_its_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """The supervisor would start, and the management process never."""
    folder = tmp_path / ("d" * 100)
    settings = load_settings(
        file=None, environment={}, flags={"data_dir": str(folder), "trust_domain": "example.org"}
    )
    with pytest.raises(InvalidInput, match=r"bytes too long.*shorter folder"):
        asyncio.run(supervisor.supervise(settings))
    assert not folder.exists()
    flags = ("--trust-domain", "example.org", "--data-dir", str(folder))
    for program in ("control_plane", "agent"):
        command = [sys.executable, "-m", program, "check", "config", "/dev/null", *flags]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 1 and "bytes too long" in checked.stderr


@pytest.mark.parametrize("was_ready", [False, True])
def test_a_process_that_the_system_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, was_ready: bool
) -> None:
    """At first that is an error to be told; later it passes, and the other processes serve on meanwhile."""
    attempts = []

    async def main() -> None:
        stop = asyncio.Event()

        async def refused(*command: Any, **options: Any) -> asyncio.subprocess.Process:
            attempts.append(command)
            if len(attempts) == 2:
                stop.set()
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
        monkeypatch.setattr(supervisor, "FIRST_BACKOFF_SECONDS", 0.01)
        flags = {"data_dir": str(tmp_path), "trust_domain": "example.org"}
        settings = load_settings(file=None, environment={}, flags=flags)
        group: Any = SimpleNamespace(inherited=0)
        child = supervisor._Child(settings, "issuer", 1, group)
        child._was_ready = was_ready
        await asyncio.wait_for(child.run(stop), 20)

    if was_ready:
        asyncio.run(main())
        assert len(attempts) == 2
    else:
        with pytest.raises(Unavailable, match=r"starting issuer-1: Too many open files.*ulimit"):
            asyncio.run(main())
        assert len(attempts) == 1


def test_a_start_that_fails_is_not_a_server_out_of_reach(tmp_path: Path) -> None:
    """4 is for who asks a server; a unit that starts one sees 1. A file in the folder's place is named."""
    file = tmp_path / "file"
    file.touch()
    command = [sys.executable, "-m", "control_plane", "server", "run", "--trust-domain", "example.org"]
    ended = subprocess.run(
        [*command, "--data-dir", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == f"gatehouse: data directory {file}: is not a folder — choose another --data-dir\n"


def test_keys_under_another_passphrase_end_a_start_with_their_reason(tmp_path: Path) -> None:
    """It was tried again for ever, and nobody heard of it who didn't read the log."""
    folder, command = tmp_path / "d", [sys.executable, "-m", "control_plane", "server", "run"]
    command += ["--data-dir", str(folder), "--trust-domain", "example.org", "--bind", "127.0.0.1:0"]

    def start(passphrase: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "GATEHOUSE_AUTHORITY_KEY_PASSPHRASE": passphrase}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    with start("one") as server:
        try:
            until = time.monotonic() + 60
            while not (folder / "server.json").exists():
                assert server.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        finally:
            server.terminate()
            server.communicate(timeout=60)
    for passphrase, reason in (
        ("two", "the passphrase is wrong"),
        ("", "GATEHOUSE_AUTHORITY_KEY_PASSPHRASE"),
    ):
        with start(passphrase) as server:
            try:
                _, said = server.communicate(timeout=60)
            finally:
                server.kill()
        assert server.returncode == 1
        last = said.splitlines()[-1]
        assert last.startswith(f"gatehouse: key file {folder}/keys/") and reason in last


def test_a_process_whose_supervisor_died_before_it_had_said_the_settings_ends_quietly() -> None:
    for said in (b"", b'{"data_dir": "/so'):
        ended = subprocess.run(
            [sys.executable, "-m", "control_plane.wiring", "issuer", "0"],
            input=said,
            capture_output=True,
            timeout=60,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
