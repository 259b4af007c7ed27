"""How evenly 500,000 SVIDs that were attested in the same minute are renewed, in simulated time.

Ours renews each certificate at the instant that its ID and serial determine (15 to 22 % of its life), with
the very functions that agents and servers use. The peer is SPIRE's rule for the same certificates: every five
seconds draw a threshold anew, evenly from half of the life ± 10 % of that half, and renew when the age is
past it; the earliest lucky draw wins, so the renewals crowd at the opening of the band. Its times are drawn
from the distribution that this rule has, one draw for each certificate.

What is counted are signings a minute, the attestation itself aside: the peak minute of a day, and the mean of
the same day.
"""

import math
import multiprocessing
import os
import random
from typing import Final

from bench.report import Result, command_line, tell
from control_plane.core.lifetime import leaf_window, renewal_instant
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

SVIDS: Final = 500_000
DAYS: Final = 5
DAY_MINUTES: Final = 24 * 60
TTL_SECONDS: Final = 24 * 3600
START: Final = 1_800_000_000
FIRST_DAY_GOAL: Final = 2.8
FOURTH_DAY_GOAL: Final = 1.2
SPIRE_CHECK_SECONDS: Final = 5

DOMAIN = TrustDomain("bench.test")


def main() -> None:
    """Prints one line for the first day and one for the worst day from the fourth on."""
    command_line(__doc__).parse_args()
    workers = min(os.cpu_count() or 1, 8)
    shares = [(worker, SVIDS // workers + (worker < SVIDS % workers)) for worker in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        ours = [sum(minutes) for minutes in zip(*pool.map(_ours, shares), strict=True)]
        theirs = [sum(minutes) for minutes in zip(*pool.map(_spire, shares), strict=True)]
    our_days, their_days = _days(ours), _days(theirs)
    for name, chosen, goal in (
        ("first day", slice(0, 1), FIRST_DAY_GOAL),
        ("from the fourth day", slice(3, DAYS), FOURTH_DAY_GOAL),
    ):
        mine = max(our_days[chosen], key=_ratio)
        spire = max(their_days[chosen], key=_ratio)
        tell(
            Result(
                f"peak to mean of signings a minute, {SVIDS:,} SVIDs attested together, {name}",
                f"{mine[0]:,} to {mine[1]:,.0f}",
                f"SPIRE's rule with {_ratio(spire):.1f} ({spire[0]:,} to {spire[1]:,.0f})",
                _ratio(mine),
                goal,
            )
        )


def _ours(share: tuple[int, int]) -> list[int]:
    worker, count = share
    chance = random.Random(worker)
    minutes = [0] * (DAYS * DAY_MINUTES)
    end = START + DAYS * 86400
    far = START + 10**9
    for number in range(count):
        spiffe_id = SpiffeId.of(DOMAIN, f"{worker}-{number}")
        now = START + chance.randrange(60)
        while True:
            serial = chance.getrandbits(128)
            window = leaf_window(spiffe_id, serial, now, TTL_SECONDS, issuer_not_after=far)
            now = renewal_instant(spiffe_id, serial, window.not_before, window.not_after)
            if now >= end:
                break
            minutes[(now - START) // 60] += 1
    return minutes


def _spire(share: tuple[int, int]) -> list[int]:
    """With t seconds since the band opened, each check renews with chance t / width. The chance to be
    spared up to t is exp(-t² / (2 · width · 5 s)), so t = sqrt(-2 · width · 5 s · ln u)."""
    worker, count = share
    chance = random.Random(worker)
    minutes = [0] * (DAYS * DAY_MINUTES)
    half = TTL_SECONDS / 2
    opens, width = 0.9 * half, 0.2 * half
    for _ in range(count):
        now = float(chance.randrange(60))
        while True:
            waited = math.sqrt(-2 * width * SPIRE_CHECK_SECONDS * math.log(1 - chance.random()))
            now += opens + min(width, waited)
            if now >= DAYS * 86400:
                break
            minutes[int(now // 60)] += 1
    return minutes


def _days(minutes: list[int]) -> list[tuple[int, float]]:
    """The peak minute and the mean minute of each day."""
    days = [minutes[day * DAY_MINUTES : (day + 1) * DAY_MINUTES] for day in range(DAYS)]
    return [(max(day), sum(day) / len(day)) for day in days]


def _ratio(day: tuple[int, float]) -> float:
    peak, mean = day
    return peak / mean


if __name__ == "__main__":
    main()
