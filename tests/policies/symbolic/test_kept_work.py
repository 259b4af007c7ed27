"""What is worked out once and used again, for other destinations and in later versions, changes no answer."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from policies.formula import PolicySet
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.language.diagnostics import Diagnostics
from policies.language.symbolic import joins, rule_index
from policies.language.symbolic.footprint import Footprints
from policies.project import Project
from policies.questions import Questions

PORTS = [{"port": 80, "protocol": "http"}, {"port": 443, "protocol": "http"}]


def inventory(labels: Mapping[str, str] | None = None) -> Inventory:
    """Destinations of which the random policies speak, and some of which they don't; one has two services."""
    names = [("shop", "payments"), ("shop", "ledger"), ("lab", "payments"), ("lab", "other")]
    workloads: list[dict[str, object]] = [
        {
            "name": name,
            "namespace": namespace,
            "service_account": name,
            "labels": {"env": "prod", **(labels or {})},
            "services": [{"name": name, "ports": PORTS[:1]}],
        }
        for namespace, name in names
    ]
    workloads[0]["services"] = [
        {"name": name, "ports": [port]} for name, port in zip(("payments", "front"), PORTS, strict=True)
    ]
    workloads[3]["services"] = []
    return inventory_from_document({"mesh": {"trust_domain": "example.org"}, "workloads": workloads})


def compiled(
    text: str, data: Mapping[str, object], known: Inventory, before: Questions | None = None
) -> tuple[Questions, PolicySet | str]:
    """The questions, and what they come to: the policies, or the refusal."""
    modules = Project.of({"authz.rego": text}).compiled()
    questions = Questions.of(modules, known, data, before=before)
    try:
        return questions, questions.all("digest")
    except Diagnostics as error:
        return questions, error.diagnostics[0].message


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes for the smallest collections and groups too."""
    monkeypatch.setattr(joins, "WORTH_AN_INDEX", 0)
    monkeypatch.setattr(rule_index, "WORTH_AN_INDEX", 0)


@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_every_destination_is_answered_as_if_it_were_alone(
    seed: int, made: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(_more_rules(made.policy(random.Random(seed)), random.Random(seed)))
    known = inventory()
    together = compiled(text, made.DATA, known)[1]
    if not isinstance(together, PolicySet):
        return
    drawn = [case.request for case in made.cases(random.Random(seed), 60, whole=True)]
    monkeypatch.setattr(Footprints, "key", lambda *_: None)
    monkeypatch.setattr(joins, "WORTH_AN_INDEX", 1 << 60)
    monkeypatch.setattr(rule_index, "WORTH_AN_INDEX", 1 << 60)
    modules = Project.of({"authz.rego": text}).compiled()
    for workload in known.workloads:
        one = together.find(workload.key)
        other = Questions.of(modules, known, made.DATA).workload(workload)
        assert one is not None and one.authz is not None and other.authz is not None
        for request in drawn:
            assert _decided(made, one.authz, request) == _decided(made, other.authz, request), workload.key


def _decided(made: ModuleType, question: Any, request: Any) -> bool:
    # An opaque condition has its digest from its meaning, so any fixed answer serves for a comparison.
    return bool(made.evaluate(question.formula, request, lambda atom: int(atom.digest, 16) % 2 == 0))


def _more_rules(text: str, randomness: random.Random) -> list[str]:
    """The policy, and rules that say first of all for which destination they are."""
    added = []
    for namespace in ("shop", "lab"):
        for service in ("payments", "ledger", "front"):
            test = randomness.choice(
                [
                    f'input.destination.namespace == "{namespace}"; input.destination.service == "{service}"',
                    f'to("{namespace}", "{service}")',
                    f'not other; input.destination.service in {{"{service}", "x"}}',
                    f'not input.destination.service == "{service}"',
                    f'some n in data.names; n == input.destination.namespace; to(n, "{service}")',
                ]
            )
            added.append(f'allow if {{ {test}; input.request.method == "{randomness.choice("AB")}" }}')
    to = "to(n, s) if { input.destination.namespace == n; input.destination.service == s }"
    return [text, to, *added]


EDITS = (
    ("POST", "PUT"),
    ("frontend", "batch"),
    ("payments", "ledger"),
    ("allow if {", "deny if {"),
    ("default level", "\n\ndefault level"),
    (r"\tnot ", "\t"),
    ('"shop"', '"lab"'),
    ("n in data.names", "n in data.owners"),
)


def _changed_data(data: Mapping[str, Any], randomness: random.Random) -> dict[str, Any]:
    routes = list(data["routes"])
    place = randomness.randrange(len(routes))
    match randomness.randrange(4):
        case 0:
            routes.insert(place, {"from": "batch", "to": "payments", "also": ["ledger"], "at": {}})
        case 1:
            del routes[place]
        case 2:
            routes[place] = routes[place] | {"to": "other", "from": "batch"}
        case _:
            return {**data, "owners": {"lab": "ada"}, "names": ["lab"]}
    return {**data, "routes": routes}


@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize("seed", range(20))
def test_a_later_version_is_answered_as_if_it_were_the_first(seed: int, made: ModuleType) -> None:
    randomness = random.Random(seed)
    text, data, known = "\n".join(_more_rules(made.policy(randomness), randomness)), made.DATA, inventory()
    questions, _ = compiled(text, data, known)
    for step in range(6):
        match step % 3:
            case 0:
                data = _changed_data(data, randomness)
            case 1:
                old, new = randomness.choice(EDITS)
                at = randomness.choice([one.start() for one in re.finditer(old, text)] or [0])
                text = text[:at] + re.sub(old, new, text[at:], count=1)
            case _:
                known = inventory({"tier": randomness.choice(["app", "web"])})
        try:
            questions, carried = compiled(text, data, known, questions)
        except Diagnostics:
            return  # the edit made no policy
        assert carried == compiled(text, data, known)[1]


def test_an_edit_of_one_row_evaluates_what_reads_it_again() -> None:
    text = """package gatehouse.authz
