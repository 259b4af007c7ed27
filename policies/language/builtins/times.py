"""Times: nanoseconds since 1970 in 64 bits, civil dates, durations.

The present moment is an argument of the evaluation, never read here. Time zones come from the system's tz
database; "" and "UTC" are UTC, and so is "Local": a decision must not depend on where it is made.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from policies.language.builtins.errors import BuiltinError, HaltError, OperandError
from policies.language.builtins.strings import whole
from policies.language.builtins.time_layouts import NAMED_LAYOUTS, WEEKDAYS, Moment, days_in, read, write
from policies.language.numbers import Number, Real, rounded
from policies.language.values import Value, type_name

if TYPE_CHECKING:
    from policies.language.concrete.world import Run

_SECOND = 1_000_000_000
_MIN, _MAX = -(1 << 63), (1 << 63) - 1


def now_ns(run: Run) -> int:
    """The moment that the evaluation was given."""
    if run.now_ns is None:
        raise HaltError("this evaluation was given no present moment")
    return run.now_ns


def _in_range(nanoseconds: int) -> int:
    if not _MIN <= nanoseconds <= _MAX:
        raise BuiltinError("time outside of valid range")
    return nanoseconds


def _days_from_1970(year: int, month: int, day: int) -> int:
    """Days of the proleptic Gregorian calendar, any year."""
    era = year // 400
    return date(year - era * 400 + 400, month, 1).toordinal() + (era - 1) * 146_097 + day - 1 - 719_163


def _nanoseconds(moment: Moment) -> int:
    days = _days_from_1970(moment.year, moment.month, moment.day)
    seconds = days * 86_400 + moment.hour * 3_600 + moment.minute * 60 + moment.second - (moment.offset or 0)
    return _in_range(seconds * _SECOND + moment.nanosecond)


def parse_ns(layout: str, text: str) -> int:
    """The time that a text gives in a Go layout (or the name of one)."""
    return _nanoseconds(read(NAMED_LAYOUTS.get(layout, layout), text))


def parse_rfc3339_ns(text: str) -> int:
    return _nanoseconds(read(NAMED_LAYOUTS["RFC3339"], text))


_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3_600 * _SECOND,
    "d": 86_400 * _SECOND,
    "w": 7 * 86_400 * _SECOND,
    "y": 365 * 86_400 * _SECOND,
}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w|y)")


def parse_duration_ns(text: str) -> int:
    """`1h15m30.5s` in nanoseconds."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    wrong = BuiltinError(f'time: invalid duration "{text[:100]}"')
    if rest == "0":
        return 0
    if not rest or len(rest) > 1_000:
        raise wrong
    total, at = Fraction(0), 0
    while at < len(rest):
        match = _DURATION_PART.match(rest, at)
        if match is None:
            raise wrong
        total += int(Fraction(match[1]) * _UNITS[match[2]])
        at = match.end()
    if total > _MAX + (text[0] == "-"):
        raise wrong
    return -int(total) if text[0] == "-" else int(total)


# --- moments and zones -----------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    if name in ("", "UTC", "Local"):
        return UTC
    if not re.fullmatch(r"[A-Za-z0-9_+\-]+(?:/[A-Za-z0-9_+\-]+)*", name):
        raise BuiltinError(f"unknown time zone {name}")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BuiltinError(f"unknown time zone {name}") from error


def _timestamp(number: Value) -> int:
    if not isinstance(number, int | Real):
        raise OperandError.expected(1, "either number (ns) or [number (ns), string (tz)]", type_name(number))
    exact = rounded(number)
    if exact.denominator != 1 or not _MIN <= exact <= _MAX:
        raise BuiltinError("timestamp too big")
    return int(exact)


def _arguments(operand: Value) -> tuple[int, str, str]:
    """Nanoseconds, zone and layout of `ns` or `[ns, zone]` or `[ns, zone, layout]`."""
    if not isinstance(operand, tuple):
        return _timestamp(operand), "", ""
    if not 1 <= len(operand) <= 3 or not all(isinstance(part, str) for part in operand[1:]):
        raise OperandError.expected(1, "either number (ns) or [number (ns), string (tz)]", type_name(operand))
    names = [part for part in operand[1:] if isinstance(part, str)] + ["", ""]
    return _timestamp(operand[0]), names[0], names[1]


