"""The Entry service: batches, masks, filters, pages, and the synchronisation of agents."""

from typing import Any

import pytest

from control_plane.core.errors import InvalidInput, NotFound
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as wire
from control_plane.proto.spire.api.types import bundle_pb2 as bundle_types
from control_plane.proto.spire.api.types import entry_pb2, federateswith_pb2, selector_pb2

ENTRY = "/spire.api.server.entry.v1.Entry/"
BUNDLE = "/spire.api.server.bundle.v1.Bundle/"
PARENT = "spiffe://example.org/node"


async def listed(server: Any, **request: Any) -> list[str]:
    """The paths of the SPIFFE IDs that a list call answers, over all pages."""
    paths: list[str] = []
    token = ""
    while True:
        reply = await server.admin.unary(
            ENTRY + "ListEntries",
            wire.ListEntriesRequest(page_token=token, **request),
            wire.ListEntriesResponse,
        )
        paths += [entry.spiffe_id.path for entry in reply.entries]
        token = reply.next_page_token
        if not token:
            return sorted(paths)


def test_a_batch_answers_each_item_in_order(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        good = api.entry_for("/web", PARENT, hint="a", jwt_svid_ttl=7, store_svid=True)
        reply = await server.create(
            good,
            api.entry_for("/web", "spiffe://foreign.org/node"),
            entry_pb2.Entry(),
            api.entry_for("/web", PARENT, hint="b"),
            api.entry_for("/spire/agent/x", PARENT),
            api.entry_for("/y", PARENT, hint="h" * 1025),
        )
        assert [result.status.code for result in reply.results] == [0, 3, 3, 6, 3, 3]
        first, similar = reply.results[0].entry, reply.results[3].entry
        assert similar == first and first.hint == "a" and first.jwt_svid_ttl == 7 and first.store_svid
        assert first.revision_number == 0 and first.created_at > 0
        assert all("\n" not in result.status.message for result in reply.results)

    serve(scenario)


def test_an_update_changes_what_the_mask_names(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        created = (await server.create(api.entry_for("/web", PARENT, hint="old"))).results[0].entry
        changed = entry_pb2.Entry(id=created.id, hint="new", x509_svid_ttl=99)
        request = wire.BatchUpdateEntryRequest(
            entries=[changed, entry_pb2.Entry(id="nobody"), entry_pb2.Entry(id=created.id, hint="h" * 1025)],
            input_mask=entry_pb2.EntryMask(hint=True),
            output_mask=entry_pb2.EntryMask(hint=True, revision_number=True),
        )
        reply = await server.admin.unary(ENTRY + "BatchUpdateEntry", request, wire.BatchUpdateEntryResponse)
        assert [result.status.code for result in reply.results] == [0, 5, 3]
        assert reply.results[0].entry == entry_pb2.Entry(id=created.id, hint="new", revision_number=1)
        whole = await server.admin.unary(
            ENTRY + "GetEntry", wire.GetEntryRequest(id=created.id), entry_pb2.Entry
        )
        assert whole.x509_svid_ttl == 0 and whole.created_at == created.created_at
        without_selectors = wire.BatchUpdateEntryRequest(entries=[entry_pb2.Entry(id=created.id)])
        reply = await server.admin.unary(
            ENTRY + "BatchUpdateEntry", without_selectors, wire.BatchUpdateEntryResponse
        )
        assert reply.results[0].status.code == 3

    serve(scenario)


def test_delete_and_get_tell_what_is_not_there(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        created = (await server.create(api.entry_for("/web", PARENT))).results[0].entry
        request = wire.BatchDeleteEntryRequest(ids=["nobody", created.id, created.id])
        reply = await server.admin.unary(ENTRY + "BatchDeleteEntry", request, wire.BatchDeleteEntryResponse)
        assert [(r.status.code, r.id) for r in reply.results] == [
            (5, "nobody"),
            (0, created.id),
            (5, created.id),
        ]
        with pytest.raises(NotFound):
            await server.admin.unary(ENTRY + "GetEntry", wire.GetEntryRequest(id=created.id), entry_pb2.Entry)

    serve(scenario)


def test_an_id_that_is_taken_answers_no_entry(serve: Any, api: Any) -> None:
    """Who is told AlreadyExists with an entry takes it for the one that was asked for: same SPIFFE ID, parent
    and selectors. The holder of the same ID is another one."""

    async def scenario(server: Any) -> None:
        await server.create(api.entry_for("/web", PARENT, id="one"))
        twin = api.entry_for("/web", PARENT, id="two")
        reply = await server.create(api.entry_for("/other", PARENT, id="one"), twin)
        taken, similar = reply.results
        assert (taken.status.code, taken.HasField("entry")) == (6, False) and "one" in taken.status.message
        assert (similar.status.code, similar.entry.id) == (6, "one")
        await server.create(api.entry_for("/third", PARENT, id="three"))
        both = (await server.create(api.entry_for("/web", PARENT, id="three"))).results[0]
        assert (both.status.code, both.entry.id) == (6, "one"), "what is similar comes before the ID"

    serve(scenario)


def test_federating_with_oneself_says_what_to_do(serve: Any, api: Any) -> None:
    """SPIRE stores it, and its agents then ask for our bundle as a foreign one and fail whole."""

    async def scenario(server: Any) -> None:
        reply = await server.create(api.entry_for("/web", PARENT, federates_with=["example.org"]))
        status = reply.results[0].status
        assert status.code == 3 and "its own trust domain" in status.message

    serve(scenario)


def test_a_missing_id_is_the_callers_mistake(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        with pytest.raises(InvalidInput, match="missing"):
            await server.admin.unary(ENTRY + "GetEntry", wire.GetEntryRequest(), entry_pb2.Entry)
        request = wire.BatchDeleteEntryRequest(ids=["", "nobody"])
        reply = await server.admin.unary(ENTRY + "BatchDeleteEntry", request, wire.BatchDeleteEntryResponse)
        assert [result.status.code for result in reply.results] == [3, 5]
        update = wire.BatchUpdateEntryRequest(
            entries=[entry_pb2.Entry(hint="h")], input_mask=entry_pb2.EntryMask(hint=True)
        )
        answer = await server.admin.unary(ENTRY + "BatchUpdateEntry", update, wire.BatchUpdateEntryResponse)
        assert [result.status.code for result in answer.results] == [5]

    serve(scenario)


def test_what_an_update_says_is_read_before_whom_it_is_about(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        request = wire.BatchUpdateEntryRequest(
            entries=[
                entry_pb2.Entry(id="nobody", x509_svid_ttl=-1),
                entry_pb2.Entry(id="nobody", dns_names=["a..b"]),
                entry_pb2.Entry(id="nobody", hint="fine"),
            ],
            input_mask=entry_pb2.EntryMask(x509_svid_ttl=True, dns_names=True, hint=True),
        )
        reply = await server.admin.unary(ENTRY + "BatchUpdateEntry", request, wire.BatchUpdateEntryResponse)
        assert [result.status.code for result in reply.results] == [3, 3, 5]

    serve(scenario)


@pytest.mark.parametrize(
    "filter_",
    [
        {"by_spiffe_id": "spiffe://foreign.org/web"},
        {"by_spiffe_id": "spiffe://example.org"},
        {"by_spiffe_id": "spiffe://example.org/spire/agent/join_token/x"},
        {"by_parent_id": "spiffe://foreign.org/node"},
        {"by_parent_id": "spiffe://example.org"},
    ],
    ids=str,
)
def test_a_filter_by_an_id_that_no_entry_can_have_is_refused(
    serve: Any, api: Any, filter_: dict[str, str]
) -> None:
    async def scenario(server: Any) -> None:
        chosen = {name: api.message_of(text) for name, text in filter_.items()}
        counted = wire.CountEntriesRequest(filter=wire.CountEntriesRequest.Filter(**chosen))
        with pytest.raises(InvalidInput, match=min(filter_)):
            await listed(server, filter=wire.ListEntriesRequest.Filter(**chosen))
        with pytest.raises(InvalidInput, match=min(filter_)):
            await server.admin.unary(ENTRY + "CountEntries", counted, wire.CountEntriesResponse)

    serve(scenario)


def test_filters_that_say_nothing_hide_nothing_and_an_unknown_match_is_refused(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        await server.create(api.entry_for("/a", PARENT, hint="h"), api.entry_for("/b", PARENT))
        await server.create(api.entry_for("/down", PARENT, hint="d", downstream=True))
        by_downstream = wire.ListEntriesRequest.Filter()
        by_downstream.by_downstream.value = False  # SPIRE's command line sends this when nobody asked
        assert await listed(server, filter=by_downstream) == ["/a", "/b", "/down"]
        by_downstream.by_downstream.value = True
        assert await listed(server, filter=by_downstream) == ["/down"]
        by_hint = wire.ListEntriesRequest.Filter()
        by_hint.by_hint.value = ""
        assert await listed(server, filter=by_hint) == ["/a", "/b", "/down"]
        unknown = selector_pb2.SelectorMatch(selectors=[selector_pb2.Selector(type="u", value="a")])
        unknown.match = 7  # type: ignore[assignment]
        with pytest.raises(InvalidInput, match="match"):
            await listed(server, filter=wire.ListEntriesRequest.Filter(by_selectors=unknown))
        domains = federateswith_pb2.FederatesWithMatch(trust_domains=["a.org"])
        domains.match = 7  # type: ignore[assignment]
        with pytest.raises(InvalidInput, match="match"):
            await listed(server, filter=wire.ListEntriesRequest.Filter(by_federates_with=domains))

    serve(scenario)


def test_selector_filters_in_all_four_ways(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        await server.create(
            api.entry_for("/a", PARENT, "u:a"),
            api.entry_for("/ab", PARENT, "u:a", "u:b"),
            api.entry_for("/abc", PARENT, "u:a", "u:b", "u:c"),
            api.entry_for("/c", PARENT, "u:c"),
        )
        wanted = [selector_pb2.Selector(type="u", value=value) for value in "ab"]
        for behaviour, expected in (
            (0, ["/ab"]),
            (1, ["/a", "/ab"]),
            (2, ["/ab", "/abc"]),
            (3, ["/a", "/ab", "/abc"]),
        ):
            match = selector_pb2.SelectorMatch(selectors=wanted, match=behaviour)
            filter_ = wire.ListEntriesRequest.Filter(by_selectors=match)
            assert await listed(server, filter=filter_) == expected
            counted = wire.CountEntriesRequest(filter=wire.CountEntriesRequest.Filter(by_selectors=match))
            reply = await server.admin.unary(ENTRY + "CountEntries", counted, wire.CountEntriesResponse)
            assert reply.count == len(expected)
        empty = wire.ListEntriesRequest.Filter(by_selectors=selector_pb2.SelectorMatch())
        with pytest.raises(InvalidInput):
            await listed(server, filter=empty)

    serve(scenario)


def test_federation_filters_in_all_four_ways(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        request = bundle_pb2.BatchSetFederatedBundleRequest(
            bundle=[bundle_types.Bundle(trust_domain=name) for name in ("a", "b", "c")]
        )
        await server.admin.unary(
            BUNDLE + "BatchSetFederatedBundle", request, bundle_pb2.BatchSetFederatedBundleResponse
        )
        await server.create(
            api.entry_for("/none", PARENT),
            api.entry_for("/a", PARENT, federates_with=["a"]),
            api.entry_for("/ab", PARENT, federates_with=["spiffe://a", "b"]),
            api.entry_for("/abc", PARENT, federates_with=["a", "b", "c"]),
            api.entry_for("/c", PARENT, federates_with=["c"]),
        )
        for behaviour, expected in (
            (0, ["/ab"]),
            (1, ["/a", "/ab"]),
            (2, ["/ab", "/abc"]),
            (3, ["/a", "/ab", "/abc"]),
        ):
            match = federateswith_pb2.FederatesWithMatch(trust_domains=["a", "b"], match=behaviour)
            assert (
                await listed(server, filter=wire.ListEntriesRequest.Filter(by_federates_with=match))
                == expected
            )

    serve(scenario)


def test_the_other_filters_and_pages(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        await server.create(
            api.entry_for("/web", PARENT, "u:1", hint="x"),
            api.entry_for("/web", PARENT, "u:2", downstream=True),
            api.entry_for("/db", "spiffe://example.org/other", "u:1", hint="x"),
        )
        filters = wire.ListEntriesRequest.Filter
        assert (
            await listed(server, filter=filters(by_spiffe_id=api.message_of("spiffe://example.org/web")))
            == ["/web"] * 2
        )
        assert await listed(server, filter=filters(by_parent_id=api.message_of(PARENT))) == ["/web"] * 2
        by_hint = filters()
        by_hint.by_hint.value = "x"
        assert await listed(server, filter=by_hint, page_size=1) == ["/db", "/web"]
        by_downstream = filters()
        by_downstream.by_downstream.value = True
        assert await listed(server, filter=by_downstream) == ["/web"]
        assert await listed(server, page_size=2) == ["/db", "/web", "/web"]
        with pytest.raises(InvalidInput):
            await listed(server, page_size=-1)

    serve(scenario)


def test_many_entries_are_synchronised_by_revision(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        for start in range(0, 1100, 550):
            await server.create(
                *(
                    api.entry_for(f"/w{n}", agent.id, f"u:{n}", hint="h" * 100)
                    for n in range(start, start + 550)
                )
            )
        mask = entry_pb2.EntryMask(spiffe_id=True, revision_number=True)
        async with agent.channel.stream(
            ENTRY + "SyncAuthorizedEntries", wire.SyncAuthorizedEntriesResponse, timeout=30
        ) as call:
            await call.send(wire.SyncAuthorizedEntriesRequest(output_mask=mask))
            pages = [await call.receive()]
            while pages[-1].more:
                pages.append(await call.receive())
            assert [len(page.entry_revisions) for page in pages] == [500, 500, 100]
            assert not any(page.entries for page in pages)
            ids = [revision.id for page in pages for revision in page.entry_revisions]
            assert ids == sorted(ids) and len(set(ids)) == 1100
            await call.send(wire.SyncAuthorizedEntriesRequest(ids=[*ids[:3], "nobody"]))
            reply = await call.receive()
            assert [entry.id for entry in reply.entries] == ids[:3]
            assert not reply.more and not reply.entry_revisions
            assert all(entry.spiffe_id.path and not entry.hint for entry in reply.entries)
            await call.send(wire.SyncAuthorizedEntriesRequest(ids=ids[:700]), end=True)
            first, second = await call.receive(), await call.receive()
            assert (len(first.entries), first.more, len(second.entries), second.more) == (
                500,
                True,
                200,
                False,
            )
            assert await call.receive() is None

    serve(scenario)


@pytest.mark.parametrize(
    "request_",
    [
        wire.SyncAuthorizedEntriesRequest(output_mask=entry_pb2.EntryMask(spiffe_id=True)),
        wire.SyncAuthorizedEntriesRequest(ids=["x"]),
    ],
)
def test_a_sync_that_begins_wrongly_is_refused(serve: Any, request_: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        async with agent.channel.stream(
            ENTRY + "SyncAuthorizedEntries", wire.SyncAuthorizedEntriesResponse, timeout=5
        ) as call:
            await call.send(request_, end=True)
            with pytest.raises(InvalidInput):
                await call.receive()

    serve(scenario)


def test_a_token_with_an_agent_id_makes_an_alias(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        token = await server.token(agent_id=api.message_of(PARENT))
        await server.create(api.entry_for("/web", PARENT))
        agent = await server.attest("join_token", token.encode())
        reply = await agent.channel.unary(
            ENTRY + "GetAuthorizedEntries",
            wire.GetAuthorizedEntriesRequest(),
            wire.GetAuthorizedEntriesResponse,
        )
        assert sorted(entry.spiffe_id.path for entry in reply.entries) == ["/node", "/web"]

    serve(scenario)
