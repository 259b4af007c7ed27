"""What is wrong with a policy, where, and what to write instead.

A `Diagnostic` is one finding; `Diagnostics` is the error that carries all findings of a stage. The
codes are OPA's, so that tools made for `opa check` understand ours; the messages say more.

Not here: which findings there are (parser, compile, checks).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.language.source import Span

MAX_SHOWN: Final = 100
"""So many findings are kept of one stage: nobody reads more, and hostile input could make millions."""

_TAB: Final = "    "
_MAX_LINE: Final = 160


class ErrorCode(StrEnum):
    """The class of a finding, spelled as OPA spells it; from LIMIT on they are ours."""

    PARSE = "rego_parse_error"
    COMPILE = "rego_compile_error"
    UNSAFE_VAR = "rego_unsafe_var_error"
    TYPE = "rego_type_error"
    RECURSION = "rego_recursion_error"
    LIMIT = "rego_limit_error"
    CONSTANT = "rego_constant_error"
    UNSUPPORTED = "rego_unsupported_error"
    LINT = "rego_lint"


class Severity(StrEnum):
    """Whether a policy with this finding may be used."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Related:
    """Another place that belongs to a finding, such as an earlier definition."""

    span: Span
    note: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `expected` and `hint` may be empty; `replacement` is a line to write instead."""

    span: Span
    code: ErrorCode
    message: str
    expected: str = ""
    hint: str = ""
    replacement: str = ""
    severity: Severity = Severity.ERROR
    related: tuple[Related, ...] = ()

    def render(self) -> str:
        """Several lines for a terminal: position, message, the underlined source, what to do."""
        lines = [f"{self.span}: {self.code}: {self.message}", *_excerpt(self.span)]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        if self.replacement:
            lines.append(f"  write: {self.replacement}")
        for related in self.related:
            lines.append(f"  {related.span}: {related.note}")
            lines.extend(_excerpt(related.span))
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The finding as plain JSON values, with OPA's names where OPA has one."""
        row, column = self.span.source.position(self.span.start)
        result: dict[str, object] = {
            "code": str(self.code),
            "severity": str(self.severity),
            "message": self.message,
            "location": {"file": self.span.source.file, "row": row, "col": column},
            "text": self.span.text[:_MAX_LINE],
        }
        for name in ("expected", "hint", "replacement"):
            if value := getattr(self, name):
                result[name] = value
        if self.related:
            result["related"] = [
                {
                    "location": {"file": r.span.source.file, "row": r.span.row, "col": r.span.column},
                    "note": r.note,
                }
                for r in self.related
            ]
        return result

    def __str__(self) -> str:
        return f"{self.span}: {self.code}: {self.message}"


class Diagnostics(InvalidInput):
    """A policy was refused; `diagnostics` holds at least one finding, in the order of the sources.

    `omitted` counts findings beyond MAX_SHOWN.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        found = list(dict.fromkeys(diagnostics))
        self.diagnostics: tuple[Diagnostic, ...] = tuple(found[:MAX_SHOWN])
        self.omitted = len(found) - len(self.diagnostics)
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.diagnostics) + self.omitted
        head = "1 error in the policy" if count == 1 else f"{count} errors in the policy"
        shown = [diagnostic.render() for diagnostic in self.diagnostics]
        if self.omitted:
            shown.append(f"… and {self.omitted} more")
        return "\n".join([head + ":", *shown])


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a hurried author most likely meant, or None when none is near.

    Distance is Levenshtein's with swaps of neighbours as one step; near means a third of the length.
    """
    best: tuple[int, str] | None = None
    limit = max(1, min(3, len(word) // 3 + (len(word) > 3)))
    letters = _letters(word)
    for candidate in candidates:
        if candidate == word or abs(len(candidate) - len(word)) > limit:
            continue
        theirs = _letters(candidate)  # each letter that the other lacks is a step at least
        if len(letters - theirs) > limit or len(theirs - letters) > limit:
            continue
        distance = _distance(word, candidate, limit)
        if distance <= limit and (best is None or (distance, candidate) < best):
            best = (distance, candidate)
    return best[1] if best else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A question naming the nearest candidate, or an empty text."""
    found = nearest(word, candidates)
    return f"did you mean {found}?" if found else ""


def _letters(word: str) -> set[str]:
    """Those that count in every case: `_distance` takes words that differ in others alone for near."""
    return set(word.lower()) - {"_", "-"}


def _distance(left: str, right: str, limit: int) -> int:
    if left.lower().replace("_", "").replace("-", "") == right.lower().replace("_", "").replace("-", ""):
        return 1
    before_last: list[int] = []
    last = list(range(len(right) + 1))
    for row, first in enumerate(left, 1):
        current = [row]
        for column, second in enumerate(right, 1):
            cost = min(last[column] + 1, current[-1] + 1, last[column - 1] + (first != second))
            swapped = row > 1 and column > 1 and first == right[column - 2] and left[row - 2] == second
            if swapped:
                cost = min(cost, before_last[column - 2] + 1)
            current.append(cost)
        if min(current) > limit:
            return limit + 1
        before_last, last = last, current
    return last[-1]


def _excerpt(span: Span) -> list[str]:
    row, column = span.source.position(span.start)
    line = span.source.line(row)
    if not line:
        return []
    first = max(0, column - 1 - _MAX_LINE // 2)
    shown = line[first : first + _MAX_LINE]
    lead = line[first : column - 1]
    width = max(1, min(span.end - span.start, len(line) - column + 1, _MAX_LINE - len(lead)))
    number = str(row)
    return [
        f"  {number} | {_visible(shown)}",
        f"  {' ' * len(number)} | {' ' * len(_visible(lead))}{'^' * width}",
    ]


def _visible(text: str) -> str:
    # Control characters in a hostile policy must not reach the terminal.
    if text.isprintable():
        return text
    return "".join(_TAB if c == "\t" else c if c.isprintable() else "�" for c in text)
