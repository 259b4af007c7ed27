"""`gatehouse entry`: registration entries. Flags are named as spire-server names them, in kebab case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from control_plane.cli import printing, wire
from control_plane.cli.cut_off import those_cut_off
from control_plane.cli.entry_flags import EntryFields, GivenEntry, given_entries
from control_plane.cli.entry_printing import print_entries
from control_plane.cli.entry_query import (
    FederatesFilterFlag,
    Match,
    MatchFederatesFlag,
    MatchSelectorsFlag,
    counting,
    filter_of,
)
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import Remote, with_server
from control_plane.proto.gatehouse.server.v1 import entry_pb2 as ours
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types import entry_pb2 as types_pb2
from control_plane.runtime.command_line import MAX_INT32, MAX_INT64

ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
PRIORITY = ours.DESCRIPTOR.services_by_name["Entry"]
PAGE_SIZE = 500
BATCH = 200
Written: TypeAlias = tuple[list[Any], dict[str, int]]  # what the server answered, and priorities by entry ID

app = group("Registration entries: which process gets which identity.")

SpiffeIdFlag = Annotated[str, typer.Option("--spiffe-id", help="The identity that is given.")]
ParentIdFlag = Annotated[str, typer.Option("--parent-id", help="The agent, or node set, that may give it.")]
SelectorFlag = Annotated[
    list[str], typer.Option("--selector", help="type:value that the process must have; may be repeated.")
]
X509TtlFlag = Annotated[
    int, typer.Option("--x509-svid-ttl", min=0, max=MAX_INT32, help="Seconds; 0 is the server's default.")
]
JwtTtlFlag = Annotated[
    int, typer.Option("--jwt-svid-ttl", min=0, max=MAX_INT32, help="Seconds; 0 is the server's default.")
]
FederatesFlag = Annotated[
    list[str], typer.Option("--federates-with", help="A trust domain whose bundle comes along; repeatable.")
]
DnsFlag = Annotated[list[str], typer.Option("--dns", help="A DNS name in the certificate; repeatable.")]
HintFlag = Annotated[
    str, typer.Option("--hint", help="Tells a process with several identities which is which.")
]
AdminFlag = Annotated[bool, typer.Option("--admin", help="The identity may administer the server.")]
DownstreamFlag = Annotated[bool, typer.Option("--downstream", help="The identity is a nested server's.")]
StoreFlag = Annotated[bool, typer.Option("--store-svid", help="The SVID goes to a secret store.")]
ExpiryFlag = Annotated[
    int, typer.Option("--entry-expiry", min=0, max=MAX_INT64, help="Unix seconds; 0 is never.")
]
PriorityFlag = Annotated[
    int,
    typer.Option(
        "--priority",
        min=-MAX_INT32 - 1,
        max=MAX_INT32,
        help="A process's default identity is that of the highest priority, then of the oldest entry.",
    ),
]
EntryIdFlag = Annotated[str, typer.Option("--entry-id", help="The entry's own ID.")]
NodeFlag = Annotated[bool, typer.Option("--node", help="An entry for nodes: its parent is the server.")]
DataFlag = Annotated[
    Path | None,
    typer.Option("--data", help="JSON file with entries, as `entry show --output json` prints them."),
]


@app.command()
def create(
    spiffe_id: SpiffeIdFlag = "",
    parent_id: ParentIdFlag = "",
    selector: SelectorFlag = [],  # noqa: B006 (typer copies it)
    x509_svid_ttl: X509TtlFlag = 0,
    jwt_svid_ttl: JwtTtlFlag = 0,
    federates_with: FederatesFlag = [],  # noqa: B006
    dns: DnsFlag = [],  # noqa: B006
    hint: HintFlag = "",
    admin: AdminFlag = False,
    downstream: DownstreamFlag = False,
    store_svid: StoreFlag = False,
    entry_expiry: ExpiryFlag = 0,
    priority: PriorityFlag = 0,
    entry_id: EntryIdFlag = "",
    node: NodeFlag = False,
    data: DataFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Creates an entry, or all those of a file. An entry that exists already is shown and is an error."""
    fields = EntryFields(
        entry_id, spiffe_id, parent_id, tuple(selector), x509_svid_ttl, jwt_svid_ttl, tuple(federates_with),
        tuple(dns), hint, admin, downstream, store_svid, entry_expiry, priority, node,
    )  # fmt: skip
    entries = given_entries(data, fields)

    async def work(server: Remote) -> Written:
        return await _written(server, "BatchCreateEntry", ours.BatchCreateEntryRequest, entries)

    _show_results(with_server(work, data_dir=data_dir, output=output), "created", output)


