"""Conversions between messages and values: round trips, masks, and refusals that name the field."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import JwtSvid, X509Svid
from control_plane.proto import convert
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as entry_service
from control_plane.proto.spire.api.types import agent_pb2, bundle_pb2, entry_pb2
from control_plane.proto.spire.api.types.selector_pb2 import Selector as SelectorMessage
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID

segments = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
spiffe_ids = st.builds(
    lambda name, parts: SpiffeId.of(TrustDomain.parse(name), *parts),
    st.sampled_from(["example.org", "td-1.test"]),
    st.lists(segments, min_size=1, max_size=4),
)
selectors = st.builds(Selector, st.sampled_from(["unix", "k8s"]), st.text("abc:/0", min_size=1, max_size=9))
ttls = st.integers(0, 2**31 - 1)
entries = st.builds(
    Entry,
    id=st.text("ab0-_.", max_size=10),
    spiffe_id=spiffe_ids,
    parent_id=spiffe_ids,
    selectors=st.frozensets(selectors, min_size=1, max_size=4),
    x509_svid_ttl_seconds=ttls,
    jwt_svid_ttl_seconds=ttls,
    federates_with=st.lists(st.sampled_from(["a.org", "b.org"]).map(TrustDomain.parse), unique=True).map(
        tuple
    ),
    hint=st.text(max_size=20).filter(lambda text: text.isprintable()),
    dns_names=st.lists(st.sampled_from(["a.test", "b.test"]), unique=True).map(tuple),
    admin=st.booleans(),
    downstream=st.booleans(),
    expires_at=st.integers(0, 2**40),
    disable_x509_svid_prefetch=st.booleans(),
    jwt_svid_include_jti=st.booleans(),
    revision=st.integers(0, 2**40),
    created_at=st.integers(0, 2**40),
)
MASK_FIELDS = [field.name for field in entry_pb2.EntryMask.DESCRIPTOR.fields]
masks = st.sets(st.sampled_from(MASK_FIELDS)).map(
    lambda names: entry_pb2.EntryMask(**dict.fromkeys(names, True))
)


@given(spiffe_ids)
def test_spiffe_ids_survive(spiffe_id: SpiffeId) -> None:
    message = convert.spiffe_id_to_message(spiffe_id)
    assert convert.spiffe_id_from_message(SPIFFEID.FromString(message.SerializeToString())) == spiffe_id


@pytest.mark.parametrize(
    ("trust_domain", "path"),
    [
        ("", "/a"),
        ("Example.org", "/a"),
        ("example.org", "a"),
        ("example.org", "/a/"),
        ("example.org", "/../a"),
        ("example.org", "/%61"),
        ("example.org/a", ""),
        ("example.org", "/a\n"),
        ("example.org", "?q"),
    ],
)
def test_hostile_spiffe_ids_are_refused(trust_domain: str, path: str) -> None:
    with pytest.raises(InvalidInput):
        convert.spiffe_id_from_message(SPIFFEID(trust_domain=trust_domain, path=path))


@given(entries)
def test_entries_survive(entry: Entry) -> None:
    wire = convert.entry_to_message(entry).SerializeToString()
    assert convert.entry_from_message(entry_pb2.Entry.FromString(wire)) == entry


@given(entries, masks)
def test_a_mask_selects_and_no_mask_is_everything(entry: Entry, mask: entry_pb2.EntryMask) -> None:
    whole, part = convert.entry_to_message(entry), convert.entry_to_message(entry, mask)
    assert part.id == entry.id
    for name in MASK_FIELDS:
        expected = getattr(whole, name) if getattr(mask, name) else getattr(entry_pb2.Entry(), name)
        assert getattr(part, name) == expected


@given(entries, entries, masks)
def test_an_update_takes_the_masked_fields_and_leaves_the_registrys(
    old: Entry, new: Entry, mask: entry_pb2.EntryMask
) -> None:
    updated = convert.update_entry(old, convert.entry_to_message(new), mask)
    assert (updated.id, updated.revision, updated.created_at, updated.priority) == (
        old.id,
        old.revision,
        old.created_at,
        old.priority,
    )
    result, before, after = (convert.entry_to_message(each) for each in (updated, old, new))
    for name in MASK_FIELDS:
        if name not in ("revision_number", "created_at"):
            assert getattr(result, name) == getattr(after if getattr(mask, name) else before, name)
    everything = convert.update_entry(old, convert.entry_to_message(new), None)
    assert everything.key == new.key and everything.hint == new.hint and everything.revision == old.revision


def test_refusals_name_what_is_wrong() -> None:
    good = convert.entry_to_message(
        Entry.parse(spiffe_id="spiffe://e.org/w", parent_id="spiffe://e.org/p", selectors=["unix:uid:0"])
    )
    cases: list[tuple[str, Any]] = [
        ("parent ID", lambda message: message.ClearField("parent_id")),
        ("selector", lambda message: message.ClearField("selectors")),
        ("x509_svid_ttl", lambda message: setattr(message, "x509_svid_ttl", -1)),
        ("hint", lambda message: setattr(message, "hint", "h" * 1025)),
    ]
    for word, spoil in cases:
        message = entry_pb2.Entry.FromString(good.SerializeToString())
        spoil(message)
        with pytest.raises(InvalidInput, match=word):
            convert.entry_from_message(message)
    with pytest.raises(InvalidInput, match="selector"):
        convert.selectors_from_messages([SelectorMessage(type="a:b", value="c")])


def test_bundles_survive_with_their_taint(bundle: Bundle) -> None:
    wire = convert.bundle_to_message(bundle).SerializeToString()
    assert convert.bundle_from_message(bundle_pb2.Bundle.FromString(wire)) == bundle
    part = convert.bundle_to_message(bundle, bundle_pb2.BundleMask(sequence_number=True))
    assert (part.trust_domain, part.sequence_number, len(part.x509_authorities)) == ("example.org", 7, 0)


@pytest.mark.parametrize(
    "message",
    [
        bundle_pb2.Bundle(trust_domain="A"),
        bundle_pb2.Bundle(trust_domain="a.org", refresh_hint=-1),
        bundle_pb2.Bundle(trust_domain="a.org", x509_authorities=[bundle_pb2.X509Certificate(asn1=b"x")]),
        bundle_pb2.Bundle(trust_domain="a.org", jwt_authorities=[bundle_pb2.JWTKey(public_key=b"x")]),
        bundle_pb2.Bundle(trust_domain="a.org", jwt_authorities=[bundle_pb2.JWTKey(key_id="k")]),
    ],
)
def test_broken_bundles_are_refused(message: bundle_pb2.Bundle) -> None:
    with pytest.raises(InvalidInput):
        convert.bundle_from_message(message)


def test_svids_and_statuses() -> None:
    spiffe_id = SpiffeId.parse("spiffe://example.org/w")
    x509 = convert.x509_svid_to_message(X509Svid(spiffe_id, (b"leaf", b"ca"), 1, 2, 3, "aa"), hint="h")
    assert (list(x509.cert_chain), x509.id.path, x509.expires_at, x509.hint) == (
        [b"leaf", b"ca"],
        "/w",
        3,
        "h",
    )
    jwt = convert.jwt_svid_to_message(JwtSvid(spiffe_id, "t", ("a",), 1, 2))
    assert (jwt.token, jwt.issued_at, jwt.expires_at) == ("t", 1, 2)
    assert convert.status_to_message(None).code == 0
    assert convert.status_to_message(NotFound("gone", hint="look")).message == "gone — look"


def test_an_absent_mask_is_not_an_empty_one() -> None:
    assert convert.mask_of(entry_service.GetEntryRequest()) is None
    request = entry_service.GetEntryRequest(output_mask=entry_pb2.EntryMask())
    assert convert.mask_of(request) == entry_pb2.EntryMask()
    agent = agent_pb2.Agent(id=SPIFFEID(trust_domain="e"), attestation_type="t", banned=True)
    kept = convert.masked(agent, agent_pb2.AgentMask(banned=True))
    assert (kept.id.trust_domain, kept.attestation_type, kept.banned) == ("e", "", True)
