"""The binary form of ledger records."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import Bug, Corrupt, InvalidInput
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.ledger import (
    AuthorityMark,
    AuthorityRecord,
    ChangeRecord,
    JwtRecord,
    LedgerEntry,
    X509Intent,
    X509Record,
    decode,
    parse_entry_id,
)

ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
TEXT = st.text(max_size=40)
SECONDS = st.integers(0, 2**63)
SERIAL = st.integers(1, 2**159)

RECORDS = st.one_of(
    st.builds(X509Intent, SECONDS, st.just(ID), SERIAL, st.binary(max_size=64), TEXT),
    st.builds(
        X509Record, SECONDS, st.just(ID), SERIAL, SECONDS, TEXT, TEXT, TEXT, TEXT, st.binary(max_size=600)
    ),
    st.builds(
        JwtRecord,
        SECONDS,
        st.just(ID),
        st.lists(TEXT, max_size=5).map(tuple),
        SECONDS,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        st.binary(max_size=32),
    ),
    st.builds(AuthorityRecord, SECONDS, TEXT, TEXT, TEXT, TEXT, st.binary(max_size=600)),
    st.builds(AuthorityMark, SECONDS, TEXT, TEXT, TEXT),
    st.builds(ChangeRecord, SECONDS, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT),
)


@given(RECORDS)
def test_records_read_back(record: Any) -> None:
    assert decode(record.encode()) == record


@given(RECORDS, st.integers(0, 700))
def test_cut_or_padded_records_are_refused(record: Any, cut: int) -> None:
    data = record.encode()
    for bad in (data[: cut % len(data)], data + b"\x00"):
        with pytest.raises(Corrupt):
            decode(bad)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_record_or_refused(data: bytes) -> None:
    try:
        record = decode(data)
    except Corrupt:
        return
    assert decode(record.encode()) == record


def test_a_record_is_small() -> None:
    record = X509Record(
        1, ID, 2**128, 2, "a" * 40, "e" * 36, "spiffe://example.org/spire/agent/x", "", b"c" * 450
    )
    assert len(record.encode()) < 450 + 200


def test_a_field_that_does_not_fit_is_our_fault() -> None:
    with pytest.raises(Bug, match="65536 bytes"):
        AuthorityMark(1, "a" * 65536, "", "").encode()


def test_entries_have_names() -> None:
    entry = LedgerEntry(3, 77, AuthorityMark(1, "a", "b", "c"))
    assert parse_entry_id(entry.id) == (3, 77)


@pytest.mark.parametrize(
    "text", ["", "3", "3-", "-3", "3-x", "x-3", "3-4-5", "3-4\n", "3--4", "³-4", "9" * 30 + "-" + "9" * 30]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_entry_id(text)


def test_records_of_certificates_and_tokens_do_not_show_them() -> None:
    record = X509Record(1, ID, 1, 2, "a", "", "", "", b"certificate")
    assert "certificate=" not in repr(record)
