"""`/v1/ledger`: what was issued, newest first, read from the journals of all processes.

Reading is disk work and runs in worker threads. A page looks at no more than `MAX_LOOKED_AT` records; where
a filter finds little, a page may be short and still name a next one.
"""

import asyncio
import base64
import binascii
import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from fastapi import APIRouter, Query, Response
from fastapi import Path as InPath

from control_plane.api.rest.answers import LedgerPage, LedgerRecord
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.core.spiffe_id import SpiffeId
from control_plane.identity.journal_file import Damage, segments
from control_plane.identity.journal_reader import find_record, read_newest
from control_plane.identity.ledger import (
    AuthorityMark,
    AuthorityRecord,
    ChangeRecord,
    JwtRecord,
    LedgerEntry,
    X509Intent,
    X509Record,
    X509Withheld,
    parse_entry_id,
)
from control_plane.runtime.log import get_logger

MAX_LOOKED_AT: Final = 100_000
READERS: Final = 2
"""At once; more would share one interpreter and keep everybody else from it."""
KINDS: Final = tuple(
    kind.kind
    for kind in (
        X509Intent,
        X509Record,
        X509Withheld,
        JwtRecord,
        AuthorityRecord,
        AuthorityMark,
        ChangeRecord,
    )
)
RecordId = Annotated[str, InPath(max_length=64, description="As in a page: issuer-sequence.")]
_log = get_logger("ledger")


def router(directory: Path) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/ledger", tags=["ledger"])

    one_by_one = asyncio.Semaphore(READERS)

    @routes.get("", response_model=LedgerPage)
    async def page(
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
        spiffe_id: Annotated[str | None, Query(max_length=2048)] = None,
        serial: Annotated[str | None, Query(max_length=200, description="Hex, colons are fine.")] = None,
        kind: Annotated[str | None, Query(max_length=32, description=f"One of {', '.join(KINDS)}.")] = None,
    ) -> Response:
        """One page. Intents are shown only if asked for by kind."""
        wanted = _Wanted(spiffe_id, serial, kind)
        before = _read_cursor(cursor)
        async with one_by_one:
            content = await asyncio.to_thread(_page, directory, wanted, before, limit)
        return Response(content, media_type="application/json")

    @routes.get("/{record_id}")
    async def one(record_id: RecordId) -> LedgerRecord:
        """One record with all that is known of it."""
        where = parse_entry_id(record_id)
        async with one_by_one:
            entry = await asyncio.to_thread(find_record, directory, *where)
        if entry is None:
            raise NotFound(f"ledger record {record_id} doesn't exist")
        return _shown(entry, whole=True)

    return routes


def _page(directory: Path, wanted: "_Wanted", before: dict[int, int], limit: int) -> bytes:
    """A page as JSON, each record by itself: no long call keeps the other threads waiting."""
    records: list[str] = []
    more = False
    for looked_at, entry in enumerate(_newest_first(directory, before)):
        more = len(records) == limit or looked_at == MAX_LOOKED_AT
        if more:
            break
        before[entry.issuer] = entry.sequence
        if wanted.fits(entry):
            records.append(json.dumps(_shown(entry, whole=False)))
    cursor = json.dumps(_write_cursor(before) if more else None)
    return f'{{"records":[{",".join(records)}],"next_cursor":{cursor}}}'.encode()


class _Wanted:
    def __init__(self, spiffe_id: str | None, serial: str | None, kind: str | None) -> None:
        self._spiffe_id = None if spiffe_id is None else SpiffeId.parse(spiffe_id)
        try:
            self._serial = None if serial is None else int(serial.replace(":", ""), 16)
        except ValueError as error:
            raise InvalidInput("serial: expected hex digits") from error
        if kind is not None and kind not in KINDS:
            raise InvalidInput("kind: isn't one that the ledger has", hint="one of " + ", ".join(KINDS))
        self._kind = kind

    def fits(self, entry: LedgerEntry) -> bool:
        record = entry.record
        if record.kind != self._kind if self._kind else isinstance(record, X509Intent):
            return False
        if self._spiffe_id is not None and getattr(record, "spiffe_id", None) != self._spiffe_id:
            return False
        return self._serial is None or getattr(record, "serial", None) == self._serial


def _newest_first(directory: Path, before: dict[int, int]) -> Iterator[LedgerEntry]:
    def damaged(damage: Damage) -> None:
        _log.error("ledger_damaged", damage=str(damage))

    issuers = sorted({segment.issuer for segment in segments(directory, None)})
    sources = [
        read_newest(directory, issuer, before=before.get(issuer), on_damage=damaged) for issuer in issuers
    ]
    return heapq.merge(*sources, key=lambda entry: -entry.record.at)


def _shown(entry: LedgerEntry, *, whole: bool) -> dict[str, Any]:
    record = entry.record
    shown: dict[str, Any] = {"id": entry.id, "kind": record.kind, "issued_at": record.at}
    for name in record.__dataclass_fields__:
        value = getattr(record, name)
        if name == "at" or (isinstance(value, bytes) and not whole):
            continue
        if name == "serial":
            value = f"{value:032x}"
        elif isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii") if name == "certificate" else value.hex()
        elif isinstance(value, SpiffeId):
            value = str(value)
        shown[name] = value
    if isinstance(record, X509Record):
        shown["issuer"] = _issuer(record.certificate)
    return shown


def _issuer(certificate: bytes) -> str:
    """Who signed a certificate, as it says itself; it is one of ours, so it can be read."""
    names = {NameOID.SERIAL_NUMBER: "serialNumber"}  # RFC 4514 lets one say it; not said, it is 2.5.4.5
    return x509.load_der_x509_certificate(certificate).issuer.rfc4514_string(names)


def _read_cursor(cursor: str | None) -> dict[int, int]:
    if not cursor:
        return {}
    try:
        pairs = json.loads(base64.urlsafe_b64decode(cursor[:4096]))
        return {int(issuer): int(sequence) for issuer, sequence in pairs}
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidInput("cursor: isn't one of ours", hint="begin again without a cursor") from error


def _write_cursor(before: dict[int, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(sorted(before.items())).encode("ascii")).decode("ascii")
