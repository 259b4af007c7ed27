"""`sprintf`: the verbs of Go's fmt package over Rego values.

An operand arrives as what OPA hands to Go: an integer (int64, or *big.Int when larger), a float64 when the
number is written with a point, else a string (other values in Rego notation). A verb that does not fit its
operand prints `%!verb(type=value)`, a missing operand `%!verb(MISSING)`, left-over ones `%!(EXTRA …)`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from policies.language.builtins.errors import HaltError
from policies.language.numbers import Real, number_text, written_integer
from policies.language.serial import quote, render
from policies.language.values import Value

MAX_WIDTH = 1_000_000
"""Go's own bound on width and precision."""
MAX_RESULT = 16_000_000

Operand = int | float | str

_DIRECTIVE = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>(?:\[[^\]]*\])?\*|[0-9]+)?"
    r"(?:\.(?P<precision>(?:\[[^\]]*\])?\*|[0-9]+)?(?P<point>))?(?P<index>\[[^\]]*\])?(?P<verb>.)?",
    re.DOTALL,
)


def sprintf(template: str, operands: tuple[Value, ...]) -> str:
    """The template with its verbs replaced by the operands."""
    return _Formatter(template, [_operand(value) for value in operands]).result()


def _operand(value: Value) -> Operand:
    if isinstance(value, str):
        return value
    if type(value) is int:
        return value
    if isinstance(value, Real):
        whole = written_integer(value)
        return float(value) if "." in value.text else number_text(value) if whole is None else whole
    return render(value)


@dataclass(slots=True)
class _Layout:
    minus: bool
    plus: bool
    sharp: bool
    space: bool
    zero: bool
    width: int | None
    precision: int | None

    def pad(self, text: str, *, numeric: bool = False) -> str:
        if self.width is None or len(text) >= self.width:
            return text
        if self.minus:
            return text.ljust(self.width)
        if self.zero and numeric:
            sign = text[:1] if text[:1] in "+- " else ""
            return sign + text[len(sign) :].rjust(self.width - len(sign), "0")
        return text.rjust(self.width, "0" if self.zero else " ")


class _Formatter:
    def __init__(self, template: str, operands: list[Operand]) -> None:
        self._template = template
        self._operands = operands
        self._next = 0
        self._reordered = False
        self._good_index = True

    def result(self) -> str:
        pieces: list[str] = []
        at = size = 0
        while (start := self._template.find("%", at)) >= 0:
            pieces.append(self._template[at:start])
            match = _DIRECTIVE.match(self._template, start)
            assert match is not None  # a lone "%" matches too
            pieces.append(self._directive(match))
            at = match.end()
            size += len(pieces[-1])
            if size > MAX_RESULT:
                raise HaltError(f"sprintf: the result is longer than {MAX_RESULT} characters")
        pieces.append(self._template[at:])
        if not self._reordered and self._next < len(self._operands):
            extra = ", ".join(f"{_type(o)}={_plain(o)}" for o in self._operands[self._next :])
            pieces.append(f"%!(EXTRA {extra})")
        return "".join(pieces)

    def _directive(self, match: re.Match[str]) -> str:
        self._good_index = True
        flags = match["flags"]
        width = self._measure(match["width"])
        precision = self._measure(match["precision"]) if match["point"] is not None else None
        if match["point"] is not None and match["precision"] is None:
            precision = 0
        if match["index"]:
            self._jump(match["index"])
        verb = match["verb"]
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if not self._good_index:
            return f"%!{verb}(BADINDEX)"
        if self._next >= len(self._operands):
            return f"%!{verb}(MISSING)"
        operand = self._operands[self._next]
        self._next += 1
        minus = "-" in flags or (width is not None and width < 0)
        layout = _Layout(
            minus=minus,
            plus="+" in flags,
            sharp="#" in flags,
            space=" " in flags,
            zero="0" in flags and not minus,
            width=None if width is None else abs(width),
            precision=None if precision is None or precision < 0 else precision,
        )
        return _formatted(operand, verb, layout)

    def _measure(self, text: str | None) -> int | None:
        if text is None:
            return None
        if not text.endswith("*"):
            value = int(text) if len(text) <= 7 else MAX_WIDTH + 1
            if value > MAX_WIDTH:
                raise HaltError(f"sprintf: a width above {MAX_WIDTH}")
            return value
        if len(text) > 1:
            self._jump(text[:-1])
        if self._next >= len(self._operands):
            return None
        operand = self._operands[self._next]
        self._next += 1
        return operand if isinstance(operand, int) and abs(operand) <= MAX_WIDTH else None

    def _jump(self, bracketed: str) -> None:
        self._reordered = True
        inner = bracketed[1:-1]
        if inner.isascii() and inner.isdigit() and 1 <= int(inner[:9]) <= len(self._operands):
            self._next = int(inner[:9]) - 1
        else:
            self._good_index = False


