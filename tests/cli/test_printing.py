"""Numbers and times as people read them."""

from __future__ import annotations

import pytest

from control_plane.cli import printing
from control_plane.cli.watching import Seen, print_event
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.output import Form


@pytest.mark.parametrize(
    ("number", "one", "expected"),
    [(1, "file", "1 file"), (0, "file", "0 files"), (2, "entry", "2 entries"), (1, "entry", "1 entry")],
)
def test_a_single_thing_is_not_several(number: int, one: str, expected: str) -> None:
    assert printing.counted(number, one) == expected


def test_what_happens_at_this_moment_is_neither_to_come_nor_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "unix", lambda self: 1_700_000_000)
    assert printing.moment(1_700_000_000) == "2023-11-14 22:13:20Z (now)"
    assert printing.moment(1_700_000_001) == "2023-11-14 22:13:21Z (in 1s)"
    assert printing.moment(1_699_999_999) == "2023-11-14 22:13:19Z (1s ago)"


@pytest.mark.parametrize(("count", "told"), [(1, "1 event or more"), (7, "7 events or more")])
def test_events_that_were_missed_are_told_in_words(
    capsys: pytest.CaptureFixture[str], count: int, told: str
) -> None:
    seen = Seen("missed", {"at_least": count, "read": ["/v1/policy/status"]})
    print_event(seen, Form.HUMAN)
    assert capsys.readouterr().out == f"missed: {told}; what is true now follows\n"
    print_event(seen, Form.JSON)
    assert f'"at_least": {count}' in capsys.readouterr().out


def test_times_that_no_calendar_has_are_shown_all_the_same() -> None:
    """An entry may expire at any number of seconds that the wire carries."""
    for unix_seconds in (2**40, 2**62, -(2**62)):
        assert str(unix_seconds) in printing.moment(unix_seconds)