def _moment(nanoseconds: int, zone_name: str) -> Moment:
    seconds, fraction = divmod(nanoseconds, _SECOND)
    # Python's datetime covers the years 1 to 9999; 64 bits of nanoseconds only 1677 to 2262.
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(_zone(zone_name))
    offset = local.utcoffset() or timedelta()
    return Moment(
        local.year,
        local.month,
        local.day,
        local.hour,
        local.minute,
        local.second,
        fraction,
        int(offset.total_seconds()),
        local.tzname() or "",
        local.timetuple().tm_yday,
        local.weekday(),
    )


def format_time(operand: Value) -> str:
    """The time in RFC 3339 with nanoseconds, or in the layout given."""
    nanoseconds, zone, layout = _arguments(operand)
    chosen = NAMED_LAYOUTS.get(layout, layout) or NAMED_LAYOUTS["RFC3339Nano"]
    return write(_moment(nanoseconds, zone), chosen)


def date_of(operand: Value) -> tuple[int, int, int]:
    nanoseconds, zone, _ = _arguments(operand)
    moment = _moment(nanoseconds, zone)
    return moment.year, moment.month, moment.day


def clock_of(operand: Value) -> tuple[int, int, int]:
    nanoseconds, zone, _ = _arguments(operand)
    moment = _moment(nanoseconds, zone)
    return moment.hour, moment.minute, moment.second


def weekday_of(operand: Value) -> str:
    nanoseconds, zone, _ = _arguments(operand)
    return WEEKDAYS[_moment(nanoseconds, zone).weekday]


def add_date(timestamp: Number, years: Number, months: Number, days: Number) -> int:
    """The time with years, months and days added; a day that a month lacks runs over into the next."""
    parts = []
    for position, number in enumerate((years, months, days), 2):
        part = whole(number, position)
        if abs(part) > 1_000_000_000:
            raise BuiltinError("time outside of valid range")
        parts.append(part)
    nanoseconds = _timestamp(timestamp)
    moment = _moment(nanoseconds, "")
    year, month0 = divmod((moment.year + parts[0]) * 12 + moment.month - 1 + parts[1], 12)
    before = _days_from_1970(moment.year, moment.month, moment.day)
    after = _days_from_1970(year, month0 + 1, moment.day) + parts[2]
    return _in_range(nanoseconds + (after - before) * 86_400 * _SECOND)


def difference(left: Value, right: Value) -> tuple[int, ...]:
    """Years, months, days, hours, minutes and seconds between two times, both seen in the zone of the
    first.
    """
    first_ns, zone, _ = _arguments(left)
    second_ns, second_zone, _ = _arguments(right)
    _zone(second_zone)
    first, second = sorted((_moment(first_ns, zone), _moment(second_ns, zone)), key=_civil)
    year, month, day = (b - a for a, b in zip(_civil(first)[:3], _civil(second)[:3], strict=True))
    hour, minute, second_count = (b - a for a, b in zip(_civil(first)[3:], _civil(second)[3:], strict=True))
    if second_count < 0:
        second_count, minute = second_count + 60, minute - 1
    if minute < 0:
        minute, hour = minute + 60, hour - 1
    if hour < 0:
        hour, day = hour + 24, day - 1
    if day < 0:
        day, month = day + days_in(first.year, first.month), month - 1
    if month < 0:
        month, year = month + 12, year - 1
    return year, month, day, hour, minute, second_count


def _civil(moment: Moment) -> tuple[int, ...]:
    return moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second


CONTEXTUAL = frozenset({"time.now_ns"})
FUNCTIONS = {
    "time.now_ns": now_ns,
    "time.parse_ns": parse_ns,
    "time.parse_rfc3339_ns": parse_rfc3339_ns,
    "time.parse_duration_ns": parse_duration_ns,
    "time.format": format_time,
    "time.date": date_of,
    "time.clock": clock_of,
    "time.weekday": weekday_of,
    "time.add_date": add_date,
    "time.diff": difference,
}