def _formatted(operand: Operand, verb: str, layout: _Layout) -> str:
    if verb == "T":
        return layout.pad(_type(operand)[: layout.precision])
    if isinstance(operand, str):
        text = _string(operand, verb, layout)
        shown = text or _string(operand, "s", layout)
    elif isinstance(operand, float):
        text = _float(operand, verb, layout)
        shown = text or _float(operand, "g", layout)
    else:
        text = _integer(operand, verb, layout)
        if text is None and _type(operand) == "*big.Int":
            return f"%!{verb}(big.Int={operand})"
        shown = text or _integer(operand, "d", layout)
    return f"%!{verb}({_type(operand)}={shown})" if text is None else text


def _type(operand: Operand) -> str:
    if isinstance(operand, str):
        return "string"
    if isinstance(operand, float):
        return "float64"
    return "int64" if -(1 << 63) <= operand < 1 << 63 else "*big.Int"


def _plain(operand: Operand) -> str:
    return _general(operand, None, sharp=False) if isinstance(operand, float) else str(operand)


def _string(text: str, verb: str, layout: _Layout) -> str | None:
    if verb in "sv" and not (verb == "v" and layout.sharp):
        return layout.pad(text if layout.precision is None else text[: layout.precision])
    if verb in "qv":
        if layout.precision is not None:
            text = text[: layout.precision]
        if layout.sharp and verb == "q" and "`" not in text and text.isprintable():
            return layout.pad(f"`{text}`")
        return layout.pad(_ascii_quote(text) if layout.plus else quote(text))
    if verb in "xX":
        data = text.encode()[: layout.precision]
        digits = data.hex(" ") if layout.space else data.hex()
        if layout.sharp and digits:
            digits = " ".join("0x" + pair for pair in digits.split(" "))
        return layout.pad(digits.upper() if verb == "X" else digits)
    return None


def _ascii_quote(text: str) -> str:
    return "".join(
        c if c.isascii() else (f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}")
        for c in quote(text)
    )


_BASES = {"d": "d", "v": "d", "s": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
_BASE_PREFIX = {"b": "0b", "o": "0", "O": "0o", "x": "0x", "X": "0X"}


def _integer(number: int, verb: str, layout: _Layout) -> str | None:
    large = _type(number) == "*big.Int"
    if verb in _BASES and (large or verb != "s"):
        try:
            digits = format(abs(number), _BASES[verb])
        except ValueError as error:
            raise HaltError("sprintf: an integer with too many digits") from error
        if layout.precision is not None:
            digits = "" if layout.precision == 0 and number == 0 else digits.rjust(layout.precision, "0")
            layout.zero = False
        if layout.sharp or verb == "O":
            digits = _BASE_PREFIX.get(verb, "") + digits
        return layout.pad(_sign(number < 0, layout) + digits, numeric=True)
    if large:
        return None
    character = chr(number) if 0 <= number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"
    if verb == "c":
        return layout.pad(character)
    if verb == "q":
        body = quote(character)[1:-1].replace('\\"', '"').replace("'", "\\'")
        return layout.pad(f"'{body}'")
    if verb == "U":
        shown = f" '{character}'" if layout.sharp and character.isprintable() else ""
        return layout.pad(f"U+{number:04X}{shown}")
    return None


def _sign(negative: bool, layout: _Layout) -> str:
    return "-" if negative else "+" if layout.plus else " " if layout.space else ""


def _float(number: float, verb: str, layout: _Layout) -> str | None:
    magnitude = abs(number)
    if math.isinf(magnitude):
        return layout.pad(_sign(number < 0, layout) + "Inf") if verb in "vgGeEfF" else None
    if verb in "vgG":
        text = _general(magnitude, layout.precision, sharp=layout.sharp)
    elif verb in "eE":
        text = format(magnitude, f".{6 if layout.precision is None else layout.precision}e")
    elif verb in "fF":
        text = format(magnitude, f".{6 if layout.precision is None else layout.precision}f")
    elif verb in "xX":
        text = _hexadecimal(magnitude)
    else:
        return None
    text = text.upper() if verb in "GEX" else text
    return layout.pad(_sign(math.copysign(1, number) < 0, layout) + text, numeric=True)


def _general(number: float, precision: int | None, *, sharp: bool) -> str:
    """%g: the fewest digits that name the float, or as many as the precision says."""
    if precision is not None:
        return format(number, f"{'#' if sharp else ''}.{precision or 1}g")
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    shortest = repr(number)
    digits = re.sub(r"e.*", "", shortest).lstrip("-").replace(".", "").strip("0") or "0"
    mantissa, _, exponent_text = format(number, f".{len(digits) - 1}e").partition("e")
    exponent = int(exponent_text)
    if exponent < -4 or exponent >= 6:
        return f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return format(number, f".{max(0, len(digits) - 1 - exponent)}f")


def _hexadecimal(number: float) -> str:
    mantissa, _, exponent = number.hex().partition("p")
    head, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    return f"{head}{'.' + fraction if fraction else ''}p{exponent[0]}{int(exponent[1:]):02d}"


def general_text(number: float) -> str:
    """A float64 with the fewest digits that name it, as Go's %g writes it."""
    return _general(number, None, sharp=False) if number >= 0 else "-" + _general(-number, None, sharp=False)


FUNCTIONS = {"sprintf": sprintf}
