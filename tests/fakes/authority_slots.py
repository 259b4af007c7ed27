"""Authorities as the state machine holds them: no keys and no certificates, only names and times."""

from __future__ import annotations

from control_plane.authority import steps
from control_plane.authority.schedule import (
    CA_BACKDATE_SECONDS,
    Lifetimes,
)
from control_plane.authority.state import (
    AuthorityState,
    IssuingCa,
    JwtSlot,
    Kind,
    Slot,
    X509Slot,
    bundle_of,
)
from control_plane.core.spiffe_id import TrustDomain

DOMAIN = TrustDomain("example.org")
NOW = 1_800_000_000
HOUR, DAY = 3600, 86400
DEFAULT = Lifetimes()


def x509_slot(number: int, now: int, lifetimes: Lifetimes = DEFAULT) -> X509Slot:
    return X509Slot(
        authority_id=f"{number:040x}",
        root=b"root %d" % number,
        root_key_id=f"root-{number}",
        not_before=now - CA_BACKDATE_SECONDS,
        not_after=now + lifetimes.root_ttl_seconds,
        issuing=issuing(number, now, lifetimes),
    )


def issuing(number: int, now: int, lifetimes: Lifetimes = DEFAULT) -> IssuingCa:
    return IssuingCa(
        b"issuing %d %d" % (number, now),
        f"issuing-{number}-{now}",
        now - CA_BACKDATE_SECONDS,
        now + lifetimes.issuing_ttl_seconds,
    )


def jwt_slot(number: int, now: int, lifetimes: Lifetimes = DEFAULT) -> JwtSlot:
    return JwtSlot(
        authority_id=f"jwt-{number}",
        public_key=b"key %d" % number,
        key_id=f"jwt-key-{number}",
        not_before=now - CA_BACKDATE_SECONDS,
        not_after=now + lifetimes.jwt_key_ttl_seconds,
    )


def slot(kind: Kind, number: int, now: int = NOW, lifetimes: Lifetimes = DEFAULT) -> Slot:
    return x509_slot(number, now, lifetimes) if kind is Kind.X509 else jwt_slot(number, now, lifetimes)


def started(kind: Kind, count: int = 1) -> AuthorityState:
    """A state with `count` authorities that were active one after another; the last one is."""
    state = AuthorityState(DOMAIN)
    for number in range(count):
        made = slot(kind, number)
        state = steps.prepare(state, made, NOW)
        state = steps.activate(state, kind, made.authority_id, NOW)
    return state


def ids(state: AuthorityState, kind: Kind) -> list[str]:
    bundle = bundle_of(state)
    if kind is Kind.X509:
        roots = {s.root: s.authority_id for s in state.x509}
        return [roots[authority.certificate] for authority in bundle.x509_authorities]
    return [authority.key_id for authority in bundle.jwt_authorities]
