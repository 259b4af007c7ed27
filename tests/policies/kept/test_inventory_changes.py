"""After a change of the inventory a compilation comes to what it comes to alone, and redoes what it must."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from control_plane.core.errors import GatehouseError
from policies.compilation import Result, compile_project
from policies.inventory import Inventory
from policies.inventory_file import parse_inventory
from policies.kept import compilation, proofs
from policies.kept.compilation import compile_kept
from policies.kept.facts import Facts, facts_of
from policies.kept.shelf import MemoryStore, Shelf
from policies.pipeline import prove
from policies.project import Project
from policies.questions import Questions
from policies.targets.emission import Options
from policies.targets.manifest import WORKLOAD_ANNOTATION

POLICY = {
    "authz.rego": """package gatehouse.authz

import future.keywords.not

default allow := false

default deny := false

allow if {
\tinput.destination.labels.tier == "data"
\tinput.source.labels.tier in {"app", "data"}
}

allow if {
\tinput.destination.labels.tier == "app"
\tinput.source.namespace in {"shop", "bank"}
\tstartswith(input.request.path, "/v1/")
}

allow if {
\tinput.destination.labels.tier == "web"
\tstartswith(input.source.labels.team, "b")
}

allow if {
\tinput.destination.labels.tier == "web"
\tinput.source.service_account == "payments"
\tnot input.source.labels.env == "test"
}

allow if {
\tinput.destination.namespace == "bank"
\tsome key in data.inventory.segments.pci
\tinput.source.spiffe_id == data.inventory.workloads[key].spiffe_id
}

deny if not input.source.labels.env
""",
    "segmentation.rego": """package gatehouse.segmentation

import future.keywords.not

default allow := false

allow if input.source.labels.env == input.destination.labels.env

allow if input.source.namespace == "bank"
""",
    "invariants.rego": """package gatehouse.invariants

import future.keywords.not

never contains "data is for those with a team" if {
\tinput.destination.labels.tier == "data"
\tnot input.source.labels.team
}

never contains "nobody of an account named guest" if input.source.service_account == "guest"
""",
}
TARGETS = ("istio-sidecar", "istio-waypoint", "istio-ztunnel", "envoy-rbac", "network-policy")
TIERS, TEAMS, ENVS = ("web", "app", "data"), ("blue", "bay", "red"), ("prod", "test")

Document = dict[str, Any]


def workload(name: str, namespace: str, account: str, **labels: str) -> Document:
    port = {"name": "http", "port": 80, "target_port": 8080, "protocol": "http"}
    service = {"name": name, "ports": [port]}
    own = {"app": name, **labels}
    return {
        "name": name, "namespace": namespace, "service_account": account, "labels": own, "mode": "sidecar",
        "services": [service],
    }  # fmt: skip


START: Document = {
    "mesh": {"trust_domain": "gatehouse.test"},
    "segments": [{"name": "pci", "workloads": ["shop/w0"]}],
    "workloads": [
        workload("w0", "shop", "payments", tier="app", team="blue", env="prod"),
        workload("w1", "shop", "front", tier="web", team="red", env="prod"),
        workload("w2", "bank", "payments", tier="data", team="blue", env="prod"),
        workload("w3", "bank", "ledger", tier="data", env="prod"),
        workload("w4", "other", "front", tier="web", env="test"),
    ],
}


def added(document: Document, chance: random.Random) -> None:
    name = f"n{len(document['workloads'])}{chance.randrange(1000)}"
    labels = {"tier": chance.choice(TIERS), "team": chance.choice(TEAMS), "env": chance.choice(ENVS)}
    for key in chance.sample(sorted(labels), chance.randrange(2)):
        del labels[key]
    account = chance.choice(["payments", "front", "guest", name])
    document["workloads"].append(workload(name, chance.choice(["shop", "bank", "new"]), account, **labels))


def removed(document: Document, chance: random.Random) -> None:
    one = chance.choice(document["workloads"])
    key = f"{one['namespace']}/{one['name']}"
    if len(document["workloads"]) > 3 and all(key not in s["workloads"] for s in document["segments"]):
        document["workloads"].remove(one)


def relabelled(document: Document, chance: random.Random) -> None:
    labels = chance.choice(document["workloads"])["labels"]
    key, values = chance.choice([("tier", TIERS), ("team", TEAMS), ("env", ENVS), ("owner", ("x", "y"))])
    labels[key] = chance.choice(values)
    if chance.random() < 0.3:
        del labels[key]


def renamed(document: Document, chance: random.Random) -> None:
    one = chance.choice(document["workloads"])
    one["service_account"] = chance.choice(["payments", "front", "guest", "ledger"])


def regrouped(document: Document, chance: random.Random) -> None:
    keys = [f"{one['namespace']}/{one['name']}" for one in document["workloads"]]
    document["segments"] = [{"name": "pci", "workloads": sorted(chance.sample(keys, 2))}]


def moved(document: Document, chance: random.Random) -> None:
    port = chance.choice(document["workloads"])["services"][0]["ports"][0]
    port["target_port"] = chance.choice([8080, 9090])


def trusted(document: Document, chance: random.Random) -> None:
    document["mesh"] = {"trust_domain": "gatehouse.test", "istio_version": chance.choice(["1.29", "1.30"])}


CHANGES: tuple[Callable[[Document, random.Random], None], ...] = (
    added, added, removed, relabelled, relabelled, relabelled, renamed, regrouped, moved, trusted,
)  # fmt: skip


def parsed(document: Document) -> Inventory:
    return parse_inventory(json.dumps(document))


def outcome(work: Callable[[], Result]) -> Any:
    """Everything that a result says, or the refusal."""
    try:
        result = work()
        return result, result.accepted, result.blocked(), dict(result.files())
    except GatehouseError as error:
        return str(error)


def kept(inventory: Inventory, target: str, store: MemoryStore, files: Mapping[str, str] = POLICY) -> Any:
    return outcome(lambda: compile_kept(Project.of(files), inventory, target, Options(), Shelf("c", store)))


def alone(inventory: Inventory, target: str) -> Any:
    return outcome(lambda: compile_project(Project.of(POLICY), inventory, target, Options()).result)


@pytest.mark.parametrize("seed", range(25))
def test_every_inventory_comes_to_what_it_comes_to_alone(seed: int) -> None:
    chance, store, document = random.Random(seed), MemoryStore(), copy.deepcopy(START)
    target = TARGETS[seed % len(TARGETS)]
    for _ in range(6):
        inventory = parsed(document)
        assert kept(inventory, target, store) == alone(inventory, target)
        chance.choice(CHANGES)(document, chance)


@pytest.mark.parametrize("seed", range(10))
def test_what_was_let_go_of_is_made_again(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "MAX_HELD", 0)
    chance, store, document = random.Random(seed), MemoryStore(), copy.deepcopy(START)
    # Objects of the root namespace are for everybody whom their labels take in.
    mesh = workload("mesh", "istio-system", "front", tier="web", env="prod")
    del mesh["labels"]["app"]
    document["workloads"].append(mesh)
    target = TARGETS[seed % len(TARGETS)]
    for _ in range(2):
        inventory = parsed(document)
        assert kept(inventory, target, store) == alone(inventory, target)
        chance.choice(CHANGES)(document, chance)


@pytest.mark.parametrize("target", TARGETS)
def test_a_proof_looks_at_the_objects_of_one_workload(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    near: dict[str, set[str]] = {}

    def noted(
        emitter: Any, question: Any, one: Any, inventory: Any, documents: Any, real: Any = prove
    ) -> Any:
        listed = list(documents)
        near[one.key] = {each.body["metadata"]["annotations"][WORKLOAD_ANNOTATION] for each in listed}
        return real(emitter, question, one, inventory, listed)

    monkeypatch.setattr(proofs, "prove", noted)
    kept(parsed(START), target, MemoryStore())
    assert near
    assert near == {key: {key} for key in near}


@pytest.fixture
def proving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workloads that are proved anew."""
    asked: list[str] = []

    def noted(emitter: Any, question: Any, workload: Any, *rest: Any, real: Any = prove) -> Any:
        asked.append(workload.key)
        return real(emitter, question, workload, *rest)

    monkeypatch.setattr(proofs, "prove", noted)
    return asked


