"""The little DER: the quick reader is held to the one that says what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import der
from control_plane.core.errors import InvalidInput

LENGTHS = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x1234])


def outcome(data: bytes, limit: int, *, quick: bool) -> tuple[int, int] | None:
    """Start and end of the content of a sequence at the beginning, None where it is refused."""
    try:
        if quick:
            return der.expect(data, 0, limit, der.SEQUENCE)
        tag, start, end = der.read(data, 0, limit)
    except InvalidInput:
        return None
    return (start, end) if tag == der.SEQUENCE else None


@given(LENGTHS, st.integers(0, 6))
def test_what_is_written_is_read_back_whatever_follows(length: int, following: int) -> None:
    data = der.encode(der.SEQUENCE, bytes(length)) + bytes(following)
    end = len(data) - following
    assert outcome(data, len(data), quick=True) == (end - length, end)
    assert outcome(data, end, quick=True) == (end - length, end)
    assert outcome(data, end - 1, quick=True) is None, "it reaches beyond its container"


@given(
    st.sampled_from([0x30, 0x31, 0x3F]),
    st.one_of(st.sampled_from([0, 3, 0x7F, 0x80, 0x81, 0x82, 0x83, 0x84, 0xFF]), st.integers(0, 255)),
    st.binary(max_size=5),
    st.integers(0, 300),
)
def test_any_header_is_judged_alike(tag: int, first: int, more: bytes, content: int) -> None:
    data = bytes((tag, first)) + more + bytes(content)
    for limit in {len(data), len(data) - 1, 2, 3, 4}:
        if limit <= len(data):
            assert outcome(data, limit, quick=True) == outcome(data, limit, quick=False), limit


@pytest.mark.parametrize("header", ["3080", "30810a", "30817f", "3082000a", "308200ff", "30830000ff", "3084"])
def test_lengths_that_are_indefinite_or_longer_than_needed_are_refused(header: str) -> None:
    data = bytes.fromhex(header) + bytes(300)
    with pytest.raises(InvalidInput, match="length"):
        der.expect(data, 0, len(data), der.SEQUENCE)
