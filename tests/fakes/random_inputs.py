"""Random inputs for the tests of the evaluators: JSON texts, and the requests that formulas are evaluated on.

Each attribute is as often absent as present, whole roots included. Constants are those of the fragments.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.formula import Attribute, Request, Value, claim, header, label
from policies.language.serial import parse_json
from policies.language.values import Object

DESTINATION = {"namespace": "shop", "service": "payments", "labels": {"tier": "app", "env": "prod"}}
DATA = {
    "roles": {"frontend": ["read"], "batch": ["read", "write"], "old": []},
    "owners": {"shop": "ada", "lab": "grace"},
    "networks": ["10.0.0.0/8", "192.168.1.0/24"],
    "edges": [{"from": "frontend", "to": "payments"}, {"from": "batch", "to": "ledger"}],
    "names": ["shop", "lab"],
    "label": "tier",
    "routes": [
        {
            "from": f"s{n}" if n % 9 else "frontend",
            "to": "payments" if n % 6 else "ledger",
            "also": ["payments", f"s{n}"] if n % 5 else [],
            "at": {"namespace": "shop" if n % 4 else "lab", "method": "GET" if n % 8 else "POST"},
        }
        for n in range(40)
    ],
}
PATH = Attribute("request.path")
METHOD = Attribute("request.method")
ACCOUNT = Attribute("source.service_account")
NAMESPACE = Attribute("source.namespace")
PORT = Attribute("destination.port")
IP = Attribute("source.ip")
HOST = Attribute("request.host")
MTLS = Attribute("connection.mtls")
TEAM = header("x-team")
TIER = label("tier")
ROLE = claim("role")
GROUPS = claim("groups")
KIND = claim("realm", "kind")

VALUES: dict[Attribute, tuple[Value, ...]] = {
    PATH: ("/a", "/a/", "/a/b", "/a/b/c", "/admin", "", "/A", "/a/x/c", "/a/c"),
    METHOD: ("GET", "POST", "get"),
    ACCOUNT: ("frontend", "batch", "old", "other", ""),
    NAMESPACE: ("shop", "lab", "shopx"),
    PORT: (80, 79, 81, 8080, 443),
    IP: ("10.1.2.3", "192.168.1.9", "172.16.0.1", "::ffff:10.0.0.1", "2001:db8::1"),
    HOST: ("shop.example", "example", "a.shop.example"),
    MTLS: (True, False),
    TEAM: ("x", "evil", "", "shop"),
    TIER: ("app", "web", "data"),
    ROLE: ("admin", "user", ("admin",), False, 5),
    KIND: ("x", "y"),
    GROUPS: (("admin", "ops"), (), ("dev",), "admin"),
}

# Anything at all in any place; only for inputs that no formula is asked about.
ODD_VALUES: dict[Attribute, tuple[Any, ...]] = {
    attribute: (
        *values,
        *values,
        *values,
        5,
        -1,
        80.5,
        1e20,
        None,
        False,
        True,
        "",
        (),
        ("a",),
        ((1, None),),
        {},
        {"b": "a"},
    )
    for attribute, values in VALUES.items()
}

# What the policies that ship ask about.
STARTER_VALUES: dict[Attribute, tuple[Value, ...]] = {
    Attribute("source.spiffe_id"): (
        "spiffe://gatehouse.test/ns/shop/sa/frontend",
        "spiffe://gatehouse.test/ns/shop/sa/payments",
        "spiffe://gatehouse.test/ns/shop/sa/payment",
        "spiffe://other.test/ns/shop/sa/payments",
    ),
    Attribute("source.trust_domain"): ("gatehouse.test", "other.test", "Gatehouse.test"),
    label("env"): ("prod", "dev", "PROD"),
    label("tier"): ("edge", "web", "app", "data", "none"),
    label("data-class"): ("pci", "internal", ""),
    METHOD: ("GET", "HEAD", "POST", "PUT", "get"),
    PATH: (
        "/v1/charges", "/v1/charges/refund", "/v1/charge", "/v1/charges/refunds/1", "/v1/charges/1", "",
        "/shop.payments.v1.Payments/Watch", "/shop.payments.v1.Payments/watch",
    ),
    PORT: (5432, 5431, 80, 8080, 9090),
    TEAM: ("x",),
    MTLS: (True, False),
}  # fmt: skip

# Each is one line of a body; the first group gives a variable that later lines may use.

ROOTS = frozenset(
    {
        ("source",),
        ("source", "labels"),
        ("request",),
        ("request", "headers"),
        ("jwt",),
        ("jwt", "claims"),
        ("connection",),
    }
)
"""The inner parts of the input that a whole input has."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input: its JSON text, the same as a value, and as the request that formulas speak of."""

    text: str
    document: Object
    request: Request

    @staticmethod
    def of(request: Request, known: Mapping[str, object], randomness: random.Random, *, whole: bool) -> Case:
        """`known` is what every input has; `whole` puts every root there, empty where nothing is in it."""
        made: dict[str, object] = {}
        empty: dict[str, object] = {"source": {"labels": {}}, "request": {"headers": {}}}
        empty |= {"jwt": {"claims": {}}, "connection": {}}
        for part in (empty if whole else {}, known, request.document()):
            _lay_over(made, part)
        text = re.sub(
            r'("port": )(\d+)(?=[,}])',
            lambda found: found[1] + _spelled(int(found[2]), randomness),
            json.dumps(made),
        )
        document = parse_json(text)
        assert isinstance(document, Object)
        return Case(text, document, request)


def _lay_over(below: dict[str, object], above: Mapping[str, object]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping):
            inner = below[key] = dict(below.get(key, {}))  # type: ignore[call-overload]  # a mapping, or missing
            _lay_over(inner, value)
        else:
            below[key] = value


def _spelled(number: int, randomness: random.Random) -> str:
    """A number as JSON may write it."""
    return randomness.choice((f"{number}", f"{number}", f"{number}.0", f"{number / 100:.2f}e2"))


def requests(
    randomness: random.Random, count: int, values: Mapping[Attribute, tuple[Value, ...]] = VALUES
) -> Iterator[Request]:
    """Requests with each attribute as often absent as present, now and then a whole root absent."""
    yield Request.of({})
    for _ in range(count - 1):
        missing = {name for name in ("source", "request", "jwt", "connection") if randomness.random() < 0.15}
        yield Request.of(
            {
                attribute: randomness.choice(choices)
                for attribute, choices in values.items()
                if attribute.name.partition(".")[0] not in missing and randomness.random() < 0.55
            }
        )


def cases(
    randomness: random.Random,
    count: int,
    *,
    whole: bool,
    known: Mapping[str, object] | None = None,
    values: Mapping[Attribute, tuple[Value, ...]] = VALUES,
) -> list[Case]:
    known = {"destination": DESTINATION} if known is None else known
    return [
        Case.of(request, known, randomness, whole=whole) for request in requests(randomness, count, values)
    ]
