"""Who may do what to us, as values: subjects, roles, grants. What a role permits is said by rego/admin."""

import enum
import re
from dataclasses import dataclass, field
from typing import Final

from control_plane.core.errors import GatehouseError, InvalidInput, shown
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

_SUBJECT: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,300}")


class Role(enum.StrEnum):
    """What a person or program is for us."""

    VIEWER = "viewer"
    AUDITOR = "auditor"
    AUTHOR = "author"
    APPROVER = "approver"
    OPERATOR = "operator"
    SENSOR = "sensor"


class SubjectKind(enum.StrEnum):
    """How a subject was authenticated: the peer of a unix socket, a bearer token, a client certificate, or a
    secret that it shares with us."""

    LOCAL = "local"
    OIDC = "oidc"
    SVID = "svid"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for a subject on everything below `scope`, a SPIFFE ID or, in whole, a trust domain."""

    subject: str
    role: Role
    scope: str

    @classmethod
    def parse(cls, text: str, trust_domain: TrustDomain) -> "Grant":
        """Reads `SUBJECT ROLE [SCOPE]`; without a scope it is the whole trust domain. Raises InvalidInput."""
        parts = text.split()
        if len(parts) not in (2, 3) or not _SUBJECT.fullmatch(parts[0]):
            raise InvalidInput(
                f"grant {shown(text)}: expected a subject, a role, and perhaps a SPIFFE ID as scope",
                hint="such as: login:ada author spiffe://example.org/ns/shop",
            )
        try:
            role = Role(parts[1])
        except ValueError:
            raise InvalidInput(
                f"grant {shown(text)}: {shown(parts[1])} is no role", hint="one of " + ", ".join(Role)
            ) from None
        if parts[0].startswith("spiffe:") and not _is_svid(parts[0]):
            raise InvalidInput(
                f"grant {shown(text)}: {shown(parts[0])} is no SPIFFE ID of a workload",
                hint="such as: spiffe://example.org/ns/ops/sa/ci author",
            )
        return cls(
            parts[0], role, _scope(parts[2], trust_domain) if len(parts) == 3 else f"spiffe://{trust_domain}"
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """Somebody who was authenticated. `id` is unique over all kinds: `local:root`, `login:ada`, a SPIFFE ID.

    `uid` is the user id of a local peer; None for all others.
    """

    id: str
    kind: SubjectKind
    uid: int | None = field(default=None)

    def __str__(self) -> str:
        return self.id


def _is_svid(text: str) -> bool:
    try:
        return SpiffeId.parse(text).has_path
    except GatehouseError:
        return False


def _scope(text: str, trust_domain: TrustDomain) -> str:
    if text.rstrip("/") == f"spiffe://{trust_domain}":
        return f"spiffe://{trust_domain}"
    try:
        found = SpiffeId.parse(text.rstrip("/"))
    except GatehouseError as error:
        raise InvalidInput(f"grant: scope {shown(text)} is no SPIFFE ID ({error.message})") from error
    if found.trust_domain != trust_domain:
        raise InvalidInput(f"grant: scope {shown(text)} is outside of trust domain {trust_domain}")
    return str(found)
