"""What is asked of an issuer, and the orders that it becomes: validity and serial drawn, limits kept.

Nothing is signed or recorded here (`issuance`), and keys were proven before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from control_plane.authority.ports import Order, X509Signer
from control_plane.core.errors import FailedPrecondition, InvalidInput
from control_plane.core.jwt_svid import JwtRequest
from control_plane.core.lifetime import (
    DEFAULT_JWT_TTL_SECONDS,
    DEFAULT_LEAF_TTL_SECONDS,
    leaf_window,
)
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.tbs import new_serial


@dataclass(frozen=True, slots=True)
class IssuanceSettings:
    """What this issuer gives out. TTLs in seconds; longer ones are refused, never cut silently."""

    trust_domain: TrustDomain
    default_x509_ttl_seconds: int = DEFAULT_LEAF_TTL_SECONDS
    max_x509_ttl_seconds: int = DEFAULT_LEAF_TTL_SECONDS
    default_jwt_ttl_seconds: int = DEFAULT_JWT_TTL_SECONDS
    max_jwt_ttl_seconds: int = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Issue:
    """One X.509-SVID to be issued. A TTL of 0 means the default; `requested_by` is None for local calls;
    `common_name` see `SigningRequest`."""

    spiffe_id: SpiffeId
    csr: bytes = field(repr=False)
    ttl_seconds: int = 0
    dns_names: tuple[str, ...] = ()
    entry_id: str = ""
    requested_by: SpiffeId | None = None
    common_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIssue:
    """One JWT-SVID to be issued. `include_jti` gives it a random ID."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    ttl_seconds: int = 0
    entry_id: str = ""
    requested_by: SpiffeId | None = None
    include_jti: bool = False


class Orders:
    """Makes the orders of one issuer."""

    def __init__(self, settings: IssuanceSettings, random_bytes: Callable[[int], bytes]) -> None:
        self._settings = settings
        self._random_bytes = random_bytes

    def leaf(self, item: X509Issue, spki: bytes, signer: X509Signer, now: int) -> Order:
        """What `signer` is to sign. Raises FailedPrecondition (a life that doesn't fit), InvalidInput."""
        spiffe_id = item.spiffe_id
        self._check_member(spiffe_id)
        ttl = item.ttl_seconds or self._settings.default_x509_ttl_seconds
        if ttl > self._settings.max_x509_ttl_seconds:
            raise FailedPrecondition(
                f"X.509-SVID {spiffe_id}: TTL of {ttl} s, at most {self._settings.max_x509_ttl_seconds} s "
                "fit into the life of a CA",
                hint="shorten the entry's TTL, or lengthen the life of the CAs",
            )
        serial, issuer = new_serial(self._random_bytes), signer.issuer
        if signer.ends_with_issuer:
            ttl = min(ttl, issuer.not_after - now)
        window = leaf_window(
            spiffe_id,
            serial,
            now,
            ttl,
            issuer_not_after=issuer.not_after,
            issuer_not_before=issuer.not_before,
            jitter=signer.not_after_jitter,
        )
        request = SigningRequest(spiffe_id, spki, serial, window, item.dns_names, item.common_name)
        return signer.order(request, item.csr)

    def token(self, item: JwtIssue, now: int, not_after: int) -> JwtRequest:
        """The token to be signed by a key that ends at `not_after`. Raises as `leaf`."""
        self._check_member(item.spiffe_id)
        ttl = item.ttl_seconds or self._settings.default_jwt_ttl_seconds
        if not 0 < ttl <= self._settings.max_jwt_ttl_seconds or now + ttl > not_after:
            raise FailedPrecondition(
                f"JWT-SVID {item.spiffe_id}: TTL of {ttl} s, at most "
                f"{min(self._settings.max_jwt_ttl_seconds, not_after - now)} s are possible",
                hint="shorten the entry's JWT TTL",
            )
        token_id = self._random_bytes(16).hex() if item.include_jti else ""
        return JwtRequest(item.spiffe_id, item.audience, now, now + ttl, token_id)

    def _check_member(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain.name != self._settings.trust_domain.name:
            raise InvalidInput(
                f"SVID {spiffe_id}: isn't in the trust domain {self._settings.trust_domain} of this server"
            )
