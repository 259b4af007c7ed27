"""How long things live and when they are renewed: the arithmetic behind the promise of 18 hours.

One number between 0 and 1 is drawn for each certificate, by a hash of its SPIFFE ID and serial: the same for
everybody who asks, and independent between certificates. (Drawing anew at each look, as others do, makes the
earliest draw win and the spread collapse.) It decides two things. At 0 the NotAfter is 4 % early and the
renewal at 15 % of the life; at 1 the life is whole and the renewal at 22 % of it. In between both grow, so
that certificates signed together are renewed evenly from 0.15 × 0.96 to 0.22 of their TTL. Of 24 hours are
left at the renewal at least 24 h × 0.78 = 18.7 h.

All times are Unix seconds, all durations seconds. No clock is read here.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from control_plane.core.errors import FailedPrecondition, InvalidInput
from control_plane.core.spiffe_id import SpiffeId

BACKDATE_SECONDS: Final = 120  # tolerates clocks that are two minutes behind
DEFAULT_LEAF_TTL_SECONDS: Final = 24 * 3600
DEFAULT_JWT_TTL_SECONDS: Final = 300
MIN_LEAF_TTL_SECONDS: Final = 60
CA_TO_LEAF_FACTOR: Final = 6
STANDBY_REPLACED_AFTER_SECONDS: Final = 20 * 3600
STANDBY_BEYOND_LEAF_SECONDS: Final = (48 + 20 + 4) * 3600  # an outage, and how old it may be as that begins
RENEWAL_BAND: Final = (0.15, 0.22)
NOT_AFTER_JITTER: Final = 0.04
# Where somebody else draws the serial number, end and renewal are independent. At worst a leaf that ends
# early is renewed late: 24 h × 0.97 × (1 - 0.22) = 18.1 h are left.
FOREIGN_SERIAL_JITTER: Final = 0.03

_DRAWS = 1 << 64


@dataclass(frozen=True, slots=True)
class Window:
    """The validity of a certificate, both ends included."""

    not_before: int
    not_after: int


def leaf_window(
    spiffe_id: SpiffeId,
    serial: int,
    now: int,
    ttl_seconds: int,
    *,
    issuer_not_after: int,
    issuer_not_before: int = 0,
    jitter: float = NOT_AFTER_JITTER,
) -> Window:
    """The validity of a leaf signed at `now`: back-dated (not beyond its issuer), its end drawn up to
    4 % early.

    Raises FailedPrecondition where the issuer ends before the leaf would: a leaf is never cut short
    silently.
    """
    if ttl_seconds < MIN_LEAF_TTL_SECONDS:
        raise InvalidInput(
            f"X.509-SVID {spiffe_id}: TTL of {ttl_seconds} s, at least {MIN_LEAF_TTL_SECONDS} s are needed"
        )
    early = int(ttl_seconds * jitter * (1 - _draw(spiffe_id, serial)))
    not_after = now + ttl_seconds - early
    if not_after > issuer_not_after:
        raise FailedPrecondition(
            f"X.509-SVID {spiffe_id}: would end at {not_after} ({now} + {ttl_seconds} s - {early} s), "
            f"its issuer ends at {issuer_not_after}, {not_after - issuer_not_after} s earlier",
            hint="shorten the entry's TTL, or rotate the X.509 authority",
        )
    return Window(max(now - BACKDATE_SECONDS, issuer_not_before), not_after)


def renewal_instant(
    spiffe_id: SpiffeId,
    serial: int,
    not_before: int,
    not_after: int,
    *,
    backdate_seconds: int = BACKDATE_SECONDS,
) -> int:
    """When to renew: between 15 % and 22 % of the life, counted from the signing, not from the back-dating.

    Always after the signing and before the end, for short lives and foreign back-dating too.
    """
    signed_at = not_before + min(backdate_seconds, max(0, not_after - not_before) // 2)
    draw = _draw(spiffe_id, serial)
    low, high = RENEWAL_BAND
    earliest = low * (1 - NOT_AFTER_JITTER)
    # Evenly in shares of the TTL, which `leaf_window` made a life of: hence the division.
    share = (earliest + (high - earliest) * draw) / (1 - NOT_AFTER_JITTER * (1 - draw))
    return signed_at + max(1, int((not_after - signed_at) * share))


def early_renewal_instant(spiffe_id: SpiffeId, serial: int, now: int, within_seconds: int) -> int:
    """When to renew a certificate ahead of time, so that many are renewed evenly over a span from `now`."""
    return now + int(within_seconds * _draw(spiffe_id, serial, b"early"))


def max_leaf_ttl_seconds(ca_ttl_seconds: int) -> int:
    """The longest leaf that a CA of this life may be asked for."""
    return ca_ttl_seconds // CA_TO_LEAF_FACTOR


def standby_ttl_seconds(leaf_ttl_seconds: int) -> int:
    """How long a standby CA lives, that signs while Vault is away: 96 hours for leaves of 24."""
    return leaf_ttl_seconds + STANDBY_BEYOND_LEAF_SECONDS


def check_ca_ttl(ca_ttl_seconds: int, leaf_ttl_seconds: int) -> None:
    """Refuses settings under which a leaf could outlive its CA. Raises InvalidInput with the arithmetic."""
    needed = CA_TO_LEAF_FACTOR * leaf_ttl_seconds
    if ca_ttl_seconds < needed:
        raise InvalidInput(
            f"CA TTL of {_hours(ca_ttl_seconds)} is too short for leaves of {_hours(leaf_ttl_seconds)}: "
            f"{CA_TO_LEAF_FACTOR} × {_hours(leaf_ttl_seconds)} = {_hours(needed)} are needed, "
            f"{_hours(needed - ca_ttl_seconds)} are missing",
            hint=f"set the CA TTL to {_hours(needed)} or more, or the leaf TTL to "
            f"{_hours(max_leaf_ttl_seconds(ca_ttl_seconds))} or less",
        )


def _draw(spiffe_id: SpiffeId, serial: int, purpose: bytes = b"renewal") -> float:
    """A number in [0, 1) that everybody draws alike for one certificate; low ones are renewed early."""
    material = b"%b\x00%b\x00%x" % (purpose, str(spiffe_id).encode("ascii"), serial)
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "big") / _DRAWS


def _hours(seconds: int) -> str:
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds} s"
