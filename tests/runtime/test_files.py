"""Files are measured before they are read, wherever that is done."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.bootstrap import read_trust_bundle
from agent.cache import CacheFile
from agent.cache_key import CacheKey
from agent.envoy.description_file import read_description
from agent.settings import WrittenSettings
from control_plane.authority import disk_keys
from control_plane.cli import policy_files
from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime import settings
from control_plane.runtime.files import read_bounded

HUGE = 2 << 30
TD = TrustDomain("example.org")
KEY = CacheKey(Secret(b"k" * 32), "test", survives_reboot=True)

READERS: dict[str, Callable[[Path], Any]] = {
    "cache": lambda path: CacheFile(path, KEY).load(),
    "settings": lambda path: settings.load(WrittenSettings, file=path, environment={}),
    "trust bundle": lambda path: read_trust_bundle(path, TD),
    "inventory": policy_files.read_inventory,
    "Rego": policy_files.read_text,
    "key": disk_keys._read,
    "service description": read_description,
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_gigabytes_is_refused_unread(name: str, tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch(0o600)
    os.truncate(path, HUGE)  # sparse: it has the size, and nothing on the disk
    tracemalloc.start()
    try:
        with pytest.raises(GatehouseError, match=rf"huge.*({HUGE} bytes|more than|larger than)"):
            READERS[name](path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20, "a part of it was read"


def test_what_has_no_size_is_read_up_to_the_bound(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="more than 1000 bytes"):
        read_bounded(Path("/dev/zero"), 1000)
    (tmp_path / "small").write_bytes(b"x" * 1000)
    assert len(read_bounded(tmp_path / "small", 1000)) == 1000
    with pytest.raises(InvalidInput, match="1000 bytes, at most 999"):
        read_bounded(tmp_path / "small", 999)
