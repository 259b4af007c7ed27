"""Registration entries: which identity a process may have, and below which agent.

The rules are SPIRE's, so that its own tools see the same answers: an entry is identified by the triple of
SPIFFE ID, parent and selector set; ours adds a priority that decides the default identity. Storing,
versioning and matching entries are other modules' work.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from control_plane.core.dns_name import check_dns_name
from control_plane.core.errors import InvalidInput, shown
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

MAX_HINT_BYTES: Final = 1024  # SPIFFE_Workload_API.md: hints beyond this need not be supported
MAX_SELECTORS: Final = 256
MAX_DNS_NAMES: Final = 256
MAX_FEDERATES_WITH: Final = 256
MAX_TTL_SECONDS: Final = 2**31 - 1  # the wire carries int32

_ID = re.compile(r"[a-zA-Z0-9._-]{1,255}")

EntryKey: TypeAlias = tuple[SpiffeId, SpiffeId, frozenset[Selector]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One registration entry.

    An empty `id` stands for an entry that isn't stored yet. TTLs of 0 mean the server's default;
    `expires_at` is in Unix seconds, 0 for never. `revision` grows with each change, `created_at` is set
    once: both belong to the registry.
    """

    id: str
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: frozenset[Selector]
    x509_svid_ttl_seconds: int = 0
    jwt_svid_ttl_seconds: int = 0
    federates_with: tuple[TrustDomain, ...] = ()
    hint: str = ""
    dns_names: tuple[str, ...] = ()
    admin: bool = False
    downstream: bool = False
    store_svid: bool = False
    expires_at: int = 0
    priority: int = 0
    disable_x509_svid_prefetch: bool = False
    jwt_svid_include_jti: bool = False
    revision: int = 0
    created_at: int = 0

    @classmethod
    def parse(
        cls,
        *,
        spiffe_id: str,
        parent_id: str,
        selectors: Iterable[str],
        federates_with: Iterable[str] = (),
        dns_names: Iterable[str] = (),
        id: str = "",  # the field's name on the wire
        **other: object,
    ) -> "Entry":
        """Reads the text forms (command line, REST, files); `other` are the remaining fields by name.

        Raises InvalidInput for a malformed value or an unknown field.
        """
        unknown = other.keys() - _PLAIN_FIELDS.keys()
        if unknown:
            raise InvalidInput(
                f"registration entry: unknown field {shown(min(unknown))}",
                hint="known are " + ", ".join(sorted(_PLAIN_FIELDS)),
            )
        for name, value in other.items():
            if type(value) is not _PLAIN_FIELDS[name]:
                raise InvalidInput(
                    f"registration entry: {name} is {shown(value)}, expected {_PLAIN_FIELDS[name].__name__}"
                )
        entry = cls(
            id=id,
            spiffe_id=SpiffeId.parse(spiffe_id),
            parent_id=SpiffeId.parse(parent_id),
            selectors=frozenset(Selector.parse(text) for text in selectors),
            federates_with=tuple(dict.fromkeys(TrustDomain.parse(text) for text in federates_with)),
            dns_names=tuple(dns_names),
            **other,  # type: ignore[arg-type]  # names and types were checked just above
        )
        entry.check_fields()
        return entry

    @property
    def key(self) -> EntryKey:
        """What makes two entries the same registration, whatever their IDs."""
        return self.spiffe_id, self.parent_id, self.selectors

    def check(self, trust_domain: TrustDomain) -> "Entry":
        """Gives the entry back if a server of `trust_domain` may store it. Raises InvalidInput otherwise."""
        self.check_fields()
        check_member(self.spiffe_id, trust_domain, "registration entry: SPIFFE ID")
        check_member(self.parent_id, trust_domain, "registration entry: parent ID")
        check_unreserved(self.spiffe_id, "registration entry: SPIFFE ID")
        if trust_domain in self.federates_with:
            raise InvalidInput(
                f"registration entry {self.spiffe_id}: federates with its own trust domain {trust_domain}",
                hint="leave it out: every identity comes with the bundle of its own trust domain",
            )
        return self

    def check_fields(self) -> None:
        """The rules that need no trust domain. Raises InvalidInput with the field and the limit."""
        if self.id and not _ID.fullmatch(self.id):
            raise InvalidInput(
                f"registration entry: ID {shown(self.id)} must be 1 to 255 characters of a-z A-Z 0-9 . - _"
            )
        if not self.selectors:
            raise InvalidInput(
                f"registration entry for {self.spiffe_id}: has no selector",
                hint="name at least one, such as unix:uid:1000",
            )
        _check_count("selectors", len(self.selectors), MAX_SELECTORS)
        _check_count("DNS names", len(self.dns_names), MAX_DNS_NAMES)
        _check_count("federated trust domains", len(self.federates_with), MAX_FEDERATES_WITH)
        hint_bytes = len(self.hint.encode(errors="surrogatepass"))
        if hint_bytes > MAX_HINT_BYTES:
            raise InvalidInput(f"registration entry: hint of {hint_bytes} bytes, {MAX_HINT_BYTES} allowed")
        for dns_name in self.dns_names:
            check_dns_name(dns_name)
        if self.store_svid and len({selector.type for selector in self.selectors}) > 1:
            raise InvalidInput("registration entry: with store_svid all selectors must have the same type")
        if self.store_svid and self.disable_x509_svid_prefetch:
            raise InvalidInput(
                "registration entry: store_svid and disable_x509_svid_prefetch exclude each other"
            )
        for name in ("x509_svid_ttl_seconds", "jwt_svid_ttl_seconds"):
            if not 0 <= getattr(self, name) <= MAX_TTL_SECONDS:
                raise InvalidInput(
                    f"registration entry: {name} is {getattr(self, name)}, expected 0 to {MAX_TTL_SECONDS}"
                )
        if self.expires_at < 0:
            raise InvalidInput(
                f"registration entry: expires_at is {self.expires_at}, expected Unix seconds or 0"
            )


def check_member(spiffe_id: SpiffeId, trust_domain: TrustDomain, what: str) -> None:
    """Raises InvalidInput, beginning with `what`, unless it is an identity of this trust domain."""
    if spiffe_id.trust_domain != trust_domain:
        raise InvalidInput(f"{what} {spiffe_id} is not a member of trust domain {trust_domain}")
    if not spiffe_id.has_path:
        raise InvalidInput(f"{what} {spiffe_id} has no path")


def check_unreserved(spiffe_id: SpiffeId, what: str) -> None:
    """Raises InvalidInput, beginning with `what`, for an identity that only a server or an agent may have."""
    if spiffe_id.is_reserved:
        raise InvalidInput(
            f"{what} {spiffe_id} is in the reserved namespace /spire",
            hint="only servers and agents live there; choose another path for the workload",
        )


def default_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sorts entries so that the default identity comes first: highest priority, then oldest, then ID.

    IDs that the registry gives grow with age, which puts entries of one second in order. SPIRE takes the
    lowest ID, which is a random number: a known complaint (spiffe/spire 744).
    """
    return sorted(entries, key=lambda entry: (-entry.priority, entry.created_at, entry.id))


_PLAIN_FIELDS: Final[dict[str, type]] = {
    "x509_svid_ttl_seconds": int,
    "jwt_svid_ttl_seconds": int,
    "hint": str,
    "admin": bool,
    "downstream": bool,
    "store_svid": bool,
    "expires_at": int,
    "priority": int,
    "disable_x509_svid_prefetch": bool,
    "jwt_svid_include_jti": bool,
    "revision": int,
    "created_at": int,
}


def _check_count(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidInput(f"registration entry: {count} {what}, {limit} allowed")
