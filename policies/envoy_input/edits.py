"""Changes of a text at spans, so that everything else (comments, spelling) stays as the author wrote it."""

from __future__ import annotations

from policies.language.source import Source
from policies.language.syntax import ast


class Edits:
    """Replacements that don't overlap, applied together."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._made: dict[tuple[int, int], str] = {}

    def replace(self, start: int, end: int, text: str) -> None:
        """Puts `text` in the place of the characters from `start` up to `end`."""
        self._made[start, end] = text

    def result(self) -> str:
        """The text with all replacements. One inside another is gone with it."""
        text, parts, at = self._source.text, [], 0
        for (start, end), replacement in sorted(self._made.items(), key=lambda one: (one[0][0], -one[0][1])):
            if start < at:
                continue
            parts += [text[at:start], replacement]
            at = end
        return "".join([*parts, text[at:]])


def end_of_operand(ref: ast.Ref, length: int) -> int:
    """Where the first `length` operands of a reference end, with the bracket that closes the last one."""
    if length == 0:
        return ref.head.span.end
    span, text = ref.operands[length - 1].span, ref.span.source.text
    before = text[: span.start].rstrip()
    if not before.endswith("["):
        return span.end
    return text.index("]", span.end) + 1
