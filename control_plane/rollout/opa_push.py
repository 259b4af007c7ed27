"""Keeps OPAs that are told by their REST API at what is in force, and heals what others change there.

OPA's REST API knows no transaction. So the module that answers the sidecar's question goes first to one that
denies everything and comes back last: in between OPA denies, it never decides by half a policy. What belongs
to us are the modules below `gatehouse/`, the places of `data` that a push wrote, and our packages: a module
that somebody else adds to them is named in the log and taken away.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from control_plane.core.errors import GatehouseError, InvalidInput
from control_plane.identity.quarantine import Quarantine
from control_plane.rollout.opa_document import SIDECAR, SIDECAR_FILE, OpaDocument, canonical_json
from control_plane.rollout.ports import RolloutStore
from control_plane.runtime.log import get_logger

PREFIX: Final = "gatehouse/"
LOOK_SECONDS: Final = 10.0
PUSHED: Final = (*SIDECAR, "pushed")
"""Where a push notes the places of `data` that it wrote, so that the next one can clear them."""
DENIES: Final = f"package {'.'.join(SIDECAR)}\n\ndefault allow := false\n"

Place = tuple[str, ...]
_log = get_logger("opa")


@dataclass(frozen=True, slots=True)
class HeldModule:
    """A module as an OPA holds it; `package` is without `data`."""

    package: Place
    text: str = field(repr=False)


class OpaTarget(Protocol):
    """One OPA. Every call raises Unavailable, and InvalidInput for what the OPA refuses."""

    @property
    def name(self) -> str:
        """For logs."""

    async def modules(self) -> Mapping[str, HeldModule]:
        """All modules by ID."""

    async def data(self, place: Place) -> object:
        """A value of `data`; None where there is none."""

    async def put_module(self, name: str, text: str) -> None:
        """Adds or replaces a module."""

    async def delete_module(self, name: str) -> None:
        """Deletes a module."""

    async def put_data(self, place: Place, value: object) -> None:
        """Sets a value, and makes what is above it."""

    async def delete_data(self, place: Place) -> None:
        """Deletes a value."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an OPA is to hold: modules by ID, values by place."""

    roots: frozenset[str]
    modules: Mapping[str, str] = field(repr=False)
    values: Mapping[Place, object] = field(repr=False)

    @staticmethod
    def of(document: OpaDocument) -> "Wanted":
        """Splits `data` where packages stand beside it, so that each value has a place of its own."""
        above = {path[:depth] for path in document.packages for depth in range(1, len(path) + 1)}
        values: dict[Place, object] = {}

        def walk(place: Place, value: object) -> None:
            if place in above and isinstance(value, dict):
                for key, inner in value.items():
                    walk((*place, key), inner)
            else:
                values[place] = value

        for root, value in document.data.items():
            walk((root,), value)
        values[PUSHED] = sorted(list(place) for place in values)
        modules = {PREFIX + name: text for name, text in document.modules.items()}
        return Wanted(frozenset(document.roots), modules, values)


async def drift_of(target: OpaTarget, wanted: Wanted) -> list[str]:
    """What differs, as sentences; empty where nothing does. Raises as the port."""
    held = await target.modules()
    found = [
        f"module {name} {'differs' if name in held else 'is missing'}"
        for name, text in wanted.modules.items()
        if name not in held or held[name].text != text
    ]
    found += [f"module {name} is foreign" for name in _foreign(held, wanted)]
    found += [f"data.{'.'.join(one)} differs" for one in wanted.values if await _differs(target, one, wanted)]
    return found


async def bring(target: OpaTarget, wanted: Wanted) -> None:
    """Makes it so. Raises as the port; until it succeeds, the sidecar's question is answered with no."""
    sidecar = PREFIX + SIDECAR_FILE
    held = await target.modules()
    gone: dict[str, str | None] = dict.fromkeys(_foreign(held, wanted))
    changed = {
        name: text for name, text in wanted.modules.items() if name not in held or held[name].text != text
    }
    before = await target.data(PUSHED)
    old = (
        {tuple(map(str, one)) for one in before if isinstance(one, list)}
        if isinstance(before, list)
        else set()
    )
    dropped = sorted(old - set(wanted.values))
    values = [place for place in wanted.values if await _differs(target, place, wanted)]
    if not (gone or changed or dropped) and len(values) == 1:
        # One value is changed at once, as the quarantine is: nobody need be denied for it.
        await target.put_data(values[0], wanted.values[values[0]])
        return
    await target.put_module(sidecar, DENIES)
    for place in dropped:
        await target.delete_data(place)
    changed.pop(sidecar, None)
    # A module that another one calls has to be there first, or has to go last: whatever OPA refuses is tried
    # again once something else has succeeded.
    todo: dict[str, str | None] = {**gone, **changed}
    while todo:
        failed: dict[str, str | None] = {}
        refusal: InvalidInput | None = None
        for name, text in todo.items():
            try:
                await (target.delete_module(name) if text is None else target.put_module(name, text))
            except InvalidInput as error:
                failed[name], refusal = text, error
        if refusal is not None and len(failed) == len(todo):
            raise refusal
        todo = failed
    for place in values:
        await target.put_data(place, wanted.values[place])
    await target.put_module(sidecar, wanted.modules[sidecar])


class OpaPush:
    """A service: looks at every OPA after each change and every ten seconds."""

    def __init__(
        self, targets: Sequence[OpaTarget], store: RolloutStore, quarantine: Callable[[], Quarantine]
    ) -> None:
        self._targets = targets
        self._store = store
        self._quarantine = quarantine
        self._news = asyncio.Event()
        self._made: tuple[tuple[int, int], Wanted] | None = None

    def changed(self) -> None:
        """An assignment or the quarantine may have changed."""
        self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop`. An OPA that can't be told is tried again at the next look."""
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look())
            await stop.wait()
            looking.cancel()

    async def _look(self) -> None:
        while True:
            self._news.clear()
            await asyncio.gather(*map(self._heal, self._targets))
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _heal(self, target: OpaTarget) -> None:
        try:
            wanted = await self._wanted()
            drift = await drift_of(target, wanted) if wanted is not None else []
            if wanted is not None and drift:
                _log.warning("opa_drifted", opa=target.name, found=drift[:20], count=len(drift))
                await bring(target, wanted)
                _log.info("opa_told", opa=target.name)
        except GatehouseError as error:
            _log.error("opa_not_told", opa=target.name, reason=str(error))

    async def _wanted(self) -> Wanted | None:
        full = (await self._store.in_force()).full
        if full is None:
            return None
        quarantine = self._quarantine()
        name = (full.sequence, quarantine.revision)
        if self._made is None or self._made[0] != name:
            source = await self._store.source(full.version)
            document = await asyncio.to_thread(OpaDocument.of, source, quarantine.spiffe_ids)
            self._made = (name, Wanted.of(document))
        return self._made[1]


async def _differs(target: OpaTarget, place: Place, wanted: Wanted) -> bool:
    return canonical_json(await target.data(place)) != canonical_json(wanted.values[place])


def _foreign(held: Mapping[str, HeldModule], wanted: Wanted) -> list[str]:
    return sorted(
        name
        for name, module in held.items()
        if name not in wanted.modules
        and (name.startswith(PREFIX) or (module.package[:1] and module.package[0] in wanted.roots))
    )
