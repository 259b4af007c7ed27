"""What an evaluation read of data, as text that a later run can ask again, and a digest of what it gives.

A read names a place of `data`, the rows of a collection that a lookup finds there, or that it mattered which
requests there are, which follows from the inventory. Two runs for which all reads give the same differ in
nothing that the evaluation saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from control_plane.core.errors import InvalidInput
from policies.kept.shelf import digest
from policies.language.serial import json_text, parse_json
from policies.language.symbolic import Memory
from policies.language.symbolic.joins import Lookup
from policies.language.symbolic.memory import WEIGHED, DataRead, Read, RowsRead
from policies.language.values import identical


def read_text(read: Read) -> str | None:
    """A read as text; None where it can't be written so that it reads back the same."""
    if read is WEIGHED:
        return json.dumps(["requests"])
    if isinstance(read, DataRead):
        return json.dumps(["data", *read.path])
    if isinstance(read, RowsRead):
        wanted = json_text(read.wanted)
        # JSON has no sets, and no objects with other keys than text.
        if not identical(parse_json(wanted), read.wanted):
            return None
        lookup = read.lookup
        return json.dumps(["rows", read.path, lookup.fields, lookup.inside, read.keyed, wanted])
    return None


def parse_read(text: str) -> Read:
    """The read that a text names. Raises InvalidInput for another text."""
    try:
        match json.loads(text):
            case ["requests"]:
                return WEIGHED
            case ["data", *path]:
                return DataRead(tuple(map(str, path)))
            case ["rows", list(path), list(fields), bool(inside), bool(keyed), str(wanted)]:
                lookup = Lookup(tuple(tuple(map(str, one)) for one in fields), inside)
                values = parse_json(wanted)
                if isinstance(values, tuple):
                    return RowsRead(tuple(map(str, path)), lookup, values, keyed)
    except (ValueError, TypeError, RecursionError) as error:  # those of `parse_json` are ValueErrors
        raise InvalidInput(f"reading what an evaluation read: {error}") from error
    raise InvalidInput("reading what an evaluation read: another shape")


@dataclass(slots=True)
class Answers:
    """What reads give in one version, each worked out once. `requests` is a digest of the inventory."""

    memory: Memory
    requests: str
    _known: dict[str, str] = field(default_factory=dict)

    def digest(self, reads: Iterable[str]) -> str:
        """A digest of what several reads give. Raises InvalidInput for a text that isn't a read's."""
        return digest(*map(self._of, reads))

    def _of(self, text: str) -> str:
        known = self._known.get(text)
        if known is None:
            read = parse_read(text)
            # Values print in full and exactly: texts in quotes, numbers as they are written.
            known = self.requests if read is WEIGHED else digest(repr(self.memory.answer(read)))
            self._known[text] = known
        return known
