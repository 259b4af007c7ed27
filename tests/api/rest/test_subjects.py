"""Who a connection shows to be: judged anew at each request. And each kind of subject at every route."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace
from typing import Any

import pytest

from control_plane.api.rest.evidence import VERIFIED_SECONDS, SvidSubjects, TlsPeer
from control_plane.api.rest.gate import RULES
from control_plane.core.access import SubjectKind
from control_plane.core.bundle import Bundle
from control_plane.core.errors import PermissionDenied, Unauthenticated
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.quarantine import Quarantine, Quarantined

TD = TrustDomain("example.org")
VERA = SpiffeId(TD, "/people/vera")
PEOPLE = {"viewer": "vera", "auditor": "audrey", "author": "ada", "approver": "grace", "operator": "olga"}


class World:
    """What the judge looks at; all of it may change between two requests."""

    def __init__(self) -> None:
        self.now = 1000
        self.known = {TD: Bundle(TD)}
        self.quarantine = Quarantine()

    def bundles(self) -> dict[TrustDomain, Bundle]:
        return self.known

    def judge(self) -> SvidSubjects:
        return SvidSubjects(self, lambda: self.quarantine, lambda: self.now)  # type: ignore[arg-type]

    def verified(self) -> TlsPeer:
        """A peer whose chain was verified just now; what it sent can't be verified again."""
        found: Any = SimpleNamespace(spiffe_id=VERA, not_after=self.now + 3600)
        return TlsPeer("127.0.0.1", (b"x",), found, self.known[TD], self.now)


def test_a_verified_peer_is_its_spiffe_id_for_a_while() -> None:
    world = World()
    peer, judge = world.verified(), world.judge()
    subject = judge.of(peer)
    assert (subject.id, subject.kind, subject.uid) == (str(VERA), SubjectKind.SVID, None)
    world.now += VERIFIED_SECONDS - 1
    assert judge.of(peer) == subject
    world.now += 1
    with pytest.raises(Unauthenticated):
        judge.of(peer)


def test_a_changed_bundle_an_older_clock_and_the_end_of_validity_are_looked_at() -> None:
    for change in ("bundle", "gone", "clock", "expiry"):
        world = World()
        peer, judge = world.verified(), world.judge()
        if change == "bundle":
            world.known = {TD: Bundle(TD, sequence=2)}
        elif change == "gone":
            world.known = {}
        elif change == "clock":
            world.now -= 5
        else:
            peer.verified = SimpleNamespace(spiffe_id=VERA, not_after=world.now)  # type: ignore[assignment]
        with pytest.raises(Unauthenticated):
            judge.of(peer)


def test_a_quarantined_peer_is_refused_at_its_next_request() -> None:
    world = World()
    peer, judge = world.verified(), world.judge()
    judge.of(peer)
    world.quarantine = Quarantine(1, {VERA: Quarantined(VERA, "left", "login:olga", 1000)})
    with pytest.raises(PermissionDenied, match="left"):
        judge.of(peer)


def test_every_route_by_every_kind_of_subject(rest: Any) -> None:
    """A role is worth the same whoever has it: by token, by certificate; the local user has what settings
    say (`test_gate`), a stranger and nobody have nothing."""

    async def scenario(api: Any) -> None:
        svids = {role: await api.mint(f"spiffe://example.org/people/{who}") for role, who in PEOPLE.items()}
        stranger = await api.mint("spiffe://example.org/people/stranger")

        def answers(connection: Any, headers: dict[str, str]) -> dict[tuple[str, str], bool]:
            """Whether each route lets this caller in; asked in a way that changes nothing."""
            found = {}
            with contextlib.closing(connection):
                for method, path in RULES:
                    there = path.format(kind="x509", number=99, record_id="0-99999")
                    there += "?for_seconds=0" if path == "/v1/events" else ""
                    body = None if method == "GET" else json.dumps({"reason": " ", "authority_id": "x"})
                    told = {**headers, "content-type": "application/json"}
                    connection.request(method, there, body, told)
                    answer = connection.getresponse()
                    answer.read()
                    found[method, path] = answer.status not in (401, 403)
            return found

        for role, who in PEOPLE.items():
            token = {"authorization": f"Bearer {api.token(who)}"}
            by_token = await asyncio.to_thread(answers, api.connect(), token)
            by_token_on_tls = await asyncio.to_thread(answers, api.connect(True), token)
            by_svid = await asyncio.to_thread(answers, api.connect(True, svids[role]), {})
            assert by_token == by_token_on_tls == by_svid, role
            assert any(by_svid.values()) and not all(by_svid.values())
        late = {key for key, rule in RULES.items() if rule.late}  # what is touched must be known first
        strange = await asyncio.to_thread(answers, api.connect(True, stranger), {})
        assert not {key for key, let_in in strange.items() if let_in and key not in late}
        nobody = await asyncio.to_thread(answers, api.connect(True), {})
        assert not any(nobody.values())

    rest(scenario)
