"""spire.api.server.entry.v1.Entry: administration of entries, and what an agent may know (spire.md b.4).

Reads come from the index; a write waits until this process's index holds it, so a caller on the same
connection reads its own writes.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final, ParamSpec

from control_plane.api.caller import agent_of, caller_of
from control_plane.api.context import ServerContext
from control_plane.api.entry_filters import candidates
from control_plane.api.entry_wire import GET_ENTRIES, SYNC_ENTRIES, SYNC_MORE, EntryWriter
from control_plane.api.paging import MAX_REPLY_BYTES, check_batch, page_of, read_token, write_token
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError, InvalidInput, NotFound, shown
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.ports import EntryOutcome, EntryUpdate
from control_plane.proto.convert import (
    entry_from_message,
    entry_to_message,
    mask_of,
    revision_to_message,
    status_to_message,
    update_entry,
)
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire
from control_plane.proto.spire.api.types import entry_pb2
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

SYNC_PAGE: Final = 500
MAX_BATCH: Final = 10_000
_NO_ID: Final = "missing entry ID"
_NO_PRIORITIES: Final[Mapping[int, int]] = MappingProxyType({})

P = ParamSpec("P")
_log = get_logger("entries")


class EntryService:
    """Implements the Entry service; who may call what was decided before."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._writer = EntryWriter()

    async def count_entries(self, call: Call, request: wire.CountEntriesRequest) -> wire.CountEntriesResponse:
        found = candidates(request.filter, self._context.replica.index, self._context.trust_domain)
        return wire.CountEntriesResponse(count=sum(1 for _ in found))

    async def list_entries(self, call: Call, request: wire.ListEntriesRequest) -> wire.ListEntriesResponse:
        mask = mask_of(request)
        page, last = page_of(
            candidates(
                request.filter,
                self._context.replica.index,
                self._context.trust_domain,
                after=read_token(request.page_token),
            ),
            lambda entry: entry_to_message(entry, mask),
            lambda entry: entry.id,
            request.page_size,
        )
        return wire.ListEntriesResponse(entries=page, next_page_token=write_token(last))

    async def get_entry(self, call: Call, request: wire.GetEntryRequest) -> entry_pb2.Entry:
        if not request.id:
            raise InvalidInput(_NO_ID)
        entry = self._context.replica.index.entry(request.id)
        if entry is None:
            raise NotFound(f"entry {shown(request.id)} not found")
        return entry_to_message(entry, mask_of(request))

    async def batch_create_entry(
        self,
        call: Call,
        request: wire.BatchCreateEntryRequest,
        priorities: Mapping[int, int] = _NO_PRIORITIES,
    ) -> wire.BatchCreateEntryResponse:
        """`priorities` are by position in the request; 0 where none is given."""
        check_batch(len(request.entries), MAX_BATCH)
        trust_domain = self._context.trust_domain

        def read(position: int, message: entry_pb2.Entry) -> Entry:
            return entry_from_message(message, priority=priorities.get(position, 0)).check(trust_domain)

        attempts = [_attempt(read, position, message) for position, message in enumerate(request.entries)]
        entries = [one for one in attempts if isinstance(one, Entry)]
        stored = await self._context.store.create_entries(entries, self._context.clock.unix())
        outcomes = _in_place(attempts, stored)
        await self._context.replica.refresh()
        self._report("entry_created", call, outcomes)
        mask = mask_of(request)
        return wire.BatchCreateEntryResponse(
            results=[
                wire.BatchCreateEntryResponse.Result(
                    status=status_to_message(outcome.error), entry=_written(outcome.entry, mask)
                )
                for outcome in outcomes
            ]
        )

    async def batch_update_entry(
        self,
        call: Call,
        request: wire.BatchUpdateEntryRequest,
        priorities: Mapping[int, int] = _NO_PRIORITIES,
    ) -> wire.BatchUpdateEntryResponse:
        """`priorities` are by position in the request; an entry without one keeps its own."""
        check_batch(len(request.entries), MAX_BATCH)
        trust_domain, input_mask = self._context.trust_domain, mask_of(request, "input_mask")

        def change(position: int, message: entry_pb2.Entry, entry: Entry) -> Entry:
            changed = update_entry(entry, message, input_mask).check(trust_domain)
            return replace(changed, priority=priorities.get(position, entry.priority))

        # What a message says is read before the entry is looked for, whose other fields may add a fault.
        blank = _blank(trust_domain)
        attempts = [_attempt(change, at, message, blank) for at, message in enumerate(request.entries)]
        updates = [
            EntryUpdate(message.id, partial(change, at, message))
            for at, message in enumerate(request.entries)
            if isinstance(attempts[at], Entry)
        ]
        outcomes = _in_place(attempts, await self._context.store.update_entries(updates))
        await self._context.replica.refresh()
        self._report("entry_updated", call, outcomes)
        mask = mask_of(request)
        return wire.BatchUpdateEntryResponse(
            results=[
                wire.BatchUpdateEntryResponse.Result(
                    status=status_to_message(outcome.error),
                    entry=_written(None if outcome.error else outcome.entry, mask),
                )
                for outcome in outcomes
            ]
        )

    async def batch_delete_entry(
        self, call: Call, request: wire.BatchDeleteEntryRequest
    ) -> wire.BatchDeleteEntryResponse:
        check_batch(len(request.ids), MAX_BATCH)
        attempts = [entry_id or InvalidInput(_NO_ID) for entry_id in request.ids]
        named = [entry_id for entry_id in request.ids if entry_id]
        outcomes = _in_place(attempts, await self._context.store.delete_entries(named))
        await self._context.replica.refresh()
        self._report("entry_deleted", call, outcomes)
        return wire.BatchDeleteEntryResponse(
            results=[
                wire.BatchDeleteEntryResponse.Result(status=status_to_message(outcome.error), id=entry_id)
                for entry_id, outcome in zip(request.ids, outcomes, strict=True)
            ]
        )

    async def get_authorized_entries(self, call: Call, request: wire.GetAuthorizedEntriesRequest) -> bytes:
        view = self._context.replica.index.authorized_entries(agent_of(call))
        return b"".join(self._writer.write(view.ordered, mask_of(request), GET_ENTRIES))

    async def sync_authorized_entries(
        self, call: Call, requests: AsyncIterator[wire.SyncAuthorizedEntriesRequest]
    ) -> AsyncIterator[wire.SyncAuthorizedEntriesResponse | bytes]:
        """Few entries: all of them at once. Many: revisions in pages, then the entries that are asked for.
        A reply holds revisions or entries, never both; both are sorted by ID."""
        try:
            first = await anext(requests)
        except StopAsyncIteration:
            raise InvalidInput("sync: the first request must carry the output mask") from None
        mask = mask_of(first)
        if mask is not None and not mask.revision_number:
            raise InvalidInput("revision number cannot be masked")
        if first.ids:
            raise InvalidInput("specifying IDs on initial request is not supported")
        # An unchanging snapshot: what changes meanwhile is the next sync's business.
        entries = self._context.replica.index.authorized_entries(agent_of(call)).ordered
        if len(entries) <= SYNC_PAGE:
            for page in _pages(self._writer.write(entries, mask, SYNC_ENTRIES)):
                yield page
            return
        for start in range(0, len(entries), SYNC_PAGE):
            yield wire.SyncAuthorizedEntriesResponse(
                entry_revisions=[revision_to_message(one) for one in entries[start : start + SYNC_PAGE]],
                more=start + SYNC_PAGE < len(entries),
            )
        known = {entry.id: entry for entry in entries}
        async for request in requests:
            if request.HasField("output_mask"):
                raise InvalidInput("sync: the output mask can't be changed after the first request")
            if len(request.ids) > MAX_BATCH:
                raise InvalidInput(f"sync: {len(request.ids)} IDs in one request, at most {MAX_BATCH}")
            wanted = [known[id] for id in sorted(set(request.ids)) if id in known]
            for page in _pages(self._writer.write(wanted, mask, SYNC_ENTRIES)):
                yield page

    def _report(self, event: str, call: Call, outcomes: Sequence[EntryOutcome]) -> None:
        by = str(caller_of(call))
        for outcome in outcomes:
            if outcome.error is None and outcome.entry is not None:
                _log.info(event, entry=outcome.entry.id, spiffe_id=str(outcome.entry.spiffe_id), by=by)


