"""Go's time layouts: reading and writing times by example ("2006-01-02T15:04:05Z07:00").

`read` and `write` work on `Moment`, a civil time with nanoseconds and an offset from UTC. Not here:
time zones by name and the built-in functions (`time`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from policies.language.builtins.errors import BuiltinError

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

NAMED_LAYOUTS = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": "2006-01-02T15:04:05Z07:00",
    "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00",
}
"""The names that may stand for a layout."""

_ELEMENTS = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|2006|_2006|__2|_2|002|01|02|03|04|05|06|15|PM|pm"
    r"|-07:00:00|-070000|-07:00|-0700|-07|Z07:00:00|Z070000|Z07:00|Z0700|Z07"
    r"|[.,]0+(?![0-9])|[.,]9+(?![0-9])|1|2|3|4|5"
)


@dataclass(slots=True)
class Moment:
    """A civil time. `offset` is in seconds east of UTC, None where the text did not say."""

    year: int = 0
    month: int = 1
    day: int = 1
    hour: int = 0
    minute: int = 0
    second: int = 0
    nanosecond: int = 0
    offset: int | None = None
    zone: str = ""
    year_day: int = 0
    weekday: int = 0


def elements(layout: str) -> list[tuple[str, str]]:
    """The layout as (literal text, element) pairs; the last pair has no element."""
    pairs = []
    at = 0
    for match in _ELEMENTS.finditer(layout):
        element = match[0]
        start = match.start()
        if element == "_2006":
            start, element = start + 1, "2006"
        # A fraction counts only behind digits: "05.000", not a sentence's full stop.
        pairs.append((layout[at:start], element))
        at = match.end()
    pairs.append((layout[at:], ""))
    return pairs


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in(year: int, month: int) -> int:
    return (31, 29 if is_leap(year) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


# --- writing ---------------------------------------------------------------------------------------


def write(moment: Moment, layout: str) -> str:
    """The moment in a layout."""
    pieces = []
    for literal, element in elements(layout):
        pieces.append(literal)
        if element:
            pieces.append(_written(moment, element))
    return "".join(pieces)


def _written(moment: Moment, element: str) -> str:
    hour12 = moment.hour % 12 or 12
    simple = {
        "2006": f"{moment.year:04d}",
        "06": f"{moment.year % 100:02d}",
        "January": MONTHS[moment.month - 1],
        "Jan": MONTHS[moment.month - 1][:3],
        "01": f"{moment.month:02d}",
        "1": str(moment.month),
        "Monday": WEEKDAYS[moment.weekday],
        "Mon": WEEKDAYS[moment.weekday][:3],
        "2": str(moment.day),
        "_2": f"{moment.day:2d}",
        "02": f"{moment.day:02d}",
        "002": f"{moment.year_day:03d}",
        "__2": f"{moment.year_day:3d}",
        "15": f"{moment.hour:02d}",
        "03": f"{hour12:02d}",
        "3": str(hour12),
        "04": f"{moment.minute:02d}",
        "4": str(moment.minute),
        "05": f"{moment.second:02d}",
        "5": str(moment.second),
        "PM": "PM" if moment.hour >= 12 else "AM",
        "pm": "pm" if moment.hour >= 12 else "am",
        "MST": moment.zone or _offset_text(moment.offset or 0, "-07"),
    }
    if element in simple:
        return simple[element]
    if element[0] in ".,":
        digits = f"{moment.nanosecond:09d}"[: len(element) - 1]
        if element[1] == "9":
            digits = digits.rstrip("0")
        return element[0] + digits if digits else ""
    if element[0] == "Z" and not moment.offset:
        return "Z"
    return _offset_text(moment.offset or 0, "-" + element[1:])


def _offset_text(offset: int, form: str) -> str:
    sign, size = ("-" if offset < 0 else "+"), abs(offset)
    hours, minutes, seconds = size // 3600, size % 3600 // 60, size % 60
    texts = {
        "-07": f"{hours:02d}",
        "-0700": f"{hours:02d}{minutes:02d}",
        "-07:00": f"{hours:02d}:{minutes:02d}",
        "-070000": f"{hours:02d}{minutes:02d}{seconds:02d}",
        "-07:00:00": f"{hours:02d}:{minutes:02d}:{seconds:02d}",
    }
    return sign + texts[form]


# --- reading ---------------------------------------------------------------------------------------

_DIGITS = {
    "2006": r"[0-9]{4}",
    "06": r"[0-9]{2}",
    "01": r"[0-9]{2}",
    "1": r"[0-9]{1,2}",
    "02": r"[0-9]{2}",
    "2": r"[0-9]{1,2}",
    "_2": r" ?[0-9]{1,2}",
    "002": r"[0-9]{3}",
    "__2": r" {0,2}[0-9]{1,3}",
    "15": r"[0-9]{1,2}",
    "03": r"[0-9]{2}",
    "3": r"[0-9]{1,2}",
    "04": r"[0-9]{2}",
    "4": r"[0-9]{1,2}",
    "05": r"[0-9]{2}",
    "5": r"[0-9]{1,2}",
}
_FIELD = {
    "2006": "year",
    "01": "month",
    "1": "month",
    "02": "day",
    "2": "day",
    "_2": "day",
    "002": "year_day",
    "__2": "year_day",
    "15": "hour",
    "03": "hour",
    "3": "hour",
    "04": "minute",
    "4": "minute",
    "05": "second",
    "5": "second",
}
_OFFSETS = {
    "-07:00:00": r"([+-])([0-9]{2}):([0-9]{2}):([0-9]{2})",
    "-070000": r"([+-])([0-9]{2})([0-9]{2})([0-9]{2})",
    "-07:00": r"([+-])([0-9]{2}):([0-9]{2})",
    "-0700": r"([+-])([0-9]{2})([0-9]{2})",
    "-07": r"([+-])([0-9]{2})",
}
_FRACTION = re.compile(r"[.,][0-9]+")
_RANGES = {"month": (1, 12), "hour": (0, 23), "minute": (0, 59), "second": (0, 59)}


class _Reader:
    def __init__(self, layout: str, text: str) -> None:
        self._layout, self._text, self._at = layout, text, 0
        self.moment = Moment()
        self._afternoon: bool | None = None
        self._day_known = False

    def fail(self, reason: str = "") -> BuiltinError:
        rest = self._text[self._at :]
        return BuiltinError(
            f'parsing time "{self._text}"'
            + (f": {reason}" if reason else f' as "{self._layout}": cannot parse "{rest}"')
        )

    def take(self, pattern: str) -> re.Match[str]:
        match = re.compile(pattern).match(self._text, self._at)
        if match is None:
            raise self.fail()
        self._at = match.end()
        return match

    def read(self) -> Moment:
        pairs = elements(self._layout)
        for position, (literal, element) in enumerate(pairs):
            self._literal(literal)
            if element:
                self._element(element, pairs[position + 1])
        if self._at < len(self._text):
            raise self.fail(f'extra text: "{self._text[self._at :]}"')
        self._finish()
        return self.moment

    def _literal(self, literal: str) -> None:
        for character in literal:
            if character == " ":  # a blank in the layout stands for any number of them
                self._at += len(self._text) - self._at - len(self._text[self._at :].lstrip(" "))
            elif self._text[self._at : self._at + 1] == character:
                self._at += 1
            else:
                raise self.fail()

    def _element(self, element: str, following: tuple[str, str]) -> None:
        moment = self.moment
        if element in _FIELD:
            value = int(self.take(_DIGITS[element])[0])
            name = _FIELD[element]
            low, high = _RANGES.get(name, (0, 9999))
            if not low <= value <= high:
                raise self.fail(f"{name} out of range")
            setattr(moment, name, value)
            if name == "day":
                self._day_known = True
            if name == "second" and not (following[0] == "" and following[1][:1] in (".", ",")):
                self._fraction(optional=True)
        elif element == "06":
            value = int(self.take(_DIGITS[element])[0])
            moment.year = value + (1900 if value >= 69 else 2000)
        elif element in ("January", "Jan"):
            names = MONTHS if element == "January" else tuple(name[:3] for name in MONTHS)
            moment.month = self._name(names) + 1
        elif element in ("Monday", "Mon"):
            self._name(WEEKDAYS if element == "Monday" else tuple(name[:3] for name in WEEKDAYS))
        elif element in ("PM", "pm"):
            self._afternoon = self.take("[AP]M" if element == "PM" else "[ap]m")[0][0] in "Pp"
        elif element[0] in ".,":
            self._fraction(optional=element[1] == "9", width=None if element[1] == "9" else len(element) - 1)
        elif element == "MST":
            self._zone_name()
        else:
            self._offset(element)

    def _name(self, names: tuple[str, ...]) -> int:
        rest = self._text[self._at :].lower()
        for position, name in enumerate(names):
            if rest.startswith(name.lower()):
                self._at += len(name)
                return position
        raise self.fail()

    def _fraction(self, *, optional: bool, width: int | None = None) -> None:
        match = _FRACTION.match(self._text, self._at)
        if match is None or (width is not None and len(match[0]) - 1 < width):
            if optional:
                return
            raise self.fail()
        digits = match[0][1:] if width is None else match[0][1 : width + 1]
        self._at += len(digits) + 1
        self.moment.nanosecond = int(digits[:9].ljust(9, "0"))

    def _offset(self, element: str) -> None:
        if element[0] == "Z":
            if self._text[self._at : self._at + 1] == "Z":
                self._at += 1
                self.moment.offset = 0
                return
            element = "-" + element[1:]
        parts = self.take(_OFFSETS[element]).groups()
        numbers = [int(part) for part in parts[1:]] + [0, 0]
        if numbers[0] > 24 or numbers[1] > 59 or numbers[2] > 59:
            raise self.fail("time zone offset hour out of range")
        self.moment.offset = (-1 if parts[0] == "-" else 1) * (
            numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
        )

    def _zone_name(self) -> None:
        # A name without a known offset is made up at offset 0 (Go, time.Parse); GMT+3 carries its own.
        match = self.take(r"UTC|GMT[+-][0-9]{1,2}|[A-Z]{3,5}|[+-][0-9]{2}")
        self.moment.zone = match[0]
        self.moment.offset = (
            int(match[0][3:]) * 3600 if match[0].startswith("GMT") and len(match[0]) > 3 else 0
        )

    def _finish(self) -> None:
        moment = self.moment
        if self._afternoon is not None:
            moment.hour = moment.hour % 12 + (12 if self._afternoon else 0)
        if moment.year_day:
            if moment.year_day > 365 + is_leap(moment.year):
                raise self.fail("day-of-year out of range")
            left = moment.year_day
            month = 1
            while left > days_in(moment.year, month):
                left -= days_in(moment.year, month)
                month += 1
            moment.month, moment.day = month, left
        if not 1 <= moment.day <= days_in(moment.year, moment.month):
            raise self.fail("day out of range")


def read(layout: str, text: str) -> Moment:
    """The moment that a text gives in a layout; BuiltinError when it does not fit."""
    return _Reader(layout, text).read()
