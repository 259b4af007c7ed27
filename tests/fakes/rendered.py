"""Every kind of object that the compiler writes: the golden files, the starter policies, random policies.

Each comes as the text of one file that `render` would write, under a name that tells where it is from.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from policies import formula as f
from policies.compilation import compile_project
from policies.formula import Decision, Disjunct, PolicySet, Question, WorkloadPolicy
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document, parse_inventory
from policies.project import Project
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import EMITTERS

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "policies" / "targets" / "golden"
MODES = {"istio-sidecar": "sidecar", "istio-waypoint": "waypoint", "istio-ztunnel": "ambient"}
WORDS = [
    "",
    "x",
    "*",
    "a*",
    "/a/{b}",
    "/a/b",
    "shop.test",
    "spiffe://example.org/ns/shop/sa/web",
    "é",
    "a: b",
]


def objects(count: int) -> Iterator[tuple[str, str]]:
    """Name and YAML text of each object for Kubernetes; of random policies `count` for each target."""
    yield from _golden()
    yield from _starter()
    yield from _random(count)


def _golden() -> Iterator[tuple[str, str]]:
    for path in sorted(GOLDEN.glob("*.yaml")):
        for text in path.read_text().split("---\n"):
            if "kind: EnvoyRbac" not in text and "kind: Kustomization" not in text:
                yield f"golden {text.splitlines()[0][2:]}", text


def _starter() -> Iterator[tuple[str, str]]:
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "rego").rglob("*.rego")}
    project = Project.of({name: text for name, text in sources.items() if not name.endswith("_test.rego")})
    inventory = parse_inventory((ROOT / "deploy" / "demo" / "inventory.yaml").read_text())
    for target in [*MODES, "network-policy"]:
        for one in compile_project(project, inventory, target).proved.emission.manifests:
            yield f"starter {target} {one.file_name()}", one.text()


def _random(count: int) -> Iterator[tuple[str, str]]:
    dice = random.Random(7)
    for target in [*MODES, "network-policy"]:
        inventory = _inventory(MODES.get(target, "sidecar"))
        for number in range(count):
            decisions = [Decision.of(*(Disjunct(_formula(dice)) for _ in range(2))) for _ in range(2)]
            asked = Question(*decisions)
            segmentation = EMITTERS[target].segmentation
            policy = WorkloadPolicy(
                "shop/me", None if segmentation else asked, asked if segmentation else None
            )
            emission = EMITTERS[target].emit(PolicySet.of("x", policy), inventory, Options())
            for name, text in files(emission.manifests).items():
                if "kind: Kustomization" not in text:
                    yield f"random {target} {number} {name}", text


def _inventory(mode: str) -> Inventory:
    ports = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 5432, "protocol": "tcp"}]
    more = {"waypoint": {"name": "gate"}} if mode == "waypoint" else {}
    return inventory_from_document({
        "mesh": {"trust_domain": "example.org"},
        "issuers": [{"name": "one", "issuer": "https://one", "jwks_uri": "https://one/keys",
                     "claims": {"role": "string", "groups": "list"}}],
        "workloads": [
            {"name": "me", "namespace": "shop", "service_account": "me", "mode": mode,
             "labels": {"app": "me"}, "services": [{"name": "me", "ports": ports}], **more},
            {"name": "web", "namespace": "shop", "service_account": "web", "labels": {"app": "web"}},
        ],
    })  # fmt: skip


def _formula(dice: random.Random, depth: int = 2) -> f.Formula:
    if depth and dice.random() < 0.5:
        parts = [_formula(dice, depth - 1) for _ in range(2)]
        return dice.choice([f.all_of, f.any_of])(*parts)
    place = dice.choice([
        f.SOURCE_ID, f.PATH, f.HOST, f.METHOD, f.SNI, f.header("x-a"), f.header("X-B"), f.claim("role"),
        f.claim("realm", "roles"),
    ])  # fmt: skip
    word = dice.choice(WORDS)
    found = dice.choice([
        lambda: f.present(place), lambda: f.equals(place, word), lambda: f.starts_with(place, word),
        lambda: f.ends_with(place, word), lambda: f.has_member(f.claim("groups"), [word]),
        lambda: f.equals(f.SOURCE_ID, WORDS[7]), lambda: f.equals(f.PORT, 5432),
        lambda: f.in_network(f.SOURCE_IP, dice.choice(["10.0.0.0/8", "fd00::/8"])),
        lambda: f.matches_glob(f.PATH, dice.choice(["/a/*", "/a/**", "/*/b"]), ("/",)),
    ])()  # fmt: skip
    return f.negate(found) if dice.random() < 0.3 else found
