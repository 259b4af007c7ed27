"""Proofs kept between runs: taken over where nothing changed, and never more than was proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policies import pipeline
from policies.compilation import Compiled, compile_project
from policies.inventory_file import parse_inventory
from policies.kept_proofs import FORMAT, KeptProofs, text_digest
from policies.project import Project
from policies.proof.manifests import read_manifest
from policies.targets.emission import Options

ROOT = Path(__file__).parents[2]
INVENTORY_TEXT = (ROOT / "deploy/demo/inventory.yaml").read_text()
INVENTORY = parse_inventory(INVENTORY_TEXT)
FILES = {
    path.name: path.read_text()
    for name in ("starter/authz/authz", "starter/segmentation/segmentation", "lib/spiffe")
    for path in [ROOT / "rego" / f"{name}.rego"]
}
NARROW = {
    "p.rego": """package gatehouse.authz

allow if contains(input.request.path, "x")

allow if input.request.method == "GET"
"""
}
TARGETS = ("istio-sidecar", "istio-waypoint", "istio-ztunnel", "envoy-rbac", "network-policy")


def run(
    files: dict[str, str], text: str = "", *, compiler: str = "c", **named: Any
) -> tuple[Compiled, KeptProofs]:
    proofs = KeptProofs.read(compiler, text)
    inventory, target = named.pop("inventory", INVENTORY), named.pop("target", "istio-sidecar")
    return compile_project(Project.of(files), inventory, target, named.pop("options", None), proofs), proofs


@pytest.fixture
def proving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workloads that are proved anew."""
    asked: list[str] = []
    for name in ("prove_workload", "prove_segmentation"):
        real = getattr(pipeline, name)

        def noted(question: Any, workload: Any, *rest: Any, real: Any = real) -> Any:
            asked.append(workload.key)
            return real(question, workload, *rest)

        monkeypatch.setattr(pipeline, name, noted)
    return asked


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("files", [FILES, NARROW], ids=["starter", "narrower"])
def test_the_same_policy_is_not_proved_again(files: dict[str, str], target: str, proving: list[str]) -> None:
    first, proofs = run(files, target=target)
    accepted = {one.workload for one in first.proved.verdicts if one.accepted}
    proving.clear()
    again, reused = run(files, proofs.written(), target=target)
    assert again.proved.verdicts == first.proved.verdicts
    assert again.accepted is first.accepted
    assert not accepted & set(proving)
    assert reused.reused == len(accepted)
    assert reused.written() == proofs.written()


def test_a_change_proves_what_it_touches(proving: list[str]) -> None:
    _, proofs = run(FILES)
    proving.clear()
    inventory = parse_inventory(
        INVENTORY_TEXT.replace(
            "name: card-db\n  namespace: shop", "name: card-db\n  namespace: bank"
        ).replace("shop/card-db", "bank/card-db")
    )
    _, elsewhere = run(FILES, inventory=inventory)
    proving.clear()
    changed = {**FILES, "authz.rego": FILES["authz.rego"].replace("/v1/charges/refund", "/v1/refunds")}
    run(changed, elsewhere.written(), inventory=inventory)
    assert set(proving) == {"shop/frontend", "shop/payments"}  # near one another, and not in `bank`
    assert proofs.reused == 0


def test_lines_that_move_are_no_change(proving: list[str]) -> None:
    _, proofs = run(NARROW)
    proving.clear()
    moved = {
        "p.rego": NARROW["p.rego"].replace(
            "\n\nallow if input.request.method", "\n\n# more\n\nallow if input.request.method"
        )
    }
    after, _ = run(moved, proofs.written())
    assert proving == []
    fresh, _ = run(moved)
    assert after.proved.verdicts == fresh.proved.verdicts


@pytest.mark.parametrize(
    "changed",
    [
        {"compiler": "another"},
        {"inventory": parse_inventory(INVENTORY_TEXT.replace("env: prod", "env: test"))},
        {"options": Options(custom_provider="agent")},
        {"target": "istio-ztunnel"},
    ],
    ids=["compiler", "inventory", "options", "target"],
)
def test_proofs_under_other_conditions_count_for_nothing(changed: dict[str, Any]) -> None:
    _, proofs = run(FILES)
    assert run(FILES, proofs.written(), **changed)[1].reused == 0


def _damaged(text: str) -> dict[str, str]:
    document = json.loads(text)
    claims = list(document["proofs"])
    swapped = {one: document["proofs"][other] for one, other in zip(claims, reversed(claims), strict=True)}
    swapped.pop(claims[len(claims) // 2])  # the one in the middle would stay in its place
    wider = json.loads(text)
    for one in wider["proofs"].values():
        one["verdicts"][0]["outcome"] = "narrower"
    unsealed = json.loads(text)
    for one in unsealed["proofs"].values():
        del one["seal"]
    return {
        "nothing": "", "cut": text[: len(text) // 2], "no JSON": "\x00" * 50, "a list": "[]",
        "deep": "[" * 100_000, "another format": text.replace(FORMAT, "something else"),
        "another outcome": json.dumps(wider), "without seals": json.dumps(unsealed),
        "no proofs": json.dumps({"format": FORMAT, "proofs": 1}),
        "swapped": json.dumps({"format": FORMAT, "proofs": swapped}),
        "other types": json.dumps({"format": FORMAT, "proofs": {one: {"seal": 1} for one in claims}}),
        "null": json.dumps({"format": FORMAT, "proofs": dict.fromkeys(claims)}),
    }  # fmt: skip


def test_damaged_and_foreign_text_counts_for_nothing() -> None:
    first, proofs = run(FILES)
    for name, text in _damaged(proofs.written()).items():
        again, reused = run(FILES, text)
        assert reused.reused == 0, name
        assert again.proved.verdicts == first.proved.verdicts


def test_what_is_refused_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emitter that lets everything through is caught, and caught again from what it left."""
    monkeypatch.setattr(
        "policies.pipeline.read_manifest",
        lambda text, what, real=read_manifest: real(text.replace("- GET\n", '- "*"\n'), what),
    )
    wrong, proofs = run(FILES)
    assert not wrong.accepted
    assert not run(FILES, proofs.written())[0].accepted


def test_the_version_s_name_in_a_manifest_is_no_part_of_its_digest() -> None:
    one, other = (f"sha256:{letter * 64}" for letter in "ab")
    assert text_digest(f"a {one} b", one) == text_digest(f"a {other} b", other)
    assert text_digest("a x b", "x") != text_digest("a y b", "y")
