"""The PKI role that our leaves are signed under: what each field is set to, and what goes wrong otherwise.

Writing a role replaces it as a whole, and Vault's defaults are made for web servers, so every field that
could widen an identity is named here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import shown
from control_plane.core.spiffe_id import TrustDomain

BACKDATE_SECONDS: Final = 120
ORGANIZATION: Final = "Gatehouse"

# Lists whose order means nothing.
_SETS: Final = {"allowed_uri_sans", "allowed_domains", "key_usage", "ext_key_usage", "organization"}
# Fields that only some versions have: missing is as good as what we want.
_OPTIONAL: Final = frozenset({"allow_wildcard_certificates", "not_after", "cn_validations"})


@dataclass(frozen=True, slots=True)
class RoleFault:
    """One field of a role that isn't as it must be."""

    name: str
    found: object
    expected: object
    why: str
    is_dangerous: bool

    def __str__(self) -> str:
        return f"{self.name} is {shown(self.found)}, expected {shown(self.expected)}: {self.why}"


def role_fields(
    trust_domain: TrustDomain, *, ttl_seconds: int, dns_domains: Sequence[str] = ()
) -> dict[str, object]:
    """All fields of the role; `dns_domains` are those below which registration entries may name DNS names."""
    return {name: value for name, value, _, _ in _wanted(trust_domain, ttl_seconds, dns_domains)}


def role_faults(
    found: Mapping[str, object],
    trust_domain: TrustDomain,
    *,
    ttl_seconds: int,
    dns_domains: Sequence[str] | None = None,
) -> list[RoleFault]:
    """What of a role isn't as it must be. Without `dns_domains` those of the role are taken as wanted."""
    given = found.get("allowed_domains")
    if dns_domains is None:
        dns_domains = [str(each) for each in given] if isinstance(given, list) else []
    faults = []
    for name, expected, is_dangerous, why in _wanted(trust_domain, ttl_seconds, dns_domains):
        value = found.get(name)
        if value is None and (name in _OPTIONAL or not expected):
            continue
        if not _agrees(name, value, expected):
            faults.append(RoleFault(name, value, expected, why, is_dangerous))
    return faults


def _agrees(name: str, value: object, expected: object) -> bool:
    if name in _SETS and isinstance(value, list) and isinstance(expected, list):
        return sorted(map(str, value)) == sorted(map(str, expected))
    if name == "max_ttl":
        # 0 is the mount's own maximum, which may be enough: the test leaf shows it.
        return isinstance(value, int) and isinstance(expected, int) and (value == 0 or value >= expected)
    if name == "not_before_duration":
        return isinstance(value, int) and isinstance(expected, int) and value >= expected
    if name == "ttl":
        return True
    return value == expected


def _wanted(
    trust_domain: TrustDomain, ttl_seconds: int, dns_domains: Sequence[str]
) -> list[tuple[str, object, bool, str]]:
    """Name, value, whether another value would widen identities, and why."""
    has_dns = bool(dns_domains)
    names = "names come from us, field by field, and from nowhere else"
    return [
        ("allowed_uri_sans", [f"spiffe://{trust_domain.name}/*"], True, "IDs of this trust domain alone"),
        ("allowed_domains", list(dns_domains), True, "DNS names below these alone"),
        ("allow_subdomains", has_dns, True, names),
        ("allow_bare_domains", has_dns, True, names),
        ("allow_any_name", False, True, names),
        ("allow_glob_domains", False, True, names),
        ("allow_wildcard_certificates", False, True, names),
        ("allow_ip_sans", False, True, names),
        ("allow_localhost", False, True, names),
        ("allowed_other_sans", [], True, names),
        ("allow_token_displayname", False, True, names),
        ("enforce_hostnames", True, True, names),
        ("use_csr_common_name", False, True, "names of the CSR are whatever its sender likes"),
        ("use_csr_sans", False, True, "names of the CSR are whatever its sender likes"),
        ("require_cn", False, False, "an SVID has no common name"),
        ("organization", [ORGANIZATION], False, "the subject that all our leaves have"),
        ("key_type", "any", False, "workloads bring P-256, P-384, RSA or Ed25519 keys; we check them"),
        ("key_usage", ["DigitalSignature"], True, "X509-SVID.md section 4.3"),
        ("ext_key_usage", [], True, "server and client authentication, which the two flags give"),
        ("server_flag", True, False, "workloads are servers"),
        ("client_flag", True, False, "and clients"),
        ("code_signing_flag", False, True, "a workload's certificate signs no code"),
        ("email_protection_flag", False, True, "a workload's certificate signs no mail"),
        ("basic_constraints_valid_for_non_ca", True, False, "each leaf says that it is no CA"),
        ("no_store", True, False, "100,000 stored certificates make Vault slow; our ledger has them"),
        ("generate_lease", False, False, "a lease per certificate makes Vault slow"),
        ("max_ttl", ttl_seconds, False, "shorter ones would be cut without a word"),
        ("ttl", ttl_seconds, False, "what is asked for each time"),
        ("not_before_duration", BACKDATE_SECONDS, False, "for verifiers whose clock is late"),
    ]
