"""Workloads that are guarded in several ways, and manifests for one of them at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from control_plane.cli.policy import app

ROOT = Path(__file__).parents[2]
MODES = {"frontend": "sidecar", "payments": "waypoint", "card-db": "ambient"}
TARGETS = ("istio-sidecar", "istio-waypoint", "istio-ztunnel", "envoy-rbac", "network-policy")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """The demo's inventory with a mode for each workload."""
    document = yaml.safe_load((ROOT / "deploy" / "demo" / "inventory.yaml").read_text())
    for one in document["workloads"]:
        one["mode"] = MODES[one["name"]]
        if one["mode"] == "waypoint":
            one["waypoint"] = {"name": "waypoint"}
    (tmp_path / "inventory.json").write_text(json.dumps(document))
    return tmp_path / "inventory.json"


def compiled(target: str, inventory: Path, *more: str) -> Result:
    return run(
        "compile",
        ROOT / "rego" / "starter",
        "--inventory",
        inventory,
        "--target",
        target,
        "--no-cache",
        *more,
    )


@pytest.mark.parametrize("cache", [("--no-cache",), ()])
def test_each_target_takes_its_own_where_that_is_asked(
    mixed: Path, cache: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    guarded = {}
    for target in TARGETS:
        out = tmp_path / target
        result = run(
            "render", ROOT / "rego" / "starter", "--inventory", mixed, "--target", target, "--out", out,
            "--by-mode", "--output", "json", *cache,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert told["other_modes"] == {}
        objects = [yaml.safe_load(one.read_text()) for one in out.glob("shop.*.yaml")]
        guarded[target] = {one["metadata"]["annotations"]["gatehouse.dev/workload-key"] for one in objects}
        assert guarded[target] == {one["workload"] for one in told["verdicts"]}
    assert guarded == {
        "istio-sidecar": {"shop/frontend"}, "istio-waypoint": {"shop/payments"},
        "istio-ztunnel": {"shop/card-db"}, "envoy-rbac": set(),
        "network-policy": {"shop/frontend", "shop/card-db"},
    }  # fmt: skip


def test_who_is_compiled_for_another_mode_is_told(mixed: Path) -> None:
    result = compiled("istio-sidecar", mixed)
    assert "another mode for 2 workloads: shop/card-db (ambient), shop/payments (waypoint)" in result.stderr
    assert "--by-mode" in result.stderr
    told = json.loads(compiled("istio-sidecar", mixed, "--output", "json").stdout)
    assert told["other_modes"] == {"shop/card-db": "ambient", "shop/payments": "waypoint"}


def test_nothing_is_told_where_modes_are_those_of_the_target(mixed: Path) -> None:
    assert "another mode" not in compiled("istio-sidecar", mixed, "--by-mode").output
    assert "another mode" not in compiled("network-policy", mixed).output
    assert "another mode" not in compiled("istio-sidecar", ROOT / "deploy/demo/inventory.yaml").output
