"""The arithmetic of lives: the promise of 18 hours, renewal instants, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import FailedPrecondition, InvalidInput
from control_plane.core.lifetime import (
    BACKDATE_SECONDS,
    check_ca_ttl,
    leaf_window,
    max_leaf_ttl_seconds,
    renewal_instant,
)
from control_plane.core.spiffe_id import SpiffeId

NOW = 1_800_000_000
DAY = 86400
ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
FAR = NOW + 10**9


@given(st.integers(1, 2**130))
def test_eighteen_hours_are_always_left(serial: int) -> None:
    window = leaf_window(ID, serial, NOW, DAY, issuer_not_after=FAR)
    renewal = renewal_instant(ID, serial, window.not_before, window.not_after)
    assert window.not_before == NOW - BACKDATE_SECONDS
    assert NOW + int(0.96 * DAY) <= window.not_after <= NOW + DAY
    life = window.not_after - NOW
    assert NOW + 0.15 * life - 1 <= renewal <= NOW + 0.22 * life
    assert window.not_after - renewal >= 18.7 * 3600


@given(st.integers(1, 2**130), st.integers(60, 400 * DAY))
def test_no_leaf_ends_later_than_its_ttl_or_before_96_percent_of_it(serial: int, ttl: int) -> None:
    window = leaf_window(ID, serial, NOW, ttl, issuer_not_after=FAR)
    assert 0.96 * ttl <= window.not_after - NOW <= ttl


@given(st.integers(1, 2**130), st.integers(1, 10 * DAY), st.sampled_from([0, 10, 30, 120, 3600]))
def test_renewal_lies_inside_of_any_life(serial: int, life: int, backdate: int) -> None:
    renewal = renewal_instant(ID, serial, NOW, NOW + life, backdate_seconds=backdate)
    assert NOW < renewal <= NOW + max(1, life)


def test_the_draw_is_the_same_for_everybody_and_differs_between_certificates() -> None:
    instants = [renewal_instant(ID, serial, NOW, NOW + DAY) for serial in range(1000)]
    assert instants == [renewal_instant(ID, serial, NOW, NOW + DAY) for serial in range(1000)]
    assert len(set(instants)) > 850
    other = SpiffeId.parse("spiffe://example.org/ns/shop/sa/other")
    assert instants != [renewal_instant(other, serial, NOW, NOW + DAY) for serial in range(1000)]
    middle = sum(instants) / 1000 - NOW
    assert abs(middle - (120 + 0.185 * (DAY - 120))) < 200, "evenly over the band"


def test_what_was_signed_together_is_renewed_evenly() -> None:
    instants = []
    for serial in range(20_000):
        window = leaf_window(ID, serial, NOW, DAY, issuer_not_after=FAR)
        instants.append(renewal_instant(ID, serial, window.not_before, window.not_after) - NOW)
    first, last = 0.15 * 0.96 * DAY, 0.22 * DAY
    assert first - 1 <= min(instants) and max(instants) <= last
    tenths = [0] * 10
    for instant in instants:
        tenths[min(int((instant - first) / (last - first) * 10), 9)] += 1
    assert all(abs(count - 2000) < 200 for count in tenths), tenths


def test_a_leaf_is_refused_rather_than_cut_short() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        leaf_window(ID, 1, NOW, DAY, issuer_not_after=NOW + DAY // 2)
    assert str(NOW + DAY // 2) in caught.value.message and "86400" in caught.value.message


def test_a_leaf_needs_a_minute() -> None:
    with pytest.raises(InvalidInput, match="59"):
        leaf_window(ID, 1, NOW, 59, issuer_not_after=FAR)


def test_a_ca_lives_six_times_as_long_as_a_leaf() -> None:
    check_ca_ttl(144 * 3600, 24 * 3600)
    with pytest.raises(InvalidInput) as caught:
        check_ca_ttl(24 * 3600, 24 * 3600)
    assert "6 × 24 h = 144 h are needed, 120 h are missing" in caught.value.message
    assert "144 h or more" in caught.value.hint and "4 h or less" in caught.value.hint
    assert max_leaf_ttl_seconds(168 * 3600) == 28 * 3600


def test_a_length_that_is_no_whole_hours_is_told_in_seconds() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_ca_ttl(3600, 24 * 3600)
    assert caught.value.hint.endswith("the leaf TTL to 600 s or less")
