"""Whatever earlier runs left, and whatever became of it, a compilation comes to what it comes to alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control_plane.core.errors import GatehouseError
from policies.compilation import Result, compile_project
from policies.diff import compare_policies
from policies.inventory import Inventory
from policies.inventory_file import parse_inventory
from policies.kept import proofs
from policies.kept.compilation import compare_kept, compile_kept
from policies.kept.shelf import MemoryStore, Shelf
from policies.pipeline import prove
from policies.project import Project
from policies.proof.manifests import read_manifest
from policies.questions import Questions
from policies.targets.emission import Options

ROOT = Path(__file__).parents[3]
INVENTORY_TEXT = (ROOT / "deploy/demo/inventory.yaml").read_text()
INVENTORY = parse_inventory(INVENTORY_TEXT)
FILES = {
    path.relative_to(ROOT / "rego").as_posix(): path.read_text()
    for folder in ("starter", "lib")
    for path in sorted((ROOT / "rego" / folder).rglob("*.rego"))
    if not path.name.endswith("_test.rego") and "admission" not in path.as_posix()
}
TARGETS = ("istio-sidecar", "istio-waypoint", "istio-ztunnel", "envoy-rbac", "network-policy")
EDITS = (
    ("input.destination.port == 5432", "input.destination.port >= 5432"),
    ("input.source.spiffe_id == payments", "input.request.path == payments"),
    ("input.request.path == payments", "input.source.spiffe_id == payments"),
    ("input.source.spiffe_id == payments", "input.source.spiffe_id in {payments, frontend}"),
    ('"/v1/charges/refund"', '"/v1/refunds"'),
    ('"payments")', '"frontend")'),
    ("spiffe://%s/ns", "spiffe://%s/namespace"),
    ('"edge": {"web"}', '"edge": {"web", "app"}'),
    ('"web": {"app"}', '"web": {"app", "data"}'),
    ("allow if {", "\n\nallow if {"),
    ("allow if {", 'allow if contains(input.request.path, "x")\n\nallow if {'),
    ("allow if {", "allow := false if {"),
)
INVENTORY_EDITS = (
    [("env: prod", "env: test")],
    [("tier: web", "tier: data")],
    [
        ("name: card-db\n  namespace: shop", "name: card-db\n  namespace: bank"),
        ("shop/card-db", "bank/card-db"),
    ],
    [("5432", "5433")],
)


def alone(files: Mapping[str, str], inventory: Inventory, target: str, options: Options) -> Any:
    return _outcome(lambda: compile_project(Project.of(files), inventory, target, options).result)


def kept(files: Mapping[str, str], inventory: Inventory, target: str, options: Options, shelf: Shelf) -> Any:
    return _outcome(lambda: compile_kept(Project.of(files), inventory, target, options, shelf))


def _outcome(work: Any) -> Any:
    """Everything that a result says, or the refusal."""
    try:
        result: Result = work()
        return result, result.accepted, result.blocked(), dict(result.files())
    except GatehouseError as error:
        return str(error)


def compiled(target: str = "istio-sidecar", shelf: Shelf | None = None, **changed: Any) -> tuple[Any, Shelf]:
    """A compilation of the starter policy with what is on a shelf."""
    shelf = shelf or Shelf("c", MemoryStore())
    files, inventory = changed.get("files", FILES), changed.get("inventory", INVENTORY)
    return kept(files, inventory, target, changed.get("options", Options()), shelf), shelf


def again(shelf: Shelf, compiler: str = "c") -> Shelf:
    """The shelf of a later run."""
    return Shelf(compiler, shelf.store)


@pytest.fixture
def proving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workloads that are proved anew."""
    asked: list[str] = []

    def noted(emitter: Any, question: Any, workload: Any, *rest: Any, real: Any = prove) -> Any:
        asked.append(workload.key)
        return real(emitter, question, workload, *rest)

    monkeypatch.setattr(proofs, "prove", noted)
    return asked


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_worked_out_twice(
    target: str, proving: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, shelf = compiled(target)
    accepted = {one.workload for one in first[0].verdicts if one.accepted}
    assert accepted
    proving.clear()
    monkeypatch.setattr(Questions, "asked", lambda *_: pytest.fail("a workload was evaluated"))
    second, later = compiled(target, again(shelf))
    assert second == first
    assert not proving
    assert later.found > 10


@pytest.mark.parametrize("seed", range(15))
def test_every_version_comes_to_what_it_comes_to_alone(seed: int) -> None:
    randomness, store = random.Random(seed), Spoilt(random.Random(seed))
    files, text = dict(FILES), INVENTORY_TEXT
    for _ in range(5):
        target = randomness.choice(TARGETS)
        options = randomness.choice([Options(), Options(exact_only=True), Options(custom_provider="agent")])
        if randomness.random() < 0.25:
            for old, new in randomness.choice(INVENTORY_EDITS):
                text = text.replace(old, new, 1)
        else:
            old, new = randomness.choice(EDITS)
            name = randomness.choice([name for name, content in files.items() if old in content] or [""])
            files |= {name: files[name].replace(old, new, 1)} if name else {}
        inventory = parse_inventory(text)
        expected = alone(files, inventory, target, options)
        assert kept(files, inventory, target, options, Shelf("c", store)) == expected
        store.spoil()
        assert kept(files, inventory, target, options, Shelf("c", store)) == expected


@dataclass
class Spoilt(MemoryStore):
    """Rows of which some get lost, cut, bent or swapped."""

    randomness: random.Random = field(default_factory=random.Random)

    def __init__(self, randomness: random.Random) -> None:
        super().__init__()
        self.randomness = randomness

    def spoil(self) -> None:
        for key in self.randomness.sample(sorted(self.rows), len(self.rows) // 3):
            row = self.rows[key] or b"x"
            place = self.randomness.randrange(len(row))
            match self.randomness.randrange(5):
                case 0:
                    del self.rows[key]
                case 1:
                    self.rows[key] = row[:place]
                case 2:
                    self.rows[key] = row[:place] + bytes([row[place] ^ 1]) + row[place + 1 :]
                case 3:
                    other = self.randomness.choice(sorted(self.rows))
                    self.rows[key], self.rows[other] = self.rows[other], self.rows[key]
                case _:
                    self.rows[key] = self.randomness.randbytes(place)


SHAPES: tuple[Any, ...] = (
    None, {}, 0, "x", [[]], [None, None], [[1, 2], [3]], [["x", "y"], "z"], {"x": "y"},
    [[["a", "b", {"c": 1}, "d"]], []], [[["a", "b", None, "d"]], [["custom", "x", [99]]]],
    [["layer", "exact", None, [0, 99], "", []]], [["layer", "sure", None, [], "", []]],
    [["layer", "narrower", [[["request.path"], 1.5]], [], "", []]],
    [["layer", "narrower", [[["nothing.like.it"], "x"]], [], "", []]],
    [[["data"], 1, 2]], [[["[]"], "x", [None, None, ["a", []]]]], [[["[\"rows\", 1]"], "x", []]],
)  # fmt: skip


@pytest.mark.parametrize("document", SHAPES, ids=repr)
def test_a_row_of_another_shape_counts_for_nothing(document: object) -> None:
    """With a seal that fits: as if another program had made it."""
    first, shelf = compiled()
    assert isinstance(shelf.store, MemoryStore)

    class Bent(Shelf):
        """Finds this document under every key that there is."""

        def find(self, kind: str, key: str) -> object | None:
            return document if super().find(kind, key) is not None else None

    bent = Bent("c", shelf.store)
    assert compiled(shelf=bent)[0] == first


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        ("istio-sidecar", {"inventory": parse_inventory(INVENTORY_TEXT.replace('"1.30"', '"1.29"'))}),
        ("istio-sidecar", {"options": Options(custom_provider="agent")}),
        ("istio-ztunnel", {}),
    ],
    ids=["mesh", "options", "target"],
)
def test_proofs_under_other_conditions_count_for_nothing(
    target: str, changed: dict[str, Any], proving: list[str]
) -> None:
    first, shelf = compiled()
    proved = set(proving)
    proving.clear()
    compiled(target, again(shelf), **changed)
    assert first[1] and set(proving) == proved


