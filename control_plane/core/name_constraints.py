"""Name constraints of CA certificates (RFC 5280 section 4.2.1.10), for the forms that SVIDs use.

URIs and DNS names are matched, IP addresses too. For every other form the rule of the RFC applies in its
strict reading: if a CA constrains a form that we don't match and a certificate below it holds a name of
that form, the path is refused. Our reading of URIs: a constraint without a leading dot means exactly that
host, one with it means anything below; the host of a SPIFFE ID is its trust domain.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from control_plane.core.certificate import Certificate
from control_plane.core.errors import Unauthenticated, shown

# Each name is compared with each constraint; a hostile pair of certificates could hold thousands of both.
MAX_COMPARISONS: Final = 50_000


def check_names(below: Certificate, ca: Certificate) -> None:
    """Holds the names of `below` against the constraints of `ca` above it. Raises Unauthenticated."""
    constraints = ca.name_constraints
    if constraints is None:
        return
    permitted = list(constraints.permitted_subtrees or ())
    excluded = list(constraints.excluded_subtrees or ())
    names = below.names
    count = len(names.uris) + len(names.dns) + len(names.addresses) + len(names.others) + 1
    if count * (len(permitted) + len(excluded)) > MAX_COMPARISONS:
        raise Unauthenticated(f"certificate {below.title}: too many names for the constraints of {ca.title}")
    for uri in names.uris:
        rules = _of_form(x509.UniformResourceIdentifier, permitted, excluded)
        if rules.permitted or rules.excluded:
            host = _uri_host(uri, below, ca)
            allowed = [_uri_matches(host, rule.value) for rule in rules.permitted]
            _hold(uri, allowed, [_uri_matches(host, rule.value) for rule in rules.excluded], below, ca)
    for name in names.dns:
        rules = _of_form(x509.DNSName, permitted, excluded)
        allowed = [_dns_matches(name, rule.value) for rule in rules.permitted]
        _hold(name, allowed, [_dns_overlaps(name, rule.value) for rule in rules.excluded], below, ca)
    for address in names.addresses:
        rules = _of_form(x509.IPAddress, permitted, excluded)
        allowed = [_in_network(address, rule.value) for rule in rules.permitted]
        _hold(str(address), allowed, [_in_network(address, rule.value) for rule in rules.excluded], below, ca)
    _refuse_unmatched_forms(below, ca, [*permitted, *excluded])


def _hold(
    name: str, permitted: list[bool], excluded: list[bool], below: Certificate, ca: Certificate
) -> None:
    if any(excluded):
        raise Unauthenticated(f"certificate {below.title}: name {shown(name)} is excluded by CA {ca.title}")
    if permitted and not any(permitted):
        raise Unauthenticated(
            f"certificate {below.title}: name {shown(name)} is not permitted by CA {ca.title}"
        )


def _uri_host(uri: str, below: Certificate, ca: Certificate) -> str:
    scheme, colon, rest = uri.partition("://")
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0]
    host = authority.rpartition("@")[2].partition(":")[0]
    if not (scheme and colon and host) or "[" in authority:
        # The RFC says to reject what can't be compared rather than to skip it.
        raise Unauthenticated(
            f"certificate {below.title}: URI {shown(uri)} has no host to hold against the constraints "
            f"of CA {ca.title}"
        )
    return host


def _uri_matches(host: str, constraint: str) -> bool:
    host, constraint = host.lower(), constraint.lower()
    if constraint.startswith("."):
        return host.endswith(constraint) and len(host) > len(constraint)
    return host == constraint


def _dns_matches(name: str, constraint: str) -> bool:
    name, constraint = name.lower(), constraint.lower()
    if not constraint:
        return True
    return name == constraint or name.endswith("." + constraint.removeprefix("."))


def _dns_overlaps(name: str, constraint: str) -> bool:
    """For exclusions a wildcard counts as every name that it could stand for."""
    if _dns_matches(name, constraint):
        return True
    if not name.startswith("*."):
        return False
    parent, excluded = name[2:].lower(), constraint.lower().removeprefix(".")
    return excluded.endswith("." + parent) and "." not in excluded[: -len(parent) - 1]


def _in_network(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    return address.version == network.version and address in network


def _refuse_unmatched_forms(below: Certificate, ca: Certificate, constraints: list[x509.GeneralName]) -> None:
    subject = below.parsed.subject
    present = set(below.names.others)
    if subject.rdns:
        present.add("DirectoryName")
    if subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        present.add("RFC822Name")
    unmatched = present & {type(name).__name__ for name in constraints}
    if unmatched:
        raise Unauthenticated(
            f"certificate {below.title}: CA {ca.title} constrains names of the form {min(unmatched)}, "
            "which can't be judged here"
        )


@dataclass(frozen=True, slots=True)
class _Rules:
    permitted: list[x509.GeneralName]
    excluded: list[x509.GeneralName]


def _of_form(
    form: type[x509.GeneralName], permitted: list[x509.GeneralName], excluded: list[x509.GeneralName]
) -> _Rules:
    return _Rules(
        [name for name in permitted if isinstance(name, form)],
        [name for name in excluded if isinstance(name, form)],
    )