allow if {
\tsome row in data.rows
\trow.to == input.destination.service
\tinput.request.path == row.path
}
"""
    rows = [{"to": name, "path": f"/{n}"} for n in range(20) for name in ("payments", "ledger")]
    known = inventory()
    questions, first = compiled(text, {"rows": rows}, known)
    rows = [{"to": "other", "path": "/"}, *rows, {"to": "ledger", "path": "/new"}]
    later, second = compiled(text, {"rows": rows}, known, questions)
    assert isinstance(first, PolicySet) and isinstance(second, PolicySet)
    changed = [old.workload for old, new in zip(first.policies, second.policies, strict=True) if old != new]
    assert changed == ["lab/other", "shop/ledger"]  # of the first, no service is known
    kept = [place for place, one in questions.valid_in(later.memory).items() if one.rules]
    assert ("shop/payments", 0) in kept and ("shop/ledger", 0) not in kept


def test_numbers_that_are_equal_and_print_differently_are_two() -> None:
    text = """package gatehouse.authz
allow if {
\tsome row in data.rows
\trow.to == input.destination.service
\tinput.request.path == concat("", ["/", json.marshal(row.weight)])
}
"""
    one = [{"to": "payments", "weight": 1}, {"to": "payments", "weight": Decimal("1.0")}] * 20
    questions, found = compiled(text, {"rows": one}, inventory())
    assert isinstance(found, PolicySet)
    payments = found.find("shop/payments")
    assert payments is not None and payments.authz is not None
    assert "'/1', '/1.0'" in repr(payments.authz.formula)
    other = [{"to": "payments", "weight": 1}] * 40
    later = compiled(text, {"rows": other}, inventory(), questions)[1]
    assert later == compiled(text, {"rows": other}, inventory())[1] != found
