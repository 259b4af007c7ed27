"""Selectors: what attestation found out about a node or a workload, as type and value.

The type is what comes before the first colon (`unix` in `unix:uid:1000`); the value may hold further
colons. A registration entry matches a process when all of the entry's selectors are among the attested.
This module holds the value only; attestors make selectors, the index matches them.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from control_plane.core.errors import InvalidInput, shown

MAX_TYPE_CHARACTERS: Final = 255
MAX_VALUE_CHARACTERS: Final = 8192  # room for a path of 4,096 bytes and a prefix


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """One attested fact; every instance is valid, however it was made."""

    type: str
    value: str

    def __post_init__(self) -> None:
        if not self.type or ":" in self.type or len(self.type) > MAX_TYPE_CHARACTERS:
            raise InvalidInput(
                f"selector type {shown(self.type)}: must be 1 to {MAX_TYPE_CHARACTERS} characters, "
                "none of them a colon",
                hint="write selectors as type:value, such as unix:uid:1000",
            )
        if not self.value or len(self.value) > MAX_VALUE_CHARACTERS:
            raise InvalidInput(
                f"selector {shown(self.type)}: the value must be 1 to {MAX_VALUE_CHARACTERS} characters, "
                f"got {len(self.value)}",
                hint="write selectors as type:value, such as unix:uid:1000",
            )
        if not (self.type.isprintable() and self.value.isprintable()):
            # Selectors travel in protobuf, tables and terminals; such characters break all three.
            raise InvalidInput(f"selector {shown(str(self))}: holds control or unpaired characters")

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Splits at the first colon. Raises InvalidInput when either side is missing."""
        type_, _, value = text.partition(":")
        return cls(type_, value)

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


Selectors: TypeAlias = frozenset[Selector]
