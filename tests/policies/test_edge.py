"""What a node compiles: both layers of each workload that runs there, proved, refused as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import FailedPrecondition
from policies.edge import EdgePolicy, edge_policies
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document, parse_inventory
from policies.project import Project

ROOT = Path(__file__).parents[2]
SHOP = "spiffe://gatehouse.test/ns/shop/sa/"


def starter() -> Project:
    folders = (ROOT / "rego/lib", ROOT / "rego/starter")
    return Project.of({path.name: path.read_text() for each in folders for path in each.rglob("*.rego")})


def demo() -> Inventory:
    return parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())


def rules(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = one["typed_config"]["rules"]
    return found


def test_each_layer_has_its_own_chain_and_names() -> None:
    (payments,) = edge_policies(starter(), demo(), {SHOP + "payments"})
    assert (payments.workload, payments.spiffe_id) == ("shop/payments", SHOP + "payments")
    chain = [(one["name"], rules(one)["action"], sorted(rules(one)["policies"])) for one in payments.http]
    assert chain == [
        ("gatehouse.deny", "DENY", ["authz-http-deny-0000", "segmentation-http-deny-0000"]),
        ("gatehouse.segmentation", "ALLOW", ["segmentation-http-allow-0000"]),
        ("gatehouse.allow", "ALLOW", ["authz-http-allow-0000"]),
    ]
    assert payments.lines["authz-http-deny-0000"] == ("authz.rego:56",)
    assert payments.narrower == ()


def test_only_what_is_asked_for_is_compiled_and_strangers_are_left_out() -> None:
    found = edge_policies(starter(), demo(), {SHOP + "card-db", "spiffe://gatehouse.test/unknown"})
    assert [one.workload for one in found] == ["shop/card-db"]
    assert edge_policies(starter(), demo(), set()) == ()


def test_every_chain_of_the_starter_policy_ends_in_an_allow() -> None:
    for one in edge_policies(starter(), demo(), demo().identities):
        for chain in (one.http, one.tcp):
            assert chain
            assert rules(chain[-1])["action"] == "ALLOW"


def test_where_no_package_asks_nothing_is_allowed() -> None:
    policy = Project.of({"p.rego": "package gatehouse.quotas\n\nallow := true\n"})
    (found,) = edge_policies(policy, demo(), {SHOP + "payments"})
    assert [rules(one) for one in (*found.http, *found.tcp)] == [{"action": "ALLOW", "policies": {}}] * 2


def test_segmentation_alone_decides_where_authorization_is_not_asked() -> None:
    policy = Project.of(
        {"p.rego": "package gatehouse.segmentation\n\nallow if input.destination.port == 8080\n"}
    )
    (found,) = edge_policies(policy, demo(), {SHOP + "payments"})
    assert [(one["name"], rules(one)["action"], len(rules(one)["policies"])) for one in found.http] == [
        ("gatehouse.segmentation", "ALLOW", 1),
        ("gatehouse.allow", "DENY", 0),
    ]


def test_what_envoy_can_not_say_is_reported() -> None:
    policy = Project.of(
        {
            "p.rego": "package gatehouse.authz\n\n"
            'allow if {\n\tinput.request.method == "GET"\n\tcount(split(input.request.path, "/")) < 4\n}\n'
        }
    )
    (found,) = edge_policies(policy, demo(), {SHOP + "payments"})
    assert len(found.narrower) == 1
    assert "p.rego:3" in found.narrower[0]


def test_two_workloads_of_one_identity_are_refused() -> None:
    twin = {
        "mesh": {"trust_domain": "gatehouse.test"},
        "workloads": [
            {"name": name, "namespace": "shop", "service_account": "payments"} for name in ("one", "two")
        ],
    }
    with pytest.raises(FailedPrecondition, match="shop/one, shop/two have this one identity"):
        edge_policies(starter(), inventory_from_document(twin), {SHOP + "payments"})


def test_claims_without_an_issuer_are_refused() -> None:
    policy = Project.of({"p.rego": 'package gatehouse.authz\n\nallow if input.jwt.claims.role == "clerk"\n'})
    inventory = inventory_from_document(
        {
            "mesh": {"trust_domain": "gatehouse.test"},
            "workloads": [{"name": "payments", "namespace": "shop", "service_account": "payments"}],
        }
    )
    with pytest.raises(FailedPrecondition, match="names no issuer of tokens"):
        edge_policies(policy, inventory, {SHOP + "payments"})


def test_the_value_is_the_same_every_time() -> None:
    def compiled() -> tuple[EdgePolicy, ...]:
        return edge_policies(starter(), demo(), demo().identities)

    assert compiled() == compiled()