@pytest.mark.parametrize("target", TARGETS[:4])
def test_a_workload_more_is_proved_alone_where_nobody_asks_about_it(target: str, proving: list[str]) -> None:
    store, document = MemoryStore(), copy.deepcopy(START)
    for one in document["workloads"]:
        one["mode"] = {"istio-ztunnel": "ambient", "envoy-rbac": "envoy"}.get(target, "sidecar")
    kept(parsed(document), target, store)
    assert proving
    proving.clear()
    newcomer = workload("newcomer", "elsewhere", "newcomer", owner="x")
    document["workloads"].append(newcomer | {"mode": document["workloads"][0]["mode"]})
    kept(parsed(document), target, store)
    assert set(proving) <= {"elsewhere/newcomer"}


def test_a_label_is_proved_again_where_it_is_asked_about(proving: list[str]) -> None:
    store, document = MemoryStore(), copy.deepcopy(START)
    kept(parsed(document), "istio-sidecar", store)
    proving.clear()
    document["workloads"][3]["labels"]["team"] = "bay"  # only those of tier web ask about teams
    kept(parsed(document), "istio-sidecar", store)
    assert set(proving) == {"bank/w3", "shop/w1", "other/w4"}


def test_facts_are_those_of_the_values_that_are_named() -> None:
    questions = Questions.of(Project.of(POLICY).checked().compiled, parsed(START))
    asked = questions.workload(questions.inventory.by_key["shop/w0"]).authz
    assert asked is not None
    assert facts_of(asked.allow.formula) == {
        json.dumps(["source.namespace", {"is": "bank"}]), json.dumps(["source.namespace", {"is": "shop"}]),
    }  # fmt: skip
    changed = copy.deepcopy(START)
    changed["workloads"].append(workload("x", "elsewhere", "x", tier="web"))
    before, after = Facts(parsed(START)), Facts(parsed(changed))
    named, every = json.dumps(["source.namespace", {"is": "bank"}]), json.dumps(["source.namespace"])
    assert before.digest([named]) == after.digest([named])
    assert before.digest([every]) != after.digest([every])
    assert before.digest([json.dumps(["whole"])]) != after.digest([json.dumps(["whole"])])
