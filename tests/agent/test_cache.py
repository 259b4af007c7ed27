"""The cache: encrypted, atomic, and set aside when it can't be read; its key, and where that may lie."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cache import WORKLOADS_FILE, CacheFile
from agent.cache_content import (
    AgentContent,
    AgentCredential,
    WorkloadsContent,
    dump_agent,
    dump_workloads,
    parse_agent,
    parse_workloads,
)
from agent.cache_key import CREDENTIAL_NAME, CacheKey, locate_key
from agent.heard import Heard
from agent.identities import Identities
from agent.storage import Storage
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.errors import Corrupt, FailedPrecondition, Unavailable
from control_plane.core.log_position import LogPosition
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.clock import SystemClock

TD = TrustDomain("agents.test")
KEY = CacheKey(Secret(b"k" * 32), "test", survives_reboot=True)


def test_what_was_saved_is_loaded_and_not_readable(tmp_path: Path) -> None:
    file = CacheFile(tmp_path / "agent.cache", KEY)
    assert file.load() is None
    file.save(b"a private key")
    assert file.load() == b"a private key"
    raw = (tmp_path / "agent.cache").read_bytes()
    assert b"private" not in raw
    assert (tmp_path / "agent.cache").stat().st_mode & 0o777 == 0o600
    file.save(b"a private key")
    assert (tmp_path / "agent.cache").read_bytes() != raw, "another nonce each time"


def test_a_changed_file_is_corrupt(tmp_path: Path) -> None:
    file = CacheFile(tmp_path / "agent.cache", KEY)
    file.save(b"content")
    raw = (tmp_path / "agent.cache").read_bytes()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 0x40
        (tmp_path / "agent.cache").write_bytes(changed)
        with pytest.raises(Corrupt):
            file.load()
    for length in range(0, len(raw), 3):
        (tmp_path / "agent.cache").write_bytes(raw[:length])
        with pytest.raises(Corrupt):
            file.load()


def test_another_key_or_another_name_is_corrupt(tmp_path: Path) -> None:
    CacheFile(tmp_path / "agent.cache", KEY).save(b"content")
    with pytest.raises(Corrupt, match="another key"):
        CacheFile(tmp_path / "agent.cache", CacheKey(Secret(b"x" * 32), "", survives_reboot=True)).load()
    (tmp_path / "agent.cache").rename(tmp_path / "agent-workloads.cache")
    with pytest.raises(Corrupt):
        CacheFile(tmp_path / "agent-workloads.cache", KEY).load()


def test_a_disk_that_is_full_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CacheFile(tmp_path / "agent.cache", KEY)
    file.save(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FailedPrecondition, match="No space left"):
            file.save(b"new")
    assert file.load() == b"old"
    file.save(b"newer")
    assert file.load() == b"newer"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "agent.cache.new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FailedPrecondition):
        CacheFile(tmp_path / "agent.cache", KEY).save(b"secret")
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    cache = CacheFile(tmp_path / "agent.cache", KEY)
    os.mkfifo(cache.path)
    told: list[str] = []

    def load() -> None:
        try:
            cache.load()
        except Corrupt as error:
            told.append(error.message)

    reader = threading.Thread(target=load, daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive(), "the start of the agent would wait for ever"
    assert told == [f"reading the cache {cache.path}: not a regular file"]


def test_setting_aside_keeps_the_file(tmp_path: Path) -> None:
    (tmp_path / "agent.cache").write_bytes(b"?")
    aside = CacheFile(tmp_path / "agent.cache", KEY).set_aside("why", 17)
    assert aside.path.name == "agent.cache.unreadable-17" and aside.path.read_bytes() == b"?"


@pytest.fixture
def bundle(node_server: Any) -> Bundle:
    ca, key = node_server.Ca(TD, 1_700_000_000), node_server.JwtKey()
    return Bundle(
        TD,
        (X509Authority(ca.certificate, tainted=True),),
        (JwtAuthority(key.key_id, key.spki, 9, True),),
        5,
        300,
    )


def test_content_survives_a_round_trip(entry: Any, held: Any, bundle: Bundle) -> None:
    one = entry(
        "e1", "/w", "unix:uid:1", "unix:path:/a:b", hint="h", dns_names=["a.example"],
        federates_with=["o.test"], priority=3, revision=7,
        expires_at=99, store_svid=True, jwt_svid_include_jti=True,
    )  # fmt: skip
    svid = held(one.spiffe_id)
    credential = AgentCredential(svid, True, "x509pop", "abc")
    again = parse_agent(dump_agent(AgentContent(TD, credential, bundle)))
    assert again.bundle == bundle, "taints included"
    assert again.credential is not None
    assert (again.credential.reattestable, again.credential.evidence) == (True, "abc")
    assert again.credential.held.private_key.reveal() == svid.private_key.reveal()
    assert parse_agent(dump_agent(AgentContent(TD, None, bundle))).credential is None
    content = WorkloadsContent(TD, (one,), {"e1": svid}, (bundle,), 12, LogPosition("0123456789abcdef", 7))
    read = parse_workloads(dump_workloads(content))
    assert (read.entries, read.bundles, read.synced_at) == ((one,), (bundle,), 12)
    assert read.heard == content.heard
    assert read.svids["e1"].svid.chain == svid.svid.chain and read.svids["e1"].renew_at == svid.renew_at


@given(
    st.binary(max_size=200)
    | st.sampled_from([b"{}", b'{"version":1}', b'{"version":1,"trust_domain":1}', b"[]", b"[" * 100_000])
)
def test_other_content_is_corrupt(text: bytes) -> None:
    for parse in (parse_agent, parse_workloads):
        with pytest.raises(Corrupt):
            parse(text)


def test_an_endless_number_is_corrupt() -> None:
    workloads = dump_workloads(WorkloadsContent(TD, (), {}, (), 12)).replace(b":12", b":1e999")
    with pytest.raises(Corrupt):
        parse_workloads(workloads)


def test_a_cache_of_before_positions_were_known_is_read() -> None:
    older = dump_workloads(WorkloadsContent(TD, (), {}, (), 12)).replace(b'"heard":null,', b"")
    assert b"heard" not in older and parse_workloads(older).heard is None
    agent = dump_agent(AgentContent(TD, None, Bundle(TD, refresh_hint_seconds=300))).replace(
        b":300", b":1e999"
    )
    with pytest.raises(Corrupt):
        parse_agent(agent)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def key_file(path: Path, content: bytes = b"", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or secrets.token_bytes(32))
    path.chmod(mode)
    return path


def test_an_explicit_key_file_comes_first(tmp_path: Path, data_dir: Path) -> None:
    key_file(tmp_path / "credentials" / CREDENTIAL_NAME)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "XDG_RUNTIME_DIR": str(tmp_path)}
    explicit = locate_key(data_dir, key_file(tmp_path / "key"), environment)
    systemd = locate_key(data_dir, None, environment)
    del environment["CREDENTIALS_DIRECTORY"]
    volatile = locate_key(data_dir, None, environment)
    assert len({found.key.reveal() for found in (explicit, systemd, volatile)}) == 3
    assert [found.survives_reboot for found in (explicit, systemd, volatile)] == [True, True, False]


def test_a_key_of_our_own_is_kept_and_belongs_to_one_data_dir(tmp_path: Path, data_dir: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    first = locate_key(data_dir, None, environment)
    assert locate_key(data_dir, None, environment).key == first.key
    assert Path(first.source).stat().st_mode & 0o777 == 0o600
    assert not Path(first.source).is_relative_to(data_dir)
    (tmp_path / "other").mkdir()
    assert locate_key(tmp_path / "other", None, environment).key != first.key


def test_a_key_beside_what_it_protects_is_refused(data_dir: Path) -> None:
    with pytest.raises(FailedPrecondition, match="beside"):
        locate_key(data_dir, key_file(data_dir / "sub" / "key"), {})


@pytest.mark.parametrize(("content", "mode", "reason"), [(b"short", 0o600, "32"), (b"", 0o640, "mode")])
def test_an_unfit_key_is_refused(
    tmp_path: Path, data_dir: Path, content: bytes, mode: int, reason: str
) -> None:
    with pytest.raises(FailedPrecondition, match=reason):
        locate_key(data_dir, key_file(tmp_path / "key", content, mode), {})


def test_a_missing_or_linked_key_is_refused(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(FailedPrecondition):
        locate_key(data_dir, tmp_path / "absent", {})
    (tmp_path / "link").symlink_to(key_file(tmp_path / "key"))
    with pytest.raises(FailedPrecondition):
        locate_key(data_dir, tmp_path / "link", {})


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gatehouse").mkdir()
    (tmp_path / "gatehouse").chmod(0o777)
    monkeypatch.setattr("agent.cache_key._volatile_directories", lambda environment: [tmp_path])
    with pytest.raises(Unavailable, match="--cache-key-file"):
        locate_key(data_dir, None, {})


def test_the_key_is_not_shown() -> None:
    assert "kkk" not in repr(KEY)


def test_a_change_is_on_the_disk_within_a_second_and_before_the_end(tmp_path: Path) -> None:
    """An agent that is killed loses what its workloads hold and the cache doesn't."""
    file = tmp_path / WORKLOADS_FILE

    async def work() -> None:
        storage = Storage(tmp_path, Identities(TD), Heard(), KEY, SystemClock())
        stop = asyncio.Event()
        task = asyncio.create_task(storage.run(stop))
        storage.dirty.set()
        async with asyncio.timeout(1.0):
            while not file.exists():  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
        written = file.stat().st_ino
        storage.dirty.set()
        stop.set()
        await asyncio.wait_for(task, 1.0)
        assert file.stat().st_ino != written, "what changed since the last write is written at the end"

    asyncio.run(work())
