"""Tests that share processes run in one worker: a group that is not kept starts a server for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def group_of(pytestconfig: pytest.Config) -> Any:
    """How tests are dealt out to workers, from the file beside this one."""
    plugins = pytestconfig.pluginmanager.get_plugins()
    return next(one for one in plugins if hasattr(one, "Together")).group_of


def test_a_group_is_what_the_file_names(group_of: Any) -> None:
    assert group_of("tests/interop/test_go_spiffe.py") == "go-spiffe"
    assert group_of("tests/core/test_csr.py") == ""


def test_every_mark_is_of_the_form_that_is_read(group_of: Any) -> None:
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.xdist_group" in path.read_text(encoding="utf-8") and path != Path(__file__)
    }
    assert marked
    assert all(group_of(path) for path in marked)


def test_what_starts_processes_for_a_whole_module_has_a_group(group_of: Any) -> None:
    ungrouped = [
        path.name
        for folder in ("interop", "system")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        if 'scope="module"' in path.read_text(encoding="utf-8")
        and not group_of(path.relative_to(ROOT).as_posix())
    ]
    assert ungrouped == []
