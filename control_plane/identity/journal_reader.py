"""Reading the ledger's journals: all of it in order, the newest first, or one record.

Takes no lock, and works beside a writer: what isn't whole yet isn't seen. Reads one segment at a time into
memory. What to do about damage is the caller's choice; unless it says otherwise, damage raises Corrupt.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from control_plane.identity.journal_file import Damage, raise_damage, read_segment, segments
from control_plane.identity.ledger import LedgerEntry, decode


def read_journals(
    directory: Path,
    *,
    issuer: int | None = None,
    on_damage: Callable[[Damage], None] = raise_damage,
) -> Iterator[LedgerEntry]:
    """All records, oldest first within each issuer. Raises Corrupt at damage unless `on_damage` says else."""
    expected: dict[int, int] = {}
    for segment in segments(directory, issuer):
        contents = read_segment(segment)
        wanted = expected.get(segment.issuer, segment.first_sequence)
        if wanted != segment.first_sequence:
            missing = f"records {wanted} to {segment.first_sequence - 1} are missing before this file"
            on_damage(Damage(segment.path, 0, 0, missing))
        expected[segment.issuer] = contents.next_sequence
        for damage in contents.damage:
            on_damage(damage)
        for sequence, payload in contents.payloads:
            yield LedgerEntry(segment.issuer, sequence, decode(payload))


def find_record(directory: Path, issuer: int, sequence: int) -> LedgerEntry | None:
    """One record by its place, or None. Reads one segment."""
    for segment in reversed(segments(directory, issuer)):
        if segment.first_sequence <= sequence:
            for number, payload in read_segment(segment).payloads:
                if number == sequence:
                    return LedgerEntry(issuer, sequence, decode(payload))
            return None
    return None


def read_newest(
    directory: Path,
    issuer: int,
    *,
    before: int | None = None,
    on_damage: Callable[[Damage], None] = raise_damage,
) -> Iterator[LedgerEntry]:
    """One issuer's records, newest first, those with a sequence below `before` if given. Lazy by segment."""
    for segment in reversed(segments(directory, issuer)):
        if before is not None and segment.first_sequence >= before:
            continue
        contents = read_segment(segment)
        for damage in contents.damage:
            on_damage(damage)
        for sequence, payload in reversed(contents.payloads):
            if before is None or sequence < before:
                yield LedgerEntry(issuer, sequence, decode(payload))
