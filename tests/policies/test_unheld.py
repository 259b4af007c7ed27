"""Rules that hold for no workload are told, with what the inventory has instead; others are not."""

from __future__ import annotations

import pytest

from policies.compilation import compile_project
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.kept.compilation import compile_kept
from policies.kept.shelf import MemoryStore, Shelf
from policies.project import Project
from policies.targets.emission import Options
from policies.unheld import MAX_TOLD


def inventory(*names: str) -> Inventory:
    ports = [{"port": 80, "target_port": 8080, "protocol": "http"}]
    workloads = [
        {
            "name": name, "namespace": "shop", "service_account": name, "labels": {"tier": "web"},
            "services": [{"name": name, "ports": ports}],
        }
        for name in names
    ]  # fmt: skip
    return inventory_from_document({"mesh": {"trust_domain": "example.org"}, "workloads": workloads})


def told(rules: str, known: Inventory | None = None, data: str = "{}") -> list[tuple[int, str]]:
    """The row and hint of each rule that is told, the same with rows of an earlier run and without."""
    text = f"package gatehouse.authz\n{rules}\n"
    project = Project.of({"p.rego": text, "data.json": data})
    known = inventory("cart", "pay") if known is None else known
    shelf = Shelf("c", MemoryStore())
    results = [compile_project(project, known, "istio-sidecar").result] + [
        compile_kept(project, known, "istio-sidecar", Options(), shelf) for _ in range(2)
    ]
    found = [
        [(one.span.row, one.hint) for one in result.warnings if "holds for no workload" in one.message]
        for result in results
    ]
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        (
            'allow if input.destination.namespace == "shpo"',
            "no workload has input.destination.namespace 'shpo'; did you mean 'shop'?",
        ),
        (
            'allow if { input.request.path == "/"; input.destination.service in {"crat", "cards"} }',
            "no workload has input.destination.service 'cards' or 'crat'; did you mean 'cart'?",
        ),
        (
            'allow if input.destination.labels.tier == "w"',
            "no workload has input.destination.labels[\"tier\"] 'w'",
        ),
        (
            'allow if { input.destination.service == "cart"; input.destination.service_account == "pay" }',
            "its conditions rule out each of the 2 workloads",
        ),
        (
            'allow if { reads; input.request.method == "PUT" }\nreads if input.request.method == "GET"',
            "its conditions rule out each of the 2 workloads",
        ),
        (
            "allow if { some row in data.rows; input.destination.service == row.to }",
            "its conditions rule out each of the 2 workloads",
        ),
    ],
    ids=["namespace", "service", "label", "two workloads", "function", "data"],
)
def test_a_rule_that_holds_for_nobody_is_told_with_why(rule: str, hint: str) -> None:
    allowed = 'allow if input.request.method == "GET"'
    assert told(f"{allowed}\n{rule}", data='{"rows": [{"to": "nobody"}]}') == [(3, hint)]


@pytest.mark.parametrize(
    "rules",
    [
        'allow if input.destination.service == "pay"',
        'allow if input.destination.namespace == "shpo"\nelse if input.destination.service == "cart"',
        'allow := true if input.request.method == "GET"\nallow := false if input.destination.service == "x"',
        'allow if input.request.path == "/"\nallow if input.request.path == "/"',
        "default allow := false",
    ],
    ids=["one of two", "a later branch", "no decision", "the same twice", "only a default"],
)
def test_a_rule_that_may_decide_is_not_told(rules: str) -> None:
    assert told(rules) == []


def test_no_more_are_told_than_somebody_reads() -> None:
    rules = "\n".join(f'allow if input.destination.service == "none-{number}"' for number in range(50))
    assert len(told(rules)) == MAX_TOLD
