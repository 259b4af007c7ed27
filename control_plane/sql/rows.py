"""Rows to values and back. No queries here; a row that can't be read is `Corrupt`, naming table and key."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import RowMapping

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.entry import Entry
from control_plane.core.errors import Corrupt, InvalidInput, shown
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.quarantine import Quarantined

T = TypeVar("T")
Row = RowMapping

_PLAIN = (
    "x509_svid_ttl_seconds",
    "jwt_svid_ttl_seconds",
    "hint",
    "admin",
    "downstream",
    "store_svid",
    "expires_at",
    "priority",
    "disable_x509_svid_prefetch",
    "jwt_svid_include_jti",
    "revision",
    "created_at",
)


def key_digest(entry: Entry) -> bytes:
    """SHA-256 over the entry's key in one canonical form."""
    canonical = json.dumps(
        [str(entry.spiffe_id), str(entry.parent_id), sorted([s.type, s.value] for s in entry.selectors)]
    )
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()


def entry_row(entry: Entry) -> dict[str, Any]:
    """An entry as a row of `entries`."""
    return {
        "id": entry.id,
        "key_digest": key_digest(entry),
        "spiffe_id": str(entry.spiffe_id),
        "parent_id": str(entry.parent_id),
        "selectors": json.dumps(sorted(str(selector) for selector in entry.selectors)),
        "federates_with": json.dumps([str(name) for name in entry.federates_with]),
        "dns_names": json.dumps(list(entry.dns_names)),
        **{name: getattr(entry, name) for name in _PLAIN},
    }


def read_entry(row: Row) -> Entry:
    """A row of `entries` as a value."""
    return _read(
        "entries",
        row["id"],
        lambda: Entry(
            id=row["id"],
            spiffe_id=SpiffeId.parse(row["spiffe_id"]),
            parent_id=SpiffeId.parse(row["parent_id"]),
            selectors=frozenset(Selector.parse(text) for text in json.loads(row["selectors"])),
            federates_with=tuple(TrustDomain(name) for name in json.loads(row["federates_with"])),
            dns_names=tuple(json.loads(row["dns_names"])),
            **{name: row[name] for name in _PLAIN},
        ),
    )


def agent_row(agent: AgentRecord) -> dict[str, Any]:
    """An agent as a row of `agents`, without the bundle that it confirmed."""
    return {
        "id": str(agent.id),
        "attestation_type": agent.attestation_type,
        "selectors": json.dumps(sorted(str(selector) for selector in agent.selectors)),
        "serial": f"{agent.serial:x}",
        "expires_at": agent.expires_at,
        "new_serial": f"{agent.new_serial:x}",
        "new_expires_at": agent.new_expires_at,
        "banned": agent.banned,
        "can_reattest": agent.can_reattest,
        "version": agent.version,
        "attested_at": agent.attested_at,
    }


def read_agent(row: Row) -> AgentRecord:
    """A row of `agents` as a value."""
    return _read(
        "agents",
        row["id"],
        lambda: AgentRecord(
            id=SpiffeId.parse(row["id"]),
            attestation_type=row["attestation_type"],
            selectors=frozenset(Selector.parse(text) for text in json.loads(row["selectors"])),
            serial=int(row["serial"], 16),
            expires_at=row["expires_at"],
            new_serial=int(row["new_serial"], 16),
            new_expires_at=row["new_expires_at"],
            banned=row["banned"],
            can_reattest=row["can_reattest"],
            version=row["version"],
            attested_at=row["attested_at"],
        ),
    )


def bundle_row(bundle: Bundle) -> dict[str, Any]:
    """A bundle as a row of `bundles`. The SPIFFE format has no place for taint, hence a form of our own."""
    document = {
        "x509": [[_text(a.certificate), a.tainted] for a in bundle.x509_authorities],
        "jwt": [[a.key_id, _text(a.public_key), a.expires_at, a.tainted] for a in bundle.jwt_authorities],
        "refresh_hint_seconds": bundle.refresh_hint_seconds,
    }
    return {
        "trust_domain": bundle.trust_domain.name,
        "document": json.dumps(document),
        # Sequences are unsigned 64 bits on the wire, signed in SQL.
        "sequence": bundle.sequence - (1 << 64 if bundle.sequence >= 1 << 63 else 0),
    }


def read_bundle(row: Row) -> Bundle:
    """A row of `bundles` as a value."""

    def read() -> Bundle:
        document = json.loads(row["document"])
        return Bundle(
            trust_domain=TrustDomain(row["trust_domain"]),
            x509_authorities=tuple(
                X509Authority(base64.b64decode(text), tainted) for text, tainted in document["x509"]
            ),
            jwt_authorities=tuple(
                JwtAuthority(key_id, base64.b64decode(key), expires_at, tainted)
                for key_id, key, expires_at, tainted in document["jwt"]
            ),
            sequence=row["sequence"] % (1 << 64),
            refresh_hint_seconds=document["refresh_hint_seconds"],
        )

    return _read("bundles", row["trust_domain"], read)


def read_quarantined(row: Row) -> Quarantined:
    """A row of `quarantine` as a value."""
    return _read(
        "quarantine",
        row["spiffe_id"],
        lambda: Quarantined(SpiffeId.parse(row["spiffe_id"]), row["reason"], row["by"], row["at"]),
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _read(table: str, key: object, read: Callable[[], T]) -> T:
    try:
        return read()
    except (InvalidInput, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(
            f"database table {table}, row {shown(key)}: can't be read ({error})",
            hint="restore the database from a backup, or delete that row",
        ) from error
