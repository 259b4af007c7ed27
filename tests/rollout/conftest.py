"""A registry, keys in memory, a compiler that answers at once: the life of policies without servers."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control_plane.authority.keys import MemoryKeyManager
from control_plane.core.spiffe_id import TrustDomain
from control_plane.rollout.keys import PolicyKeys
from control_plane.rollout.lifecycle import Rollouts
from control_plane.rollout.steps import Compiled, Evaluated, Planned, Proved, Refused, Shift, Step
from control_plane.rollout.version import PolicySource
from control_plane.sql.database import prepare
from control_plane.sql.rollout_store import SqlRolloutStore
from control_plane.sql.store import SqlStore

TD = TrustDomain("example.org")


class Killed(BaseException):
    """The process ended here."""


@dataclass
class StubCompiler:
    """Accepts everything but sources that say `refuse`."""

    began: int = 0
    hook: Callable[[], None] = lambda: None

    async def compile(self, source: PolicySource) -> AsyncGenerator[Step, None]:
        self.began += 1
        yield Evaluated(at=1, files=len(source.files), tests=0)
        yield Compiled(at=1, target="envoy-rbac", workloads=1, objects=1)
        if any("refuse" in text for text in source.files.values()):
            yield Refused(at=1, stage="prove", reasons=("it lets too much through",))
            return
        yield Proved(at=1, exact=1)

    async def plan(self, before: PolicySource | None, after: PolicySource) -> Planned:
        shift = Shift(
            direction="gains", caller="", workload="shop/web", question="authz",
            request=f"{'' if before is None else sorted(before.files)} -> {sorted(after.files)}",
        )  # fmt: skip
        return Planned(
            at=1, by="", against=0, against_version=0, gains=1, loses=0, undecided=0, shifts=(shift,)
        )


@dataclass
class Ledger:
    """Remembers records over the lives of a process."""

    records: list[dict[str, str]] = field(default_factory=list)

    async def record(self, **fields: str) -> str:
        self.records.append(fields)
        return f"0-{len(self.records)}"


class Clock:
    """Stands still; the life of a policy rests on order, not on time."""

    def unix(self) -> int:
        return 1_000

    def monotonic(self) -> float:
        return 0.0


class MortalStore:
    """The real store, counting its writes; the process dies before or after one of them."""

    WRITES = ("add_version", "add_step", "assign", "add_key", "retire_key")

    def __init__(self, store: SqlRolloutStore, die_at: int | None, *, after: bool) -> None:
        self._store = store
        self._die_at = die_at
        self._after = after
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name not in self.WRITES:
            return real

        async def write(*arguments: Any) -> Any:
            self.writes += 1
            if self.writes == self._die_at and not self._after:
                raise Killed
            answer = await real(*arguments)
            if self.writes == self._die_at:
                raise Killed
            return answer

        return write


@dataclass
class World:
    """What outlives a process: the database, the keys, the ledger."""

    path: Path
    manager: MemoryKeyManager = field(default_factory=lambda: MemoryKeyManager(os.urandom))
    ledger: Ledger = field(default_factory=Ledger)
    compiler: StubCompiler = field(default_factory=StubCompiler)
    writes: int = 0

    async def life(
        self,
        work: Callable[[Rollouts, Any], Awaitable[None]],
        *,
        die_at: int | None = None,
        after: bool = False,
    ) -> bool:
        """One life of the process; False if it was killed."""
        sql = SqlStore(self.path, TD, os.urandom)
        store: Any = MortalStore(SqlRolloutStore(sql.thread), die_at, after=after)
        stop = asyncio.Event()
        running: asyncio.Task[None] | None = None
        try:
            keys = PolicyKeys(self.manager, store, TD, Clock())  # type: ignore[arg-type]
            await keys.open()
            rollouts = Rollouts(store, self.compiler, keys, self.ledger, Clock())  # type: ignore[arg-type]
            running = asyncio.create_task(rollouts.run(stop))
            await asyncio.sleep(0)
            await work(rollouts, store)
            return True
        except Killed:
            return False
        finally:
            self.writes = store.writes
            stop.set()
            if running is not None:
                await asyncio.gather(running, return_exceptions=True)
            await sql.close()


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared database to copy."""
    path = tmp_path_factory.mktemp("empty") / "registry.db"
    prepare(path)
    return path


@pytest.fixture
def memory_dir() -> Iterator[Path]:
    """A folder in memory, where there is one: a hundred lives of a process flush ten times each."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="gh", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_world(memory_dir: Path, empty_registry: Path) -> Callable[[], World]:
    """Makes worlds with a registry of their own."""
    numbers = itertools.count()

    def make() -> World:
        path = memory_dir / f"{next(numbers)}.db"
        shutil.copy(empty_registry, path)
        return World(path)

    return make


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    return new_world()
