"""What an Envoy is told: golden files of every resource, and what makes a listener drain.

`GATEHOUSE_GOLDEN=write` writes the files anew; look at the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.enforcement.ports import Enforcement, WorkloadPolicy
from agent.envoy import wire
from agent.envoy.address import Address
from agent.envoy.bootstrap import bootstrap
from agent.envoy.catalogue import Catalogue, Encoder
from agent.envoy.description import ServiceDescription
from agent.envoy.names import CLUSTER, EXTENSION, LISTENER, POLICY, QUARANTINE
from agent.envoy.resources import Situation, build
from agent.envoy.subscription import Ask
from control_plane.core.errors import Bug
from control_plane.core.spiffe_id import SpiffeId

GOLDEN = Path(__file__).parent / "golden"
PAY, WEB = SpiffeId.parse("spiffe://shop.test/pay"), SpiffeId.parse("spiffe://shop.test/web")
SERVICE = ServiceDescription.parse(
    {
        "name": "pay",
        "spiffe_id": str(PAY),
        "access_log": "/var/log/pay.log",
        "inbound": [
            {"name": "http", "listen": "0.0.0.0:8443", "upstream": "unix:/run/pay.sock", "protocol": "http"},
            {"name": "grpc", "listen": "[::1]:8444", "upstream": "127.0.0.1:8081", "protocol": "grpc"},
            {"name": "raw", "listen": "0.0.0.0:9000", "upstream": "127.0.0.1:9001", "protocol": "tcp"},
        ],
        "outbound": [
            {"name": "db", "listen": "unix:/run/db.sock", "upstream": "db.shop.test:9432",
             "spiffe_id": "spiffe://shop.test/db", "protocol": "tcp"},
            {"name": "ledger", "listen": "127.0.0.1:7000", "upstream": "10.0.0.7:8443",
             "spiffe_id": "spiffe://other.test/ledger", "protocol": "http"},
        ],
    }
)  # fmt: skip


@pytest.fixture(name="policy")
def _policy(admitting: Any) -> WorkloadPolicy:
    found: WorkloadPolicy = admitting(str(PAY), str(WEB))
    return found


def situations(policy: WorkloadPolicy) -> dict[str, Situation]:
    return {
        "no-policy": Situation(SERVICE),
        "policy": Situation(SERVICE, policy, marks={"http": "1f"}),
        "caller-cut-off": Situation(SERVICE, policy, frozenset({WEB}), delta=False),
        "service-cut-off": Situation(SERVICE, policy, frozenset({PAY})),
    }


def golden(name: str, document: object) -> None:
    path, text = GOLDEN / f"{name}.json", json.dumps(document, indent=1) + "\n"
    if os.environ.get("GATEHOUSE_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["no-policy", "policy", "caller-cut-off", "service-cut-off"])
def test_golden(policy: WorkloadPolicy, name: str) -> None:
    found = build(situations(policy)[name])
    before = {} if name == "no-policy" else build(situations(policy)["no-policy"])
    golden(
        name,
        {
            type_url: {
                "as without a policy": [
                    one for one in documents if documents[one] == before.get(type_url, {}).get(one)
                ],
                **{
                    one: document
                    for one, document in documents.items()
                    if document != before.get(type_url, {}).get(one)
                },
            }
            for type_url, documents in found.items()
        },
    )
    # Each is what its message can hold.
    assert all(wire.encode(document) for documents in found.values() for document in documents.values())


def test_a_tracer_is_all_that_is_added_where_spans_are_wanted(policy: WorkloadPolicy) -> None:
    plain, traced = (build(Situation(SERVICE, policy, traced=wanted)) for wanted in (False, True))
    assert all(wire.encode(document) for document in traced[LISTENER].values())
    tracers: list[Any] = []

    def without(part: Any) -> Any:
        if isinstance(part, dict):
            tracers.extend([part["tracing"]] if "tracing" in part else [])
            return {name: without(one) for name, one in part.items() if name != "tracing"}
        return [without(one) for one in part] if isinstance(part, list) else part

    assert without(json.loads(json.dumps(traced))) == json.loads(json.dumps(plain))
    http = [one for one in SERVICE.inbound if one.protocol.is_http]
    http_out = [one for one in SERVICE.outbound if one.protocol.is_http]
    assert len(tracers) == len(http) + len(http_out) > 2
    named = [one["provider"]["typed_config"]["service_name"] for one in tracers]
    assert set(named) == {SERVICE.name}


def test_the_golden_bootstrap() -> None:
    found = bootstrap(SERVICE, Path("/run/agent.sock"), Address.parse("unix:/run/pay.admin.sock"))
    assert found["admin"]["address"] == {"pipe": {"path": "/run/pay.admin.sock", "mode": 0o600}}
    golden("bootstrap", found)


def test_a_service_that_is_cut_off_reaches_nobody(policy: WorkloadPolicy) -> None:
    found = build(situations(policy)["service-cut-off"])
    assert list(found[LISTENER]) == list(found[CLUSTER]) == ["http", "grpc", "raw"]


def test_a_filter_without_a_place_is_not_left_out(policy: WorkloadPolicy) -> None:
    for filters in (
        ({"name": "envoy.filters.http.rbac", "typed_config": {}},),
        (*policy.http_filters, *policy.http_filters),
        policy.tcp_filters,
        ({"name": "gatehouse.allow"},),
    ):
        broken = WorkloadPolicy("n/pay", PAY, filters, ())
        with pytest.raises(Bug, match="a filter came that has no place"):
            build(Situation(SERVICE, broken))


class Book:
    """A catalogue, and which of its resources are other than at the last look."""

    def __init__(self) -> None:
        self.marks = iter("abcdefgh")
        self.catalogue = self.new()
        self.seen: dict[str, str] = {}

    def new(self) -> Catalogue:
        return Catalogue(SERVICE, Encoder(), lambda: next(self.marks), delta=True)

    def changed(self) -> set[str]:
        now = {
            f"{type_url.rpartition('.')[2]}/{name}": resource.version
            for type_url in (CLUSTER, LISTENER, EXTENSION)
            for name, resource in self.catalogue.resources(type_url).items()
        }
        found = {name for name in now.keys() | self.seen.keys() if now.get(name) != self.seen.get(name)}
        self.seen = now
        return found

    def known(self, type_url: str) -> Ask:
        versions = {name: one.version for name, one in self.catalogue.resources(type_url).items()}
        return Ask(type_url, known=versions)


def enforced(*policies: WorkloadPolicy, quarantined: frozenset[SpiffeId] = frozenset()) -> Enforcement:
    return Enforcement(
        workloads={one.spiffe_id: one for one in policies}, quarantined=quarantined, settled=True
    )


def test_a_policy_changes_the_filters_of_http_and_the_listener_of_tcp(policy: WorkloadPolicy) -> None:
    book = Book()
    assert book.changed() == set()  # nothing is told before anything is enforced
    book.catalogue.enforce(enforced())
    assert len(book.changed()) == 12
    book.catalogue.enforce(enforced(policy))
    assert book.changed() == {f"TypedExtensionConfig/{POLICY}", "Listener/raw"}
    book.catalogue.enforce(enforced(policy))
    assert book.changed() == set()


def test_a_service_that_comes_into_quarantine_drains_and_others_do_not(policy: WorkloadPolicy) -> None:
    book = Book()
    book.catalogue.enforce(enforced(policy))
    book.changed()
    told = {f"TypedExtensionConfig/{QUARANTINE}", "Listener/raw"}
    book.catalogue.enforce(enforced(policy, quarantined=frozenset({WEB})))
    assert book.changed() == told
    book.catalogue.enforce(enforced(policy, quarantined=frozenset({WEB, PAY})))
    outbound = {f"{kind}/{name}" for kind in ("Listener", "Cluster") for name in ("db", "ledger")}
    assert book.changed() == told | outbound | {"Listener/http", "Listener/grpc"}
    book.catalogue.enforce(enforced(policy))
    assert book.changed() == told | outbound


def test_an_envoy_that_comes_back_is_not_drained_again(policy: WorkloadPolicy) -> None:
    book = Book()
    book.catalogue.enforce(enforced(policy))
    book.catalogue.drain("http")
    assert "Listener/http" in book.changed()
    known = [book.known(type_url) for type_url in (CLUSTER, LISTENER, EXTENSION)]
    book.catalogue = book.new()
    for ask in known:
        book.catalogue.resume(ask)
    book.catalogue.enforce(enforced(policy))
    assert book.changed() == set()


def test_what_an_envoy_brings_can_not_be_more_than_a_mark(policy: WorkloadPolicy) -> None:
    book = Book()
    brought = {"http": "0123456789abcdef." + "x" * 10_000, "grpc": "nonsense", "raw": "0123456789abcdef.a"}
    book.catalogue.resume(Ask(LISTENER, known=brought))
    book.catalogue.enforce(enforced(policy))
    assert all("." not in one.version for one in book.catalogue.resources(LISTENER).values())


def test_encoding_leaves_its_document_as_it_was(policy: WorkloadPolicy) -> None:
    """Documents share their constant parts, and goldens and digests are made of them."""
    found = build(situations(policy)["policy"])
    before = json.dumps(found)
    for resources in found.values():
        for document in resources.values():
            wire.encode(document)
    assert json.dumps(found) == before
