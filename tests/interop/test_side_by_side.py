"""The same requests, byte for byte, to our server and to an unmodified spire-server: both answer alike.

Compared are status codes, of calls and of each item of a batch, and all that replies hold. Not compared are
the wording of errors, times, and revisions: ours go on where an ID is used again, theirs begin anew. Where
the two differ by intent, `DEVIATIONS` says how and why, and holds both sides to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from foreign_caller import Answer, ForeignCaller, Request
from google.protobuf.json_format import MessageToDict
from spire_calls import (
    bundle_of,
    create,
    delete,
    delete_bundle,
    entry_of,
    filtered,
    join_token,
    list_entries,
    match_of,
    mint_jwt,
    mint_x509,
    set_bundle,
)
from spire_requests import AGENT, ENTRY, Drawing

from control_plane.proto.google.protobuf.empty_pb2 import Empty
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2 as agent
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as entry
from control_plane.proto.spire.api.types import selector_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry, EntryMask
from control_plane.proto.spire.api.types.federateswith_pb2 import FederatesWithMatch

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("side-by-side")]

REQUESTS = 250
KEY = ec.generate_private_key(ec.SECP256R1())

Both = Callable[[Request], tuple[Answer, Answer]]


@pytest.fixture(scope="module")
def spire_server(running: ModuleType, folder: Path, peer: Callable[[str], Path]) -> Iterator[Any]:
    """spire-server with its limits off."""
    process = running.SpireServer(folder, peer("spire-server"))
    with running.stopping(process):
        yield process.run()


@pytest.fixture(scope="module")
def certificates(server: Any, spire_server: Any) -> list[bytes]:
    """Two certificates of authorities, to put into bundles."""
    own = [each.bundle_file().read_bytes() for each in (server, spire_server)]
    return [x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER) for pem in own]


@pytest.fixture(scope="module")
def both(server: Any, spire_server: Any, certificates: list[bytes]) -> Iterator[Both]:
    """Sends a request to both: our answer, and that of spire-server. Both know the bundle of `fed.test`."""
    callers = [ForeignCaller(each.socket) for each in (server, spire_server)]

    def ask(request: Request) -> tuple[Answer, Answer]:
        ours, theirs = (caller(request) for caller in callers)
        return ours, theirs

    keeper = entry_of(id="keeper", path="/keeper", federates_with=["fed.test"])  # so that its bundle stays
    for request in (set_bundle(bundle_of("fed.test", certificates[0])), create(keeper)):
        assert [code_of(each) for each in ask(request)] == [OK, OK]
    yield ask
    for caller in callers:
        caller.close()


@pytest.mark.parametrize("seed", range(3))
def test_drawn_requests_are_answered_alike(both: Both, certificates: list[bytes], seed: int) -> None:
    codes = set()
    for number, request in enumerate(Drawing(seed, certificates).requests(REQUESTS)):
        ours, theirs = both(request)
        assert seen(ours) == seen(theirs), (
            f"request {number}: {request.method} {request.message}\nours: {ours}\ntheirs: {theirs}"
        )
        codes.add((request.method, code_of(ours)))
    assert len(codes) > 25, "good and bad requests to every method"


def test_pages_hold_each_entry_once(both: Both) -> None:
    """The order within is each server's own, and so are tokens: what counts is the whole."""
    ids = [f"page-{number}" for number in range(7)]
    both(create(*(entry_of(id=each, selectors=[("page", each)]) for each in ids)))
    found: list[list[str]] = [[], []]
    for side in (0, 1):
        token = ""
        while True:
            message = entry.ListEntriesRequest(page_size=3, page_token=token)
            reply = both(Request(ENTRY + "ListEntries", message, entry.ListEntriesResponse))[side].reply
            found[side] += [each.id for each in reply.entries]
            token = reply.next_page_token
            if not token or not reply.entries:
                break
    both(delete(*ids))
    assert sorted(found[0]) == sorted(found[1]) and set(ids) <= set(found[0])


