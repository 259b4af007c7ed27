"""What authz allows and segmentation blocks: each pair with a request that shows it, and the lines."""

import pytest

from policies import formula as f
from policies import layers
from policies.formula import (
    Decision,
    Disjunct,
    Formula,
    Origin,
    PolicySet,
    Question,
    WorkloadPolicy,
    evaluate,
)
from policies.inventory_file import inventory_from_document
from policies.layers import blocked_pairs

PORTS = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 5432, "protocol": "tcp"}]
INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "workloads": [
        {"name": name, "namespace": "shop", "service_account": name, "labels": {"app": name, "zone": zone},
         "services": [{"name": name, "ports": PORTS}]}
        for name, zone in (("web", "open"), ("pay", "pci"), ("cards", "pci"))
    ],
})  # fmt: skip
WEB, PAY, CARDS = (f"spiffe://example.org/ns/shop/sa/{name}" for name in ("web", "pay", "cards"))


def rules(file: str, *formulas: Formula) -> Decision:
    return Decision.of(*(Disjunct(one, (Origin(file, line),)) for line, one in enumerate(formulas, 1)))


def asked(authz: Question, segmentation: Question | None) -> PolicySet:
    return PolicySet.of("x", WorkloadPolicy("shop/pay", authz, segmentation))


READS = Question(rules("a.rego", f.equals(f.METHOD, "GET"), f.equals(f.SOURCE_ID, WEB)))
FROM_PCI = Question(
    rules("s.rego", f.equals(f.label("zone"), "pci")), rules("d.rego", f.equals(f.SOURCE_ID, CARDS))
)


def test_every_caller_that_authz_allows_and_segmentation_blocks_is_found_once() -> None:
    found, more = blocked_pairs(asked(READS, FROM_PCI), INVENTORY)
    assert not more
    assert {one.caller for one in found} == {"", WEB, CARDS}
    for one in found:
        assert one.request is not None
        assert evaluate(READS.formula, one.request)
        assert not evaluate(FROM_PCI.formula, one.request)
    why = {one.caller: (one.why, [str(line) for line in one.denied_by]) for one in found}
    assert why[WEB] == ("no rule of segmentation allows it", [])
    assert why[CARDS] == ("segmentation denies at d.rego:1", ["d.rego:1"])


def test_the_lines_that_allowed_are_those_of_the_request() -> None:
    found, _ = blocked_pairs(asked(READS, FROM_PCI), INVENTORY)
    by_caller = {one.caller: [str(line) for line in one.allowed_by] for one in found}
    assert "a.rego:1" in by_caller[CARDS]
    assert "a.rego:2" in by_caller[WEB]


def test_a_pair_that_gets_through_otherwise_is_told_apart() -> None:
    """What only one port blocks isn't blocked entirely."""
    only_http = Question(rules("s.rego", f.equals(f.PORT, 8080)))
    by_web = Question(rules("a.rego", f.equals(f.SOURCE_ID, WEB)))
    ((pair,), _) = blocked_pairs(asked(by_web, only_http), INVENTORY)
    assert (pair.caller, pair.entirely) == (WEB, False)
    assert pair.request is not None
    assert pair.request.get(f.PORT) == 5432
    none = Question(rules("s.rego", f.equals(f.PORT, 1)))
    ((pair,), _) = blocked_pairs(asked(by_web, none), INVENTORY)
    assert pair.entirely


def test_agreement_and_a_missing_layer_are_no_news() -> None:
    assert blocked_pairs(asked(READS, READS), INVENTORY) == ([], False)
    assert blocked_pairs(asked(READS, None), INVENTORY) == ([], False)
    assert blocked_pairs(asked(Question(), FROM_PCI), INVENTORY) == ([], False)


def test_what_can_t_be_decided_is_said() -> None:
    torn = inventory_from_document({
        "mesh": {"trust_domain": "example.org"},
        "workloads": [
            {"name": name, "namespace": "shop", "service_account": "pay", "labels": {"zone": name},
             "services": [{"name": name, "ports": PORTS}]}
            for name in ("pay", "other")
        ],
    })  # fmt: skip
    ((one,), _) = blocked_pairs(asked(READS, FROM_PCI), torn)
    assert one.request is None
    assert "zone" in one.reason


def test_the_report_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MAX_PAIRS", 2)
    found, more = blocked_pairs(asked(READS, FROM_PCI), INVENTORY)
    assert (len(found), more) == (2, True)
