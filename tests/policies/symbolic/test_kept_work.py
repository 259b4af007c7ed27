"""What is worked out once and used again, for other destinations and in later versions, changes no answer."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.kept.evaluations import Evaluation, Evaluations
from policies.kept.shelf import MemoryStore, Shelf
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


def asked(text: str, data: Mapping[str, object], known: Inventory) -> Questions:
    """The questions of a policy."""
    return Questions.of(Project.of({"authz.rego": text}).compiled(), known, data)


def evaluated(questions: Questions, shelf: Shelf | None = None) -> list[Evaluation] | None:
    """What stands for the questions of each workload, with what is on a shelf; None for a refusal."""
    evaluations = Evaluations(questions, shelf or Shelf("c", MemoryStore()))
    try:
        return [evaluations.of(workload) for workload in questions.inventory.workloads]
    except Diagnostics:
        return None


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
    try:
        together = asked(text, made.DATA, known).all("digest")
    except Diagnostics:
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
    randomness, shelf = random.Random(seed), Shelf("c", MemoryStore())
    text, data, known = "\n".join(_more_rules(made.policy(randomness), randomness)), made.DATA, inventory()
    evaluated(asked(text, data, known), shelf)
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
            questions = asked(text, data, known)
        except Diagnostics:
            return  # the edit made no policy
        assert evaluated(questions, shelf) == evaluated(asked(text, data, known))


ROWS = """package gatehouse.authz
allow if {
\tsome row in data.rows
\trow.to == input.destination.service
\tinput.request.path == row.path
}
"""


def test_an_edit_of_one_row_evaluates_what_reads_it_again() -> None:
    rows = [{"to": name, "path": f"/{n}"} for n in range(20) for name in ("payments", "ledger")]
    known, shelf = inventory(), Shelf("c", MemoryStore())
    first = evaluated(asked(ROWS, {"rows": rows}, known), shelf)
    rows = [{"to": "elsewhere", "path": "/"}, *rows, {"to": "ledger", "path": "/new"}]
    later = Evaluations(asked(ROWS, {"rows": rows}, known), shelf)
    second = [later.of(workload) for workload in known.workloads]
    changed = {
        one.key for one, old, new in zip(known.workloads, first or [], second, strict=True) if old != new
    }
    assert changed == {"shop/ledger", "lab/other"}  # of the second, no service is known
    assert later.evaluated == changed


def test_an_edit_of_one_rule_evaluates_whom_it_can_hold_for() -> None:
    rules = [
        f'allow if {{ input.destination.namespace == "{where}"; input.request.path == "/{where}/{n}" }}'
        for n in range(10)
        for where in ("shop", "lab")
    ]
    text = "\n".join(["package gatehouse.authz", *rules])
    known, shelf = inventory(), Shelf("c", MemoryStore())
    evaluated(asked(text, {}, known), shelf)
    later = Evaluations(asked(text.replace("/lab/3", "/lab/x"), {}, known), shelf)
    for workload in known.workloads:
        later.of(workload)
    assert later.evaluated == {"lab/payments", "lab/other"}


MOVED = """package gatehouse.authz
allow if {
\tinput.request.path == "/a"
}
allow if input.request.method == "GET"
# more
deny if not input.source.namespace == "shop"
"""


def test_rules_that_moved_are_not_evaluated_again() -> None:
    known, shelf = inventory(), Shelf("c", MemoryStore())
    evaluated(asked(MOVED, {}, known), shelf)
    for text in ("# one line\n" + MOVED, MOVED.replace("# more", "\n\n\n# less")):
        later = Evaluations(asked(text, {}, known), shelf)
        assert [later.of(workload) for workload in known.workloads] == evaluated(asked(text, {}, known))
        assert not later.evaluated


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        # An opaque condition says in its formula where it stands.
        ('allow if regex.match(input.request.path, "/a")', "\n\n{}"),
        ('allow if input.request.path == "/a"\nallow if input.request.path == "/b"', "{1}\n{0}"),
    ],
    ids=["opaque", "another order"],
)
def test_rows_that_matter_are_told_apart(text: str, changed: str) -> None:
    known, shelf = inventory(), Shelf("c", MemoryStore())
    before, after = (
        f"package gatehouse.authz\n{one}\n" for one in (text, changed.format(*text.split("\n"), text))
    )
    evaluated(asked(before, {}, known), shelf)
    found = evaluated(asked(after, {}, known), shelf)
    assert found is not None
    assert found == evaluated(asked(after, {}, known))


def test_numbers_that_are_equal_and_print_differently_are_two() -> None:
    text = ROWS.replace("row.path", 'concat("", ["/", json.marshal(row.weight)])')
    one = [{"to": "payments", "weight": 1}, {"to": "payments", "weight": Decimal("1.0")}] * 20
    shelf = Shelf("c", MemoryStore())
    questions = asked(text, {"rows": one}, inventory())
    payments = questions.all("digest").find("shop/payments")
    assert payments is not None and payments.authz is not None
    assert "'/1', '/1.0'" in repr(payments.authz.formula)
    first = evaluated(questions, shelf)
    other = [{"to": "payments", "weight": 1}] * 40
    later = evaluated(asked(text, {"rows": other}, inventory()), shelf)
    assert later == evaluated(asked(text, {"rows": other}, inventory())) != first


def test_whether_two_values_meet_follows_from_the_inventory() -> None:
    """A conflict that no caller of the first inventory can bring about is refused under the second."""
    text = """package gatehouse.authz
allow := true if input.source.labels.tier == "app"
allow := false if input.source.namespace == "shop"
"""
    shelf = Shelf("c", MemoryStore())
    without, labelled = inventory(), inventory({"tier": "app"}).workloads[2]  # in shop
    others = [one for one in without.workloads if one.key != labelled.key]
    with_tier = dataclasses.replace(without, workloads=(*others, labelled))
    assert evaluated(asked(text, {}, without), shelf) is not None
    assert evaluated(asked(text, {}, with_tier), shelf) is None
    assert evaluated(asked(text, {}, without), shelf) == evaluated(asked(text, {}, without))
