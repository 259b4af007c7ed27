"""What the cache files hold, and its form: JSON with a version, binary values in base64.

Reading is strict: whatever doesn't have the form that we write is Corrupt, since the file is authenticated
and nobody but us writes it. Unknown members are ignored, so that an older agent can read a newer file.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.holdings import HeldSvid
from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.entry import Entry
from control_plane.core.errors import Corrupt, GatehouseError
from control_plane.core.log_position import LogPosition
from control_plane.core.secret import Secret
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import X509Svid

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class AgentCredential:
    """The agent's own identity: SVID, key (PKCS#8 DER), renewal instant, and how it was obtained.

    `evidence` is a fingerprint of what it attested with (a join token works once, and the same one found on
    the command line after a restart must not be tried again).
    """

    held: HeldSvid
    reattestable: bool
    attestation_type: str
    evidence: str

    @property
    def spiffe_id(self) -> SpiffeId:
        """The agent's ID."""
        return self.held.svid.spiffe_id


@dataclass(frozen=True, slots=True)
class AgentContent:
    """The content of `agent.cache`. `withdrawn` names authorities that the server's bundle held once and
    holds no more, by key identifier."""

    trust_domain: TrustDomain
    credential: AgentCredential | None
    bundle: Bundle
    withdrawn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadsContent:
    """The content of `agent-workloads.cache`: SVIDs are by entry ID, `synced_at` in Unix seconds; `heard` is
    the last change that the entries contain."""

    trust_domain: TrustDomain
    entries: tuple[Entry, ...]
    svids: Mapping[str, HeldSvid]
    bundles: tuple[Bundle, ...] = field(default=())
    synced_at: int = 0
    heard: LogPosition | None = None


def dump_agent(content: AgentContent) -> bytes:
    """For CacheFile.save."""
    credential = content.credential
    return _dump(
        {
            "trust_domain": content.trust_domain.name,
            "bundle": _bundle_out(content.bundle),
            "withdrawn": content.withdrawn,
            "credential": None
            if credential is None
            else {
                "held": _held_out(credential.held),
                "reattestable": credential.reattestable,
                "attestation_type": credential.attestation_type,
                "evidence": credential.evidence,
            },
        }
    )


def parse_agent(text: bytes) -> AgentContent:
    """Reads what `dump_agent` wrote. Raises Corrupt."""
    data = _parse(text)
    try:
        credential = data["credential"]
        return AgentContent(
            TrustDomain(data["trust_domain"]),
            None
            if credential is None
            else AgentCredential(
                _held_in(credential["held"]),
                bool(credential["reattestable"]),
                str(credential["attestation_type"]),
                str(credential["evidence"]),
            ),
            _bundle_in(data["bundle"]),
            tuple(str(key_id) for key_id in data.get("withdrawn", ())),
        )
    except _MALFORMED as error:
        raise Corrupt(f"reading the agent's cache: {_fault(error)}") from error


def dump_workloads(content: WorkloadsContent) -> bytes:
    """For CacheFile.save."""
    return _dump(
        {
            "trust_domain": content.trust_domain.name,
            "synced_at": content.synced_at,
            "heard": None if content.heard is None else str(content.heard),
            "bundles": [_bundle_out(bundle) for bundle in content.bundles],
            "entries": [_entry_out(entry) for entry in content.entries],
            "svids": {entry_id: _held_out(held) for entry_id, held in content.svids.items()},
        }
    )


def parse_workloads(text: bytes) -> WorkloadsContent:
    """Reads what `dump_workloads` wrote. Raises Corrupt."""
    data = _parse(text)
    try:
        heard = data.get("heard")
        return WorkloadsContent(
            TrustDomain(data["trust_domain"]),
            tuple(_entry_in(entry) for entry in data["entries"]),
            {str(entry_id): _held_in(held) for entry_id, held in data["svids"].items()},
            tuple(_bundle_in(bundle) for bundle in data["bundles"]),
            int(data["synced_at"]),
            None if heard is None else LogPosition.parse(heard),
        )
    except _MALFORMED as error:
        raise Corrupt(f"reading the workloads' cache: {_fault(error)}") from error


_MALFORMED = (KeyError, TypeError, ValueError, OverflowError, AttributeError, GatehouseError)


def _fault(error: Exception) -> str:
    # Never the content: it holds keys.
    return f"it doesn't have the expected form ({type(error).__name__})"


def _dump(data: dict[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **data}, separators=(",", ":")).encode()


def _parse(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Corrupt("reading the cache: it isn't JSON") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise Corrupt("reading the cache: it was written by a version that this one doesn't know")
    return data


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _held_out(held: HeldSvid) -> dict[str, Any]:
    svid = held.svid
    return {
        "chain": [_b64(certificate) for certificate in svid.chain],
        "key": _b64(held.private_key.reveal()),
        "renew_at": held.renew_at,
    }


def _held_in(data: dict[str, Any]) -> HeldSvid:
    svid = X509Svid.from_chain([_raw(certificate) for certificate in data["chain"]])
    return HeldSvid(svid, Secret(_raw(data["key"])), int(data["renew_at"]))


def _bundle_out(bundle: Bundle) -> dict[str, Any]:
    return {
        "trust_domain": bundle.trust_domain.name,
        "sequence": bundle.sequence,
        "refresh_hint_seconds": bundle.refresh_hint_seconds,
        "x509": [[_b64(authority.certificate), authority.tainted] for authority in bundle.x509_authorities],
        "jwt": [
            [authority.key_id, _b64(authority.public_key), authority.expires_at, authority.tainted]
            for authority in bundle.jwt_authorities
        ],
    }


def _bundle_in(data: dict[str, Any]) -> Bundle:
    return Bundle(
        TrustDomain(data["trust_domain"]),
        tuple(X509Authority.parse(_raw(der), tainted=bool(tainted)) for der, tainted in data["x509"]),
        tuple(
            JwtAuthority(str(key_id), _raw(key), int(expires_at), bool(tainted))
            for key_id, key, expires_at, tainted in data["jwt"]
        ),
        int(data["sequence"]),
        int(data["refresh_hint_seconds"]),
    )


_PLAIN = (
    "x509_svid_ttl_seconds", "jwt_svid_ttl_seconds", "hint", "admin", "downstream", "store_svid",
    "expires_at", "priority", "disable_x509_svid_prefetch", "jwt_svid_include_jti", "revision", "created_at",
)  # fmt: skip


def _entry_out(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "spiffe_id": str(entry.spiffe_id),
        "parent_id": str(entry.parent_id),
        "selectors": [str(selector) for selector in sorted(entry.selectors)],
        "federates_with": [domain.name for domain in entry.federates_with],
        "dns_names": entry.dns_names,
        "plain": {name: getattr(entry, name) for name in _PLAIN},
    }


def _entry_in(data: dict[str, Any]) -> Entry:
    return Entry(
        id=str(data["id"]),
        spiffe_id=SpiffeId.parse(data["spiffe_id"]),
        parent_id=SpiffeId.parse(data["parent_id"]),
        selectors=frozenset(Selector.parse(text) for text in data["selectors"]),
        federates_with=tuple(TrustDomain(name) for name in data["federates_with"]),
        dns_names=tuple(data["dns_names"]),
        **{name: data["plain"][name] for name in _PLAIN if name in data["plain"]},
    )
