"""An entry as flags or a file give it, and the wire message that it becomes."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from control_plane.cli import wire
from control_plane.cli.given import read_given
from control_plane.core.errors import shown
from control_plane.core.lifetime import MIN_LEAF_TTL_SECONDS
from control_plane.core.spiffe_id import SpiffeId, server_id
from control_plane.proto.spire.api.types.entry_pb2 import Entry

MAX_FILE_BYTES = 64 * 1024 * 1024
FILE_KEYS = frozenset(
    (
        *("id", "spiffe_id", "parent_id", "selectors", "x509_svid_ttl_seconds", "jwt_svid_ttl_seconds"),
        *("federates_with", "dns_names", "hint", "admin", "downstream", "store_svid", "expires_at"),
        *("priority", "created_at", "revision", "quarantined"),
    )
)
"""What an entry in a file may have; the last three are the server's and are not sent."""
_FLAGS = {"selectors": "--selector", "dns_names": "--dns", "expires_at": "--entry-expiry"}
"""Fields whose flag has another name than they."""


@dataclass(frozen=True, slots=True)
class EntryFields:
    """The flags of `entry create` and `entry update`, as given."""

    entry_id: str
    spiffe_id: str
    parent_id: str
    selectors: tuple[str, ...]
    x509_svid_ttl_seconds: int
    jwt_svid_ttl_seconds: int
    federates_with: tuple[str, ...]
    dns_names: tuple[str, ...]
    hint: str
    admin: bool
    downstream: bool
    store_svid: bool
    expires_at: int
    priority: int
    node: bool


@dataclass(frozen=True, slots=True)
class GivenEntry:
    """An entry as it is sent: SPIRE's message, and the priority that travels beside it."""

    message: Entry
    priority: int


def given_entries(file: Path | None, fields: EntryFields) -> list[GivenEntry]:
    """The entries of a file, or the one of the flags. Raises typer's usage error, also where both are given:
    the flags would mean nothing."""
    if file is None:
        if 0 < fields.x509_svid_ttl_seconds < MIN_LEAF_TTL_SECONDS:
            raise typer.BadParameter(
                f"a certificate lives at least {MIN_LEAF_TTL_SECONDS} s", param_hint="--x509-svid-ttl"
            )
        return [to_message(fields)]
    beside = [name for name, value in asdict(fields).items() if value]
    if beside:
        flags = ", ".join(_flag_of(name) for name in beside)
        raise typer.BadParameter(
            f"all of an entry stands in the file, so {flags} can't be given", param_hint="--data"
        )
    return from_file(file)


def to_message(fields: EntryFields) -> GivenEntry:
    """The message of an entry. Raises typer's usage error for what is missing or malformed."""
    if not fields.spiffe_id:
        raise typer.BadParameter("an entry needs the SPIFFE ID that it gives", param_hint="--spiffe-id")
    if not fields.selectors:
        raise typer.BadParameter(
            "an entry needs at least one selector, as unix:uid:1000", param_hint="--selector"
        )
    parent = fields.parent_id
    if fields.node and parent:
        raise typer.BadParameter(
            "the parent of an entry for nodes is the server: leave --parent-id out", param_hint="--node"
        )
    if fields.node:
        parent = str(server_id(SpiffeId.parse(fields.spiffe_id).trust_domain))
    if not parent:
        raise typer.BadParameter(
            "an entry needs its parent: an agent's ID (see `gatehouse agent list`), or --node",
            param_hint="--parent-id",
        )
    message = Entry(
        id=fields.entry_id,
        spiffe_id=wire.spiffe_id(fields.spiffe_id, "--spiffe-id"),
        parent_id=wire.spiffe_id(parent, "--parent-id"),
        selectors=wire.selectors(fields.selectors),
        x509_svid_ttl=fields.x509_svid_ttl_seconds,
        jwt_svid_ttl=fields.jwt_svid_ttl_seconds,
        federates_with=[wire.trust_domain(each, "--federates-with") for each in fields.federates_with],
        dns_names=fields.dns_names,
        hint=fields.hint,
        admin=fields.admin,
        downstream=fields.downstream,
        store_svid=fields.store_svid,
        expires_at=fields.expires_at,
    )
    return GivenEntry(message, fields.priority)


def from_file(path: Path) -> list[GivenEntry]:
    """Entries of a JSON file: `{"entries": […]}` or a list. Raises typer's usage error."""
    flag = f"--data {path}"
    try:
        content = json.loads(read_given(path, MAX_FILE_BYTES, flag))
    except (ValueError, RecursionError) as error:
        why = "it is too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise typer.BadParameter(f"is no JSON: {why}", param_hint=flag) from error
    listed = content.get("entries") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise typer.BadParameter('expected {"entries": [{…}, …]}', param_hint=flag)
    return [_from_object(each, f"{flag}, entry {index + 1}") for index, each in enumerate(listed)]


def _from_object(given: dict[str, Any], where: str) -> GivenEntry:
    """One entry of a file; a key that we do not know is an error, since it was meant to do something."""
    unknown = sorted(set(given) - FILE_KEYS)
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], sorted(FILE_KEYS), n=1, cutoff=0.3)
        meant = f", did you mean {nearest[0]!r}?" if nearest else ""
        raise typer.BadParameter(f"unknown key {unknown[0]!r}{meant}", param_hint=where)
    try:
        fields = EntryFields(
            entry_id=_text(given, "id"),
            spiffe_id=_text(given, "spiffe_id"),
            parent_id=_text(given, "parent_id"),
            selectors=_texts(given, "selectors"),
            x509_svid_ttl_seconds=_number(given, "x509_svid_ttl_seconds", 32),
            jwt_svid_ttl_seconds=_number(given, "jwt_svid_ttl_seconds", 32),
            federates_with=_texts(given, "federates_with"),
            dns_names=_texts(given, "dns_names"),
            hint=_text(given, "hint"),
            admin=_truth(given, "admin"),
            downstream=_truth(given, "downstream"),
            store_svid=_truth(given, "store_svid"),
            expires_at=_number(given, "expires_at", 64),
            priority=_number(given, "priority", 32),
            node=False,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=where) from error
    return to_message(fields)


def _flag_of(field: str) -> str:
    return _FLAGS.get(field, "--" + field.removesuffix("_seconds").replace("_", "-"))


def _text(given: dict[str, Any], name: str) -> str:
    """A text that UTF-8 has. Raises ValueError, as those below."""
    found = given.get(name, "")
    if not isinstance(found, str) or not _is_utf8(found):
        raise ValueError(f"{name} is {shown(found)}, expected a text")
    return found


def _texts(given: dict[str, Any], name: str) -> tuple[str, ...]:
    found = given.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) and _is_utf8(one) for one in found):
        raise ValueError(f"{name} is {shown(found)}, expected a list of texts")
    return tuple(found)


def _truth(given: dict[str, Any], name: str) -> bool:
    found = given.get(name, False)
    if not isinstance(found, bool):
        raise ValueError(f"{name} is {shown(found)}, expected true or false")
    return found


def _number(given: dict[str, Any], name: str, bits: int) -> int:
    """A whole number that the wire can carry."""
    found = given.get(name, 0)
    bound = 1 << bits - 1
    if not isinstance(found, int) or isinstance(found, bool) or not -bound <= found < bound:
        raise ValueError(f"{name} is {shown(found)}, expected a whole number of {bits} bits")
    return found


def _is_utf8(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON can write and no message can carry."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
