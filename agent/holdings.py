"""The values that the agent's parts hand each other: held SVIDs, what a workload may have, what is due.

Only values and the questions that can be answered from them alone; `identities` moves between them.
"""

from dataclasses import dataclass

from cryptography import x509

from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.secret import Secret
from control_plane.core.svid import X509Svid


@dataclass(frozen=True, slots=True)
class HeldSvid:
    """An SVID with its key (PKCS#8 DER) and the instant, in Unix seconds, from which it is to be renewed."""

    svid: X509Svid
    private_key: Secret[bytes]
    renew_at: int


@dataclass(frozen=True, slots=True)
class Identity:
    """An entry that a workload matches, with the SVID that is ready for it."""

    entry: Entry
    held: HeldSvid


@dataclass(frozen=True, slots=True)
class View:
    """What a workload with certain selectors may have now.

    `entries` are all that it is entitled to, the default first; `identities` are those with a valid SVID;
    `pending` says that some SVID was never tried for yet, so that a message now would be premature.
    """

    entries: tuple[Entry, ...]
    identities: tuple[Identity, ...]
    pending: bool
    bundle: Bundle | None
    federated: tuple[Bundle, ...]
    error: str


@dataclass(frozen=True, slots=True)
class Due:
    """The decisions of one moment: entries to have signed, most urgent first; subscribers to tell."""

    sign: tuple[Entry, ...]
    notify: frozenset[int]


def issuer_key_id(svid: X509Svid) -> bytes:
    """Which key signed the leaf, as it says itself; empty if it doesn't say."""
    leaf = x509.load_der_x509_certificate(svid.chain[0])
    try:
        found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return b""
    return found.key_identifier or b""


def tainted_ids(bundle: Bundle) -> frozenset[str]:
    """Key identifiers of the authorities that the bundle marks as tainted."""
    return frozenset(authority.subject_key_id for authority in bundle.x509_authorities if authority.tainted)


def compromised(before: Bundle | None, after: Bundle) -> frozenset[str]:
    """Key identifiers of authorities whose SVIDs must be replaced: tainted, or in the bundle no longer.

    An authority that was never in a bundle that we saw isn't counted: a new one may sign before its bundle
    has reached us.
    """
    if before is None:
        return tainted_ids(after)
    known = {authority.subject_key_id for authority in before.x509_authorities}
    return tainted_ids(after) | (known - {authority.subject_key_id for authority in after.x509_authorities})


def certificate_fields(entry: Entry) -> tuple[object, ...]:
    """The fields that an entry's certificate depends on; others may change without a new signature."""
    return entry.spiffe_id, entry.dns_names, entry.x509_svid_ttl_seconds