async def catch_up(context: ServerContext, agent_id: SpiffeId, entry_ids: Iterable[str]) -> None:
    """Reads the change log at once if one of the entries isn't known yet: it may have been created by
    another process a moment ago, and who was told of it may ask here first."""
    known = context.replica.index.authorized_entries(agent_id).entries
    if not all(entry_id in known for entry_id in entry_ids):
        await context.replica.refresh()


def usable_entry(known: Mapping[str, Entry], entry_id: str, now: int) -> Entry:
    """An entry for which an SVID may be issued, of those that the agent is authorised for. Raises NotFound
    otherwise, whatever the reason, so that an agent can't find out about others' entries."""
    entry = known.get(entry_id)
    if entry is None or 0 < entry.expires_at <= now:
        raise NotFound("entry not found or not authorized", hint="the agent should synchronise its entries")
    return entry


def _pages(fields: Sequence[bytes]) -> list[bytes]:
    """Sync replies of bounded number and size, all but the last saying that more follow; at least one."""
    pages: list[list[bytes]] = [[]]
    size = 0
    for field in fields:
        size += len(field)
        if len(pages[-1]) == SYNC_PAGE or size > MAX_REPLY_BYTES:
            pages.append([])
            size = len(field)
        pages[-1].append(field)
    return [b"".join(page) + SYNC_MORE for page in pages[:-1]] + [b"".join(pages[-1])]


def _attempt(read: Callable[P, Entry], *given: P.args, **named: P.kwargs) -> Entry | GatehouseError:
    try:
        return read(*given, **named)
    except GatehouseError as error:
        return error


def _in_place(attempts: Sequence[object], stored: Iterable[EntryOutcome]) -> list[EntryOutcome]:
    """What became of each item: its own fault, or the next of what storage answered for the others."""
    outcomes = iter(stored)
    return [EntryOutcome(None, a) if isinstance(a, GatehouseError) else next(outcomes) for a in attempts]


def _blank(trust_domain: TrustDomain) -> Entry:
    """An entry that breaks no rule, to try on what an update says."""
    someone = SpiffeId.of(trust_domain, "x")
    return Entry(id="", spiffe_id=someone, parent_id=someone, selectors=frozenset({Selector("x", "x")}))


def _written(entry: Entry | None, mask: entry_pb2.EntryMask | None) -> entry_pb2.Entry | None:
    return None if entry is None else entry_to_message(entry, mask)
