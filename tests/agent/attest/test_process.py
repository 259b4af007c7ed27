"""Anchoring processes: the same one, or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.attest.digests import DigestCache, ExecutableChanged, ExecutableTooLarge
from agent.attest.process import (
    AnchoredProcess,
    Credentials,
    FileIdentity,
    ProcessEnded,
    open_executable,
    read_credentials,
)
from agent.attest.unix import UnixAttestor
from control_plane.core.selectors import Selector


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a copy of `sleep`, so that its executable is ours to delete."""
    program = tmp_path / "sleeper"
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([str(program), "60"])
    while Path(f"/proc/{process.pid}/exe").resolve() != program.resolve():
        time.sleep(0.005)
    yield process
    process.kill()
    process.wait()


def without_pidfd(pid: int) -> AnchoredProcess:
    return AnchoredProcess(pid, None)


@pytest.mark.parametrize("anchor", [AnchoredProcess.open, without_pidfd])
def test_an_ended_process_is_noticed(anchor: object, sleeper: subprocess.Popen[bytes]) -> None:
    process = anchor(sleeper.pid)  # type: ignore[operator]
    assert process.alive()
    with process.reading() as directory:
        assert read_credentials(directory).uid == os.geteuid()
    sleeper.kill()
    sleeper.wait()
    assert not process.alive()
    with pytest.raises(ProcessEnded), process.reading():
        pass
    process.close()
    process.close()


@pytest.mark.parametrize("anchor", [AnchoredProcess.open, without_pidfd])
def test_a_process_that_ends_while_it_is_read_gives_nothing(
    anchor: object, sleeper: subprocess.Popen[bytes]
) -> None:
    process = anchor(sleeper.pid)  # type: ignore[operator]
    with pytest.raises(ProcessEnded), process.reading() as directory:
        read_credentials(directory)
        sleeper.kill()
        sleeper.wait()  # what was read so far is true, and must not be used
    process.close()


STATUS = "Name:\t{}\nUid:\t1000\t1001\t0\t0\nGid:\t100\t101\t0\t0\nGroups:\t4 27 \n"


@pytest.mark.parametrize("end_of_line", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_a_process_whose_name_looks_like_a_line_of_its_status_gains_nothing(end_of_line: str) -> None:
    named = STATUS.format(f"a{end_of_line}Uid:\t0 0")
    assert Credentials.parse(named) == Credentials(1001, 101, (4, 27))
    assert Credentials.parse(named + f"Later:\ta{end_of_line}Uid:\t0 0\n") == Credentials(1001, 101, (4, 27))


@pytest.mark.parametrize(
    "status",
    ["", "Uid:\t0\nGid:\t0\nGroups:\t\n", STATUS.replace("1001", "-1"), STATUS.replace("27", "9" * 5000)],
)
def test_a_status_that_cannot_be_read_is_told(status: str) -> None:
    with pytest.raises(ValueError):
        Credentials.parse(status)


def test_a_zombie_counts_as_ended(sleeper: subprocess.Popen[bytes]) -> None:
    process = AnchoredProcess.open(sleeper.pid)
    sleeper.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while process.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path(f"/proc/{sleeper.pid}").exists(), "nobody has waited for it yet"
    assert not process.alive()
    process.close()


def test_no_such_process() -> None:
    with pytest.raises(ProcessEnded):
        AnchoredProcess.open(2**22 - 1)
    with pytest.raises(ProcessEnded):
        without_pidfd(2**22 - 1)


def test_the_selectors_of_this_process() -> None:
    attestor = UnixAttestor(DigestCache())
    process = AnchoredProcess.open(os.getpid())
    found = attestor.attest(process)
    process.close()
    assert Selector("unix", f"uid:{os.geteuid()}") in found.selectors
    assert Selector("unix", f"gid:{os.getegid()}") in found.selectors
    assert Selector("unix", f"path:{Path('/proc/self/exe').readlink()}") in found.selectors
    assert any(each.value.startswith("sha256:") for each in found.selectors)
    assert found.problems == ()


def test_supplementary_groups_of_another_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may start a process with chosen groups")
    child = subprocess.Popen(["sleep", "60"], user=12345, group=23456, extra_groups=[0, 34567])
    try:
        process = AnchoredProcess.open(child.pid)
        found = UnixAttestor(DigestCache()).attest(process)
        process.close()
        values = {each.value for each in found.selectors}
        assert {"uid:12345", "gid:23456", "supplementary_gid:0", "supplementary_gid:34567"} <= values
        assert "supplementary_group:root" in values
        assert not any(value.startswith("user:") for value in values), "this uid has no name"
    finally:
        child.kill()
        child.wait()


def test_a_deleted_executable_is_said_and_its_path_withheld(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    attestor = UnixAttestor(DigestCache())
    process = AnchoredProcess.open(sleeper.pid)
    before = attestor.attest(process)
    path = Selector("unix", f"path:{tmp_path / 'sleeper'}")
    assert path in before.selectors
    (tmp_path / "sleeper").unlink()
    fresh = attestor.attest(process)
    assert path not in fresh.selectors
    assert any("deleted or replaced" in problem for problem in fresh.problems)
    digests = {each for each in before.selectors if each.value.startswith("sha256:")}
    assert digests <= fresh.selectors, "what runs is still known"
    # The same process, attested with the path before: an upgrade of the file must not cut it off.
    assert path in attestor.attest(process, before).selectors
    process.close()


def test_a_file_that_is_named_deleted_is_not(tmp_path: Path) -> None:
    program = tmp_path / "tool (deleted)"
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", program)
    child = subprocess.Popen([str(program), "60"])
    try:
        time.sleep(0.1)
        process = AnchoredProcess.open(child.pid)
        with process.reading() as directory, open_executable(directory) as (_, executable):
            assert (executable.path, executable.deleted) == (str(program), False)
        process.close()
    finally:
        child.kill()
        child.wait()


def test_digests_are_cached_by_identity_and_follow_changes(tmp_path: Path) -> None:
    file = tmp_path / "program"
    cache = DigestCache()

    def digest() -> str:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            return cache.sha256(descriptor, FileIdentity.of(os.fstat(descriptor)))
        finally:
            os.close(descriptor)

    file.write_bytes(b"one")
    first = digest()
    assert digest() == first
    file.write_bytes(b"two")
    assert digest() != first


def test_what_is_too_large_or_changing_has_no_digest(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(b"x" * 100)
    descriptor = os.open(file, os.O_RDONLY)
    identity = FileIdentity.of(os.fstat(descriptor))
    with pytest.raises(ExecutableTooLarge):
        DigestCache(size_limit_bytes=99).sha256(descriptor, identity)
    file.write_bytes(b"y" * 101)
    with pytest.raises(ExecutableChanged):
        DigestCache().sha256(descriptor, identity)
    os.close(descriptor)
