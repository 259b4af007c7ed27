"""Who reaches whom, and invariants proved for every request."""

import pytest

from control_plane.core.errors import NotFound
from policies import formula as f
from policies.formula import Decision, Disjunct, Origin, PolicySet, Question, WorkloadPolicy
from policies.inventory_file import inventory_from_document
from policies.reach import broken_invariants, callers_of, reachable_from

PORTS = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 5432, "protocol": "tcp"}]
INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "workloads": [
        {"name": name, "namespace": "shop", "service_account": name, "labels": {"app": name, "zone": zone},
         "services": [{"name": name, "ports": PORTS}]}
        for name, zone in (("web", "open"), ("pay", "pci"), ("cards", "pci"))
    ],
})  # fmt: skip
WEB, PAY = "spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/shop/sa/pay"


def rules(*formulas: f.Formula) -> Decision:
    return Decision.of(*(Disjunct(one, (Origin("p.rego", line),)) for line, one in enumerate(formulas, 1)))


POLICIES = PolicySet.of(
    "x",
    WorkloadPolicy("shop/cards", Question(rules(f.equals(f.label("zone"), "pci") & f.equals(f.PORT, 5432)))),
    WorkloadPolicy("shop/pay", Question(rules(
        f.equals(f.SOURCE_ID, WEB) & f.starts_with(f.PATH, "/pay"), f.equals(f.PATH, "/health")))),
    WorkloadPolicy("shop/web", Question()),
)  # fmt: skip
NOT_PCI = f.negate(f.equals(f.label("zone"), "pci"))


def test_callers_of_a_workload() -> None:
    found = {one.caller: one for one in callers_of(POLICIES, INVENTORY, "shop/pay")}
    assert set(found) == {"", WEB, PAY, "spiffe://example.org/ns/shop/sa/cards"}
    assert found[WEB].request.get(f.PATH) == "/pay"
    assert found[""].request.get(f.PATH) == "/health" and found[""].origins == (Origin("p.rego", 2),)
    assert callers_of(POLICIES, INVENTORY, "shop/web") == []
    with pytest.raises(NotFound):
        callers_of(POLICIES, INVENTORY, "shop/nobody")


def test_reachable_from_a_caller() -> None:
    assert [one.workload for one in reachable_from(POLICIES, INVENTORY, PAY)] == ["shop/cards", "shop/pay"]
    assert [one.workload for one in reachable_from(POLICIES, INVENTORY, WEB)] == ["shop/pay"]


def test_segmentation_and_authz_both_have_to_admit() -> None:
    (cards,) = (one for one in POLICIES.policies if one.workload == "shop/cards")
    walled = PolicySet.of(
        "x", WorkloadPolicy("shop/cards", cards.authz, Question(rules(f.equals(f.SOURCE_ID, WEB))))
    )
    assert callers_of(walled, INVENTORY, "shop/cards") == []


def test_an_invariant_holds_for_every_request_or_is_shown_broken() -> None:
    assert broken_invariants(POLICIES, INVENTORY, {"shop/cards": rules(NOT_PCI)}) == []
    loose = PolicySet.of("y", WorkloadPolicy("shop/cards", Question(rules(
        f.equals(f.label("zone"), "pci"), f.ends_with(f.PATH, "/debug")))))  # fmt: skip
    (breach,) = broken_invariants(loose, INVENTORY, {"shop/cards": rules(NOT_PCI)})
    assert breach.request.get(f.PATH) == "/debug" and breach.admitted_by == (Origin("p.rego", 2),)
    assert "p.rego:1 is broken at shop/cards" in str(breach)


def test_an_undecided_invariant_counts_as_broken() -> None:
    odd = rules(f.ends_with(f.SOURCE_IP, "7"))
    (breach,) = broken_invariants(POLICIES, INVENTORY, {"shop/cards": odd})
    assert breach.request is None and "net.cidr_contains" in breach.reason