def test_many_items_in_one_request(both: Both) -> None:
    ids = [f"many-{number}" for number in range(300)]
    made = both(create(*(entry_of(id=each, selectors=[("many", each)]) for each in ids)))
    assert seen(made[0]) == seen(made[1]) and len(made[0].reply.results) == 300
    gone = both(delete(*ids))
    assert seen(gone[0]) == seen(gone[1])


ANY_SELECTOR = [selector_pb2.Selector(type="a", value="b")]


class Deviation(NamedTuple):
    """A request that both answer differently: gRPC's code of the call, or of the batch's one item."""

    why: str
    request: Request
    ours: int
    theirs: int


OK, INVALID, EXISTS, PRECONDITION, UNIMPLEMENTED, INTERNAL = 0, 3, 6, 9, 12, 13

DEVIATIONS = {
    # Callers' mistakes are called that, where SPIRE says that the server broke.
    "unknown federated bundle": Deviation(
        "the caller can mend it", create(entry_of(federates_with=["unknown.test"])), INVALID, INTERNAL
    ),
    "unknown match of selectors": Deviation(
        "the caller can mend it",
        filtered(by_selectors=match_of(selector_pb2.SelectorMatch, 7, selectors=ANY_SELECTOR)),
        INVALID,
        INTERNAL,
    ),
    "unknown match of trust domains": Deviation(
        "the caller can mend it",
        filtered(by_federates_with=match_of(FederatesWithMatch, 7, trust_domains=["fed.test"])),
        INVALID,
        INTERNAL,
    ),
    "foreign page token": Deviation(
        "the caller can mend it", list_entries(page_size=1, page_token="x"), INVALID, INTERNAL
    ),
    "empty audience": Deviation("the caller can mend it", mint_jwt(""), INVALID, INTERNAL),
    # What can't mean anything is refused, where SPIRE stores or ignores it.
    "repeated selector": Deviation(
        "a set holds it once; their database trips over it",
        create(entry_of(selectors=[("unix", "uid:1")] * 2)),
        OK,
        EXISTS,
    ),
    "control character in a selector": Deviation(
        "breaks tables and terminals", create(entry_of(selectors=[("x", "a\nb")])), INVALID, OK
    ),
    "long SPIFFE ID": Deviation(
        "SPIFFE-ID.md 2.3: 2,048 bytes", create(entry_of(path="/" + "x" * 2048)), INVALID, OK
    ),
    "expiry before 1970": Deviation("means nothing", create(entry_of(expires_at=-1)), INVALID, OK),
    "federates with itself": Deviation(
        "their agents then fail as a whole: our own bundle isn't to be had as a foreign one",
        create(entry_of(federates_with=["interop.test"])),
        INVALID,
        OK,
    ),
    "path behind a trust domain": Deviation(
        "a trust domain has none", create(entry_of(federates_with=["spiffe://fed.test/x"])), INVALID, OK
    ),
    "DNS name with a newline": Deviation(
        "would get into a certificate", create(entry_of(dns_names=["a\n"])), INVALID, OK
    ),
    "DNS name with colons": Deviation(
        "would get into a certificate", create(entry_of(dns_names=["::1"])), INVALID, OK
    ),
    "negative page size": Deviation("means nothing", list_entries(page_size=-1), INVALID, OK),
    "time that is none": Deviation(
        "SPIRE then doesn't filter at all",
        Request(
            AGENT + "CountAgents",
            agent.CountAgentsRequest(filter=agent.CountAgentsRequest.Filter(by_expires_before="junk")),
            agent.CountAgentsResponse,
        ),
        INVALID,
        OK,
    ),
    "empty certificate": Deviation("is none", set_bundle(bundle_of("deviant.test", b"")), INVALID, OK),
    "key ID twice": Deviation(
        "which key would it be?", set_bundle(bundle_of("deviant.test", keys=(KEY, KEY))), INVALID, OK
    ),
    "P-224 in a bundle": Deviation(
        "no algorithm of JWT-SVIDs uses it",
        set_bundle(bundle_of("deviant.test", keys=(ec.generate_private_key(ec.SECP224R1()),))),
        INVALID,
        OK,
    ),
    "negative refresh hint": Deviation(
        "means nothing", set_bundle(bundle_of("deviant.test", hint=-1)), INVALID, OK
    ),
    "join token that can't be in an ID": Deviation(
        "it becomes the last segment of the agent's ID", join_token(token="a/b"), INVALID, OK
    ),
    "join token for ever": Deviation("a year is long enough", join_token(ttl=2**31 - 1), INVALID, OK),
    "RSA of 1,024 bits": Deviation(
        "is broken", mint_x509(rsa.generate_private_key(65537, 1024)), INVALID, OK
    ),
    "P-521": Deviation("not in the profile", mint_x509(ec.generate_private_key(ec.SECP521R1())), INVALID, OK),
    "X.509 TTL beyond the authority": Deviation(
        "SPIRE shortens it without a word", mint_x509(KEY, ttl=2**31 - 1), PRECONDITION, OK
    ),
    "JWT TTL beyond a day": Deviation(
        "SPIRE shortens it without a word", mint_jwt("a", ttl=2**31 - 1), PRECONDITION, OK
    ),
    "a hundred audiences": Deviation("64 are enough for one token", mint_jwt(*["a"] * 100), INVALID, OK),
    # What isn't built yet says so.
    "federation relationships": Deviation(
        "not served yet",
        Request("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", Empty(), Empty),
        UNIMPLEMENTED,
        OK,
    ),
    "authorities by this API": Deviation(
        "not served yet: `gatehouse authority` does it",
        Request("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState", Empty(), Empty),
        UNIMPLEMENTED,
        OK,
    ),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_is_as_it_is_named(both: Both, name: str) -> None:
    deviation = DEVIATIONS[name]
    ours, theirs = both(deviation.request)
    both(delete("deviant"))
    both(delete_bundle("deviant.test"))
    assert (code_of(ours), code_of(theirs)) == (deviation.ours, deviation.theirs), deviation.why


def test_an_update_is_held_to_the_whole_entry(both: Both) -> None:
    """SPIRE looks at what a masked update says alone, and stores what it refuses to create."""
    both(create(entry_of(selectors=[("a", "1"), ("b", "1")])))
    masked = entry.BatchUpdateEntryRequest(
        entries=[Entry(id="deviant", store_svid=True)], input_mask=EntryMask(store_svid=True)
    )
    answers = both(Request(ENTRY + "BatchUpdateEntry", masked, entry.BatchUpdateEntryResponse))
    both(delete("deviant"))
    assert [code_of(each) for each in answers] == [INVALID, OK]


def test_minted_svids_are_alike(both: Both) -> None:
    for request in (
        mint_x509(KEY),
        mint_x509(KEY, ttl=600),
        mint_x509(KEY, dns_name="*.a.test"),
        mint_jwt("a", "b", ttl=60),
    ):
        ours, theirs = both(request)
        assert ours.code == theirs.code == OK
        assert ours.reply.svid.id == theirs.reply.svid.id
    ours, theirs = both(mint_x509(KEY, dns_name="a.test"))
    extensions = [
        {(each.oid.dotted_string, each.critical) for each in leaf.extensions}
        for leaf in (x509.load_der_x509_certificate(each.reply.svid.cert_chain[0]) for each in (ours, theirs))
    ]
    assert extensions[0] == extensions[1]


# How answers are compared.


def code_of(answer: Answer) -> int:
    """The code of a batch's first item, else that of the call."""
    results = getattr(answer.reply, "results", None)
    return int(results[0].status.code) if results else answer.code


def seen(answer: Answer) -> Any:
    """An answer without wording, times and orders that mean nothing."""
    if answer.code:
        return answer.code
    return _plain(MessageToDict(answer.reply, preserving_proto_field_name=True))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    plain = {name: _plain(each) for name, each in value.items() if name not in ("revision_number", "message")}
    if "created_at" in plain:
        plain["created_at"] = int(plain["created_at"]) > 0
    for name in ("selectors", "dns_names", "federates_with", "entries", "bundles"):
        if name in plain:
            plain[name] = sorted(plain[name], key=lambda each: json.dumps(each, sort_keys=True))
    return {name: each for name, each in plain.items() if each not in ({}, [])}