@app.command()
def update(
    entry_id: EntryIdFlag = "",
    spiffe_id: SpiffeIdFlag = "",
    parent_id: ParentIdFlag = "",
    selector: SelectorFlag = [],  # noqa: B006
    x509_svid_ttl: X509TtlFlag = 0,
    jwt_svid_ttl: JwtTtlFlag = 0,
    federates_with: FederatesFlag = [],  # noqa: B006
    dns: DnsFlag = [],  # noqa: B006
    hint: HintFlag = "",
    admin: AdminFlag = False,
    downstream: DownstreamFlag = False,
    store_svid: StoreFlag = False,
    entry_expiry: ExpiryFlag = 0,
    priority: PriorityFlag = 0,
    data: DataFlag = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Replaces an entry, named by --entry-id, as a whole: what is not given goes to its default."""
    fields = EntryFields(
        entry_id, spiffe_id, parent_id, tuple(selector), x509_svid_ttl, jwt_svid_ttl, tuple(federates_with),
        tuple(dns), hint, admin, downstream, store_svid, entry_expiry, priority, False,
    )  # fmt: skip
    entries = given_entries(data, fields)
    for entry in entries:
        if not entry.message.id:
            raise typer.BadParameter("an update needs the ID of the entry", param_hint="--entry-id")

    async def work(server: Remote) -> Written:
        return await _written(server, "BatchUpdateEntry", ours.BatchUpdateEntryRequest, entries)

    _show_results(with_server(work, data_dir=data_dir, output=output), "updated", output)


@app.command()
def show(
    entry_id: EntryIdFlag = "",
    spiffe_id: SpiffeIdFlag = "",
    parent_id: ParentIdFlag = "",
    selector: SelectorFlag = [],  # noqa: B006
    match_selectors_on: MatchSelectorsFlag = Match.SUPERSET,
    federates_with: FederatesFilterFlag = [],  # noqa: B006
    match_federates_with_on: MatchFederatesFlag = Match.SUPERSET,
    hint: HintFlag = "",
    downstream: DownstreamFlag = False,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Shows entries: all, one by ID, or those that have all the given properties."""
    wanted = filter_of(
        spiffe_id=spiffe_id, parent_id=parent_id, selectors=selector, match_selectors=match_selectors_on,
        federates_with=federates_with, match_federates_with=match_federates_with_on, hint=hint,
        downstream=downstream,
    )  # fmt: skip

    async def work(server: Remote) -> list[dict[str, Any]]:
        found = await _found(server, wanted, entry_id)
        priorities = await _stored_priorities(server, found)
        entries = [wire.entry_json(entry, priorities.get(entry.id, 0)) for entry in found]
        cut_off = await those_cut_off(server, (entry["spiffe_id"] for entry in entries))
        return [{**entry, "quarantined": cut_off.get(entry["spiffe_id"])} for entry in entries]

    entries = with_server(work, data_dir=data_dir, output=output)
    printing.emit(output, {"entries": entries}, lambda: print_entries(entries))


@app.command()
def count(
    spiffe_id: SpiffeIdFlag = "",
    parent_id: ParentIdFlag = "",
    selector: SelectorFlag = [],  # noqa: B006
    match_selectors_on: MatchSelectorsFlag = Match.SUPERSET,
    federates_with: FederatesFilterFlag = [],  # noqa: B006
    match_federates_with_on: MatchFederatesFlag = Match.SUPERSET,
    hint: HintFlag = "",
    downstream: DownstreamFlag = False,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Counts entries: all, or those that have all the given properties."""
    wanted = filter_of(
        spiffe_id=spiffe_id, parent_id=parent_id, selectors=selector, match_selectors=match_selectors_on,
        federates_with=federates_with, match_federates_with=match_federates_with_on, hint=hint,
        downstream=downstream,
    )  # fmt: skip

    async def work(server: Remote) -> Any:
        request = entry_pb2.CountEntriesRequest(filter=counting(wanted))
        return await server.call(ENTRY, "CountEntries", request)

    number = with_server(work, data_dir=data_dir, output=output).count
    printing.emit(output, {"count": number}, lambda: printing.line(str(number)))


@app.command()
def delete(
    entry_id: Annotated[list[str], typer.Option("--entry-id", help="The entry's own ID; may be repeated.")],
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Deletes entries. Agents drop the identity at once; certificates already given live to their end."""

    async def work(server: Remote) -> list[Any]:
        request = entry_pb2.BatchDeleteEntryRequest(ids=entry_id)
        return list((await server.call(ENTRY, "BatchDeleteEntry", request)).results)

    results = with_server(work, data_dir=data_dir, output=output)
    answer = [
        {"id": each.id, "deleted": not wire.refusal(each), "error": wire.refusal(each)} for each in results
    ]

    def human() -> None:
        for each in answer:
            if each["deleted"]:
                printing.line(f"deleted {each['id']}")
            else:
                printing.note(f"gatehouse: {each['id']}: {each['error']}")

    printing.emit(output, {"results": answer}, human)
    wire.end_unless_done(results)


async def _found(
    server: Remote, wanted: entry_pb2.ListEntriesRequest.Filter, entry_id: str
) -> list[types_pb2.Entry]:
    """The entry of an ID, or every one that the filter lets through, over all pages."""
    if entry_id:
        return [await server.call(ENTRY, "GetEntry", entry_pb2.GetEntryRequest(id=entry_id))]
    found: list[types_pb2.Entry] = []
    token = ""
    while True:
        request = entry_pb2.ListEntriesRequest(filter=wanted, page_size=PAGE_SIZE, page_token=token)
        reply = await server.call(ENTRY, "ListEntries", request)
        found.extend(reply.entries)
        token = reply.next_page_token
        if not token:
            return found


async def _written(
    server: Remote, method: str, request_type: type[Any], entries: Sequence[GivenEntry]
) -> Written:
    """Sends entries in requests that the server takes; what became of each, in their order."""
    results: list[Any] = []
    for start in range(0, len(entries), BATCH):
        share = entries[start : start + BATCH]
        request = request_type(priorities={place: entry.priority for place, entry in enumerate(share)})
        request.request.entries.extend(each.message for each in share)
        results.extend((await server.call(PRIORITY, method, request)).results)
    return results, await _stored_priorities(server, [each.entry for each in results])


async def _stored_priorities(server: Remote, entries: Sequence[types_pb2.Entry]) -> dict[str, int]:
    """What the server has, by ID; absent means 0."""
    found: dict[str, int] = {}
    for start in range(0, len(entries), PAGE_SIZE):
        ids = [entry.id for entry in entries[start : start + PAGE_SIZE] if entry.id]
        if ids:
            request = ours.GetPrioritiesRequest(entry_ids=ids)
            found.update((await server.call(PRIORITY, "GetPriorities", request)).priorities)
    return found


def _show_results(written: Written, done: str, output: Output) -> None:
    """Prints what became of each entry of a batch; fails if any was refused."""
    results, priorities = written
    answer: list[dict[str, Any]] = [
        {
            "status": done if each.status.code == wire.OK else "refused",
            "error": wire.refusal(each),
            "entry": wire.entry_json(each.entry, priorities.get(each.entry.id, 0))
            if each.HasField("entry")
            else None,
        }
        for each in results
    ]

    def human() -> None:
        for each in answer:
            if each["error"]:
                printing.note(f"gatehouse: {each['error']}")
            if each["entry"]:
                print_entries([each["entry"]])

    printing.emit(output, {"results": answer}, human)
    wire.end_unless_done(results)
