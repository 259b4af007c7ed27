"""What the Vault authority needs from a Vault: a PKI mount that signs for us, as values and one Protocol.

`clients/vault` talks to the real server. Everything here is DER; nothing that a Vault answers is trusted
before `vault_chain` and `vault_leaf` have looked at it, so a port hands on what came, in whatever order.
"""

import enum
from dataclasses import dataclass, field
from typing import Protocol

from control_plane.core.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True)
class VaultIssuer:
    """An issuer of the PKI mount: what would sign now.

    `issuer_id` is Vault's UUID, empty where the server has none. `chain` leads from `certificate` (first) to
    the root (last), ordered by signature and without duplicates.
    """

    issuer_id: str
    certificate: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)


class VaultHealth(enum.StrEnum):
    """What `sys/health` says, by its status code."""

    ACTIVE = "active"  # 200
    STANDBY = "standby"  # 429
    RECOVERY = "recovery"  # 472: a secondary for disaster recovery
    PERFORMANCE_STANDBY = "performance-standby"  # 473
    NOT_INITIALISED = "not-initialised"  # 501
    SEALED = "sealed"  # 503
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class LeafOrder:
    """One leaf that Vault is asked for: the CSR (DER), and what its certificate has to say.

    `issuer_id` names the issuer that has to sign, whatever the mount's default has become meanwhile; empty
    where the server has no names for issuers.
    """

    csr: bytes = field(repr=False)
    spiffe_id: SpiffeId
    dns_names: tuple[str, ...]
    ttl_seconds: int
    issuer_id: str = ""


class VaultPki(Protocol):
    """One PKI mount of one Vault, with one role.

    No call blocks the event loop, each is bounded in time and in the size of the answer, and may be repeated:
    nothing is stored in Vault by signing. All raise Unavailable (sealed, unreachable, too slow, an answer cut
    short or no JSON, the breaker is open), PermissionDenied (still refused after a fresh login),
    FailedPrecondition (mount, role or issuer missing or not as needed; says which, and the command to run)
    or PeerMisbehaved (an answer that breaks Vault's own contract).
    """

    async def issuer(self) -> VaultIssuer:
        """The issuer that signs now: the configured one, else the mount's default."""

    async def sign_intermediate(
        self,
        csr: bytes,
        *,
        common_name: str,
        ttl_seconds: int,
        uri_host: str,
        backdate_seconds: int,
        issuer_id: str = "",
    ) -> tuple[bytes, ...]:
        """Has a CA below the issuer of that ID signed, with path length 0; `uri_host` is the only host that
        URIs below it may have, empty for no constraint. The certificate first, then its issuers as they came.
        """

    async def sign_leaf(self, order: LeafOrder) -> tuple[bytes, ...]:
        """Has one leaf signed under the role: the leaf first, then its issuers as they came."""

    async def health(self) -> VaultHealth:
        """How the server says it is. Never raises Unavailable: that is UNREACHABLE."""

    async def revoke(self, serial: int) -> None:
        """Revokes a certificate that the mount knows. Idempotent."""

    async def rotate_crl(self) -> None:
        """Has the mount write its revocation list anew."""
