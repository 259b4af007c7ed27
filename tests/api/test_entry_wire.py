"""Entries as remembered bytes are what the generated classes would have written."""

from dataclasses import replace

from control_plane.api import entry_wire
from control_plane.api.entry_wire import GET_ENTRIES, SYNC_ENTRIES, SYNC_MORE, EntryWriter
from control_plane.core.entry import Entry
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.proto.convert import entry_to_message
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire
from control_plane.proto.spire.api.types.entry_pb2 import EntryMask

TD = TrustDomain("example.org")
ENTRIES = [
    Entry(
        id=f"e{number}",
        spiffe_id=SpiffeId(TD, f"/w{number}"),
        parent_id=SpiffeId(TD, "/p"),
        selectors=frozenset({Selector("unix", "uid:1")}),
        hint="h" * number * 40,  # lengths of one, two and three bytes
    )
    for number in range(0, 500, 25)
]


def test_same_as_the_generated_classes() -> None:
    writer = EntryWriter()
    for mask in (None, EntryMask(spiffe_id=True, revision_number=True), EntryMask(hint=True), EntryMask()):
        messages = [entry_to_message(entry, mask) for entry in ENTRIES]
        for _ in range(2):  # written, then remembered
            got = b"".join(writer.write(ENTRIES, mask, GET_ENTRIES))
            assert got == wire.GetAuthorizedEntriesResponse(entries=messages).SerializeToString()
            synced = b"".join(writer.write(ENTRIES, mask, SYNC_ENTRIES)) + SYNC_MORE
            assert (
                synced == wire.SyncAuthorizedEntriesResponse(entries=messages, more=True).SerializeToString()
            )


def test_a_changed_entry_is_written_anew() -> None:
    writer = EntryWriter()
    before = writer.write(ENTRIES[:1], None, GET_ENTRIES)
    changed = replace(ENTRIES[0], hint="new", revision=1)
    after = writer.write([changed], None, GET_ENTRIES)
    assert after != before and b"new" in after[0]
    assert len(writer._written) <= entry_wire.MAX_REMEMBERED
