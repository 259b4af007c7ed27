"""Who may do what: every route by every role, tokens that don't hold, root and the broken glass."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from control_plane.api.rest.gate import RULES
from control_plane.api.rest.roles import Roles
from control_plane.core.access import Grant, Role, Subject, SubjectKind
from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

TD = TrustDomain("example.org")
PEOPLE = {
    **{"viewer": "vera", "auditor": "audrey", "author": "ada", "approver": "grace", "operator": "olga"},
    "sensor": "sam",
}
READERS = frozenset(PEOPLE) - {"sensor"}
TABLE: dict[str, frozenset[str]] = {
    "status.read": READERS,
    "authority.read": READERS,
    "policy.read": READERS,
    "explain": READERS,
    "ledger.read": frozenset({"auditor"}),
    "authority.rotate": frozenset({"operator"}),
    "policy.propose": frozenset({"author"}),
    "policy.plan": frozenset({"author"}),
    "policy.withdraw": frozenset({"author"}),
    "policy.approve": frozenset({"approver"}),
    "policy.reject": frozenset({"approver"}),
    "policy.apply": frozenset({"operator"}),
    "policy.rollback": frozenset({"operator"}),
    "quarantine.set": frozenset({"operator"}),
    "alert.report": frozenset({"sensor"}),
    "quarantine.release": frozenset({"operator"}),
}
"""Written out a second time: action → the roles that permit it."""
BODIES: dict[str, Any] = {
    "POST /v1/explain": {"selectors": ["unix:uid:1"]},
    "POST /v1/policy/versions": {"files": {"a.rego": "package a"}, "inventory": "", "reason": "r"},
    "POST /v1/policy/rollback": {"reason": "r"},
    "POST /v1/quarantine": {"spiffe_id": "spiffe://example.org/x", "reason": "r"},
    "POST /v1/quarantine/release": {"spiffe_id": "spiffe://example.org/x", "reason": "r"},
}
HALF = rb'{"iss": "https://login.test", "aud": "gatehouse", "sub": "ada\ud800", "exp": 4000000000}'
"""The claims of somebody whose name ends in half a character."""
QUERIES = {"GET /v1/events": "?for_seconds=0"}


def test_every_route_by_every_role(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        pushed = await api.call("POST", "/v1/policy/versions", BODIES["POST /v1/policy/versions"], by="ada")
        assert pushed.status == 201 and pushed.body["state"] == "refused"
        for (method, path), rule in RULES.items():
            named = {"authority_id": "x"} if path.startswith("/v1/authority/") else {}
            body = BODIES.get(f"{method} {path}", {"reason": "r", **named})
            there = path.format(kind="x509", number=1, record_id="0-1") + QUERIES.get(f"{method} {path}", "")
            for role, name in PEOPLE.items():
                reply = await api.call(method, there, None if method == "GET" else body, by=name)
                let_in = reply.status not in (401, 403)
                assert let_in is (role in TABLE[rule.action]), (method, path, role, reply)
            assert (await api.call(method, there, body, by="nobody")).status == 403, (method, path)

    rest(scenario)


def test_every_route_of_the_document_has_a_rule(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        document = (await api.call("GET", "/v1/openapi.json")).body
        assert document["openapi"].startswith("3.1")
        routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        assert routes == set(RULES)

    rest(scenario)


def test_a_route_without_a_rule_answers_nobody(monkeypatch: pytest.MonkeyPatch, rest: Any) -> None:
    from control_plane.api.rest import gate

    forgotten = {key: rule for key, rule in RULES.items() if key != ("GET", "/v1/health")}
    monkeypatch.setattr(gate, "RULES", forgotten)

    async def scenario(api: Any) -> None:
        assert (await api.call("GET", "/v1/health")).status == 403
        assert (await api.call("GET", "/v1/policy/status")).status == 200

    rest(scenario)


def test_tokens_that_do_not_hold_are_nobody(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        stranger = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
        unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
        claims = base64.urlsafe_b64encode(
            json.dumps({"iss": "https://login.test", "aud": "gatehouse", "sub": "ada", "exp": 4e9}).encode()
        )
        bad = [
            api.token("ada", key=stranger),
            api.token("ada", exp=1_000),
            api.token("ada", exp=None),
            api.token("ada", aud="other"),
            api.token("ada", iss="https://evil.test"),
            api.token("ada", nbf=3_999_999_999),
            api.token(""),
            api.token("a da"),
            unsigned + "." + claims.rstrip(b"=").decode() + ".",
            jws.serialize_compact({"alg": "ES256", "kid": "one"}, HALF, api.key),
            *(_with_header(api.token("ada"), crit=value) for value in (None, 1, True, ["b64"], "exp")),
            "x",
            "x.y.z",
            "a" * 20_000,
            api.token("ada")[:-3],
        ]
        for token in bad:
            reply = await api.call("GET", "/v1/health", token=token)
            assert reply.status in (401, 431, 400), (token[:40], reply)
            assert reply.status != 401 or reply.headers["www-authenticate"] == "Bearer"
        assert (await api.call("GET", "/v1/health", authorization="Basic YTpi")).status == 401
        assert (await api.call("GET", "/v1/health", token=api.token("ada"))).status == 200

    rest(scenario)


def _with_header(token: str, **members: object) -> str:
    """The token with other members in its header, which nobody has signed."""
    head, rest = token.split(".", 1)
    header = {**json.loads(base64.urlsafe_b64decode(head + "==")), **members}
    return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode() + "." + rest


def test_the_local_peer_is_its_user_and_has_what_the_settings_say(rest: Any) -> None:
    async def administrators(api: Any) -> None:
        body = {"spiffe_id": "spiffe://example.org/x", "reason": "r"}
        assert (await api.call("POST", "/v1/quarantine", body)).status == 200
        [member] = (await api.call("GET", "/v1/quarantine")).body["quarantined"]
        assert member["by"].startswith("local:")

    rest(administrators)


def test_without_local_administrators_root_has_to_break_the_glass(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        assert (await api.call("GET", "/v1/health")).status == 403
        glass = await api.call("POST", "/v1/policy/keys", {"reason": "lost"}, gatehouse_break_glass="1")
        if os.getuid() != 0:
            assert glass.status == 403
            return
        assert glass.status == 201
        records = (await api.call("GET", "/v1/ledger?kind=change", by="audrey")).body["records"]
        assert json.loads(records[0]["detail"])["break_glass"] is True, "it is on record"
        assert (await api.call("GET", "/v1/health", by="nobody", gatehouse_break_glass="1")).status == 403

    rest(scenario, local=False)


def test_a_narrow_operator_cuts_off_below_its_scope_only(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        for spiffe_id, status in (
            ("spiffe://example.org/ns/shop/sa/web", 200),
            ("spiffe://example.org/ns/shopping/sa/web", 403),
            ("spiffe://example.org/ns/lab/sa/web", 403),
            ("spiffe://other.org/ns/shop/sa/web", 403),
        ):
            body = {"spiffe_id": spiffe_id, "reason": "r"}
            assert (await api.call("POST", "/v1/quarantine", body, by="narrow")).status == status, spiffe_id
        assert (await api.call("POST", "/v1/policy/rollback", {"reason": "r"}, by="narrow")).status == 403

    rest(scenario)


def test_grants_are_read_strictly() -> None:
    assert Grant.parse("login:ada author", TD) == Grant("login:ada", Role.AUTHOR, "spiffe://example.org")
    narrow = Grant.parse("login:ada operator spiffe://example.org/ns/shop/", TD)
    assert narrow.scope == "spiffe://example.org/ns/shop"
    for bad in ("", "ada", "ada owner", "ada author spiffe://other.org/x", "ada author x y", "ada author ns"):
        with pytest.raises(InvalidInput):
            Grant.parse(bad, TD)


def test_root_is_root_only_when_it_says_so() -> None:
    roles = Roles(TD, [], [])
    root = Subject("local:root", SubjectKind.LOCAL, 0)
    assert not roles.decide(root, "policy.approve", author="local:root").allowed
    assert roles.decide(root, "policy.approve", author="local:root", break_glass=True).allowed
    verdict = roles.decide(root, "quarantine.set", spiffe_id=SpiffeId(TD, "/x"))
    assert verdict.reasons == (
        "local:root has no role that permits quarantine.set on spiffe://example.org/x",
    )
