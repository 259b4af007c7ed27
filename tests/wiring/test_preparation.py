"""Preparing the database in a process of its own: what it refuses is told here as if it were done here."""

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import Corrupt, FailedPrecondition, GatehouseError, Unavailable
from control_plane.wiring.preparation import prepare_apart

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Run:
    return asyncio.run


@pytest.fixture
def inherited(tmp_path: Path) -> Any:
    descriptor = os.open(tmp_path / "processes.lock", os.O_CREAT | os.O_RDWR, 0o600)
    yield descriptor
    os.close(descriptor)


def revision(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_a_new_database_has_the_newest_schema(tmp_path: Path, run: Run, inherited: int) -> None:
    database = tmp_path / "registry.db"
    run(prepare_apart(database, inherited))
    newest = max((Path(__file__).parents[2] / "control_plane/sql/migrations/versions").glob("m0*.py"))
    assert revision(database) in newest.stem
    assert database.stat().st_mode & 0o777 == 0o600


def spoil(database: Path) -> None:
    database.write_text("this is no database")


def come_from_the_future(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")


@pytest.mark.parametrize(
    ("make", "kind", "told"),
    [
        (spoil, Corrupt, "isn't a database"),
        (come_from_the_future, FailedPrecondition, "newer"),
        (Path.mkdir, Unavailable, "can't be opened"),
    ],
)
def test_what_is_refused_comes_back_with_its_kind_and_hint(
    tmp_path: Path, run: Run, inherited: int, make: Any, kind: type[GatehouseError], told: str
) -> None:
    make(tmp_path / "registry.db")
    with pytest.raises(kind, match=told) as refused:
        run(prepare_apart(tmp_path / "registry.db", inherited))
    assert refused.value.hint


def test_a_process_that_ends_without_a_word_is_told(
    tmp_path: Path, run: Run, inherited: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="ended with 1"):
        run(prepare_apart(tmp_path / "registry.db", inherited))
