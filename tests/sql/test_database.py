"""The file: migrations, damage, foreign versions, permissions, a full disk, many writers."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from control_plane.authority.state import AuthorityState
from control_plane.core.entry import Entry
from control_plane.core.errors import Bug, Corrupt, FailedPrecondition, Unavailable
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.sql.authority_store import SqlAuthorityStore
from control_plane.sql.commits import POLLS_AFTER_A_CHANGE, POLLS_BETWEEN_QUESTIONS, LogWatch
from control_plane.sql.database import open_engine, prepare, translation
from control_plane.sql.store import SqlStore
from control_plane.sql.tables import metadata
from control_plane.sql.thread import POLL_SECONDS

TD = TrustDomain("example.org")


def entry(name: str) -> Entry:
    selectors = frozenset({Selector("unix", "uid:1")})
    return Entry(id="", spiffe_id=SpiffeId(TD, name), parent_id=SpiffeId(TD, "/p"), selectors=selectors)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    prepare(tmp_path / "registry.db")
    return tmp_path / "registry.db"


def test_migrations_make_the_tables_that_queries_expect(path: Path) -> None:
    prepare(path)  # idempotent
    assert path.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(path)
    for table in metadata.sorted_tables:
        found = {(row[1], bool(row[3])) for row in connection.execute(f"PRAGMA table_info({table.name})")}
        expected = {(column.name, not column.nullable) for column in table.columns}
        assert found == expected, table.name
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(FailedPrecondition, match="newer"):
        prepare(path)


def test_damage_is_named(path: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(Corrupt, match="isn't a database"):
        prepare(tmp_path / "junk.db")
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        prepare(path)


def test_a_row_that_cannot_be_read_is_named(path: Path) -> None:
    async def scenario() -> None:
        store = SqlStore(path, TD, os.urandom)
        await store.create_entries([entry("/web")], now=1)
        connection = sqlite3.connect(path)
        connection.execute("UPDATE entries SET spiffe_id = 'nonsense'")
        connection.commit()
        connection.close()
        with pytest.raises(Corrupt, match="table entries"):
            await store.changes_after(0)
        await store.close()

    asyncio.run(scenario())


def test_a_full_disk_stores_nothing_and_recovers(path: Path) -> None:
    async def scenario() -> None:
        store = SqlStore(path, TD, os.urandom)
        pages = await store.thread.read("x", lambda c: c.execute(text("PRAGMA page_count")).scalar_one())
        await store.thread.read("x", lambda c: c.execute(text(f"PRAGMA max_page_count={pages}")).scalar_one())
        head = (await store.changes_after(0)).sequence
        with pytest.raises(Unavailable, match="disk is full"):
            for number in range(2000):
                await store.create_entries([entry(f"/w{number}-{'x' * 500}")], now=1)
        kept = await store.changes_after(0)
        assert kept.sequence - head == len(kept.entries)
        await store.thread.read("x", lambda c: c.execute(text("PRAGMA max_page_count=100000")).scalar_one())
        [outcome] = await store.create_entries([entry("/again")], now=1)
        assert outcome.error is None
        await store.close()

    asyncio.run(scenario())


def test_a_missing_database_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = SqlStore(tmp_path / "no" / "registry.db", TD, os.urandom)
        with pytest.raises(Unavailable, match="can't be opened"):
            await store.changes_after(0)
        await store.close()
        with pytest.raises(Unavailable, match="closed"):
            await store.changes_after(0)

    asyncio.run(scenario())


def test_read_only_is_translated() -> None:
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorname = "SQLITE_READONLY_DBMOVED"
    ours = translation(OperationalError("x", {}, error), "storing a join token")
    assert isinstance(ours, Unavailable) and "can't be written" in str(ours) and "storing" in str(ours)


def test_a_bug_in_one_write_spares_its_neighbours(path: Path) -> None:
    async def scenario() -> None:
        store = SqlStore(path, TD, os.urandom)

        def broken(connection: object) -> None:
            raise KeyError("oops")

        good, bad, also_good = await asyncio.gather(
            store.create_entries([entry("/a")], now=1),
            store.thread.write("being broken", broken),
            store.create_entries([entry("/b")], now=1),
            return_exceptions=True,
        )
        assert (
            isinstance(bad, Bug) and not isinstance(good, Exception) and not isinstance(also_good, Exception)
        )
        assert (await store.changes_after(0)).sequence == 2
        await store.close()

    asyncio.run(scenario())


def test_writers_in_several_connections_number_without_gaps(path: Path) -> None:
    async def scenario() -> None:
        stores = [SqlStore(path, TD, os.urandom) for _ in range(3)]

        async def write(store: SqlStore, name: str) -> None:
            for number in range(30):
                await store.create_entries([entry(f"/{name}-{number}")], now=1)

        await asyncio.gather(*(write(store, f"s{n}-{k}") for n, store in enumerate(stores) for k in range(3)))
        final = await stores[0].changes_after(0)
        assert final.sequence == len(final.entries) == 270
        numbers = sqlite3.connect(path).execute("SELECT sequence FROM changes ORDER BY 1").fetchall()
        assert [number for (number,) in numbers] == list(range(1, 271))
        for store in stores:
            await store.close()

    asyncio.run(scenario())


def test_the_authority_state_is_swapped_only_by_who_read_it(path: Path) -> None:
    async def scenario() -> None:
        store = SqlStore(path, TD, os.urandom)
        authorities = SqlAuthorityStore(store.thread, TD)
        assert await authorities.load() == (0, AuthorityState(TD))
        assert await authorities.save(0, AuthorityState(TD, bundle_sequence=4)) == 1
        with pytest.raises(FailedPrecondition):
            await authorities.save(0, AuthorityState(TD, bundle_sequence=5))
        with pytest.raises(FailedPrecondition, match="go back"):
            await authorities.save(1, AuthorityState(TD, bundle_sequence=3))
        assert (await store.changes_after(0)).authorities
        foreign = SqlAuthorityStore(store.thread, TrustDomain("other.org"))
        with pytest.raises(FailedPrecondition, match="trust domain"):
            await foreign.load()
        await store.close()

    asyncio.run(scenario())


def test_engines_open_lazily(tmp_path: Path) -> None:
    open_engine(tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()


def test_commits_of_others_are_noticed_whenever_they_come(path: Path) -> None:
    async def scenario() -> None:
        store, told = SqlStore(path, TD, os.urandom), asyncio.Event()
        store.on_change(told.set)
        other = sqlite3.connect(path)
        try:
            for quiet in (False, True, False, False):
                if quiet:
                    await asyncio.sleep(POLL_SECONDS * POLLS_AFTER_A_CHANGE * 1.5)
                told.clear()
                other.execute("UPDATE alembic_version SET version_num = version_num")
                other.commit()
                async with asyncio.timeout(30):
                    await told.wait()
                assert told.is_set(), "after a quiet time" if quiet else "right after another"
        finally:
            other.close()
            await store.close()

    asyncio.run(scenario())


def test_a_log_that_stays_as_it_is_is_seldom_asked_about(tmp_path: Path) -> None:
    log = tmp_path / "registry.db-wal"
    watch = LogWatch(log)
    assert watch.may_tell(), "without a log there is no telling"
    log.write_bytes(b"1")
    asked = [watch.may_tell() for _ in range(200)]
    assert all(asked[:POLLS_AFTER_A_CHANGE])
    quiet = 200 - POLLS_AFTER_A_CHANGE
    assert sum(asked[POLLS_AFTER_A_CHANGE:]) == quiet // POLLS_BETWEEN_QUESTIONS
    log.write_bytes(b"12")
    assert watch.may_tell()