def test_another_compiler_finds_nothing() -> None:
    _, shelf = compiled()
    later = compiled(shelf=again(shelf, "another"))[1]
    assert later.found == 0


def test_a_change_proves_what_it_touches(proving: list[str]) -> None:
    _, shelf = compiled()
    proving.clear()
    name = next(name for name, text in FILES.items() if "/v1/charges/refund" in text)
    changed = {**FILES, name: FILES[name].replace("/v1/charges/refund", "/v1/refunds")}
    compiled(shelf=again(shelf), files=changed)
    assert proving == ["shop/payments"]


def test_lines_that_move_are_no_change_to_a_proof(proving: list[str]) -> None:
    _, shelf = compiled()
    proving.clear()
    moved = {name: f"# One line more.\n\n{text}" for name, text in FILES.items()}
    after = compiled(shelf=again(shelf), files=moved)[0]
    assert proving == []
    assert after == alone(moved, INVENTORY, "istio-sidecar", Options())


def test_what_is_refused_is_never_kept(monkeypatch: pytest.MonkeyPatch, proving: list[str]) -> None:
    """An emitter that lets everything through is caught, and caught again from what it left."""
    monkeypatch.setattr(
        proofs, "read_manifest",
        lambda text, what: read_manifest(text.replace("- GET\n", '- "*"\n'), what),
    )  # fmt: skip
    wrong, shelf = compiled()
    assert not wrong[1]
    refused = {one.workload for one in wrong[0].verdicts if not one.accepted}
    proving.clear()
    assert compiled(shelf=again(shelf))[0] == wrong
    assert set(proving) == refused


def test_the_name_of_a_version_stands_in_kept_files() -> None:
    _, shelf = compiled()
    other = {**FILES, "data.json": '{"nobody": "reads this"}'}
    after = compiled(shelf=again(shelf), files=other)[0]
    assert after == alone(other, INVENTORY, "istio-sidecar", Options())
    assert all(Project.of(other).digest in text for name, text in after[3].items() if name[0] != "k")


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_a_difference_is_that_of_the_policies(old: str, new: str) -> None:
    changed = {name: text.replace(old, new, 1) for name, text in FILES.items()}
    shelf = Shelf("c", MemoryStore())
    versions = [Project.of(one) for one in (FILES, changed)]

    def sets() -> Any:
        return [Questions.of(one.checked().compiled, INVENTORY, one.data).all(one.digest) for one in versions]

    for _ in range(2):
        found = _outcome_of(lambda: compare_kept(versions[0], versions[1], INVENTORY, shelf))
        assert found == _outcome_of(lambda: compare_policies(sets()[0], sets()[1], INVENTORY))


def _outcome_of(work: Any) -> Any:
    try:
        return work()
    except GatehouseError as error:
        return str(error)
