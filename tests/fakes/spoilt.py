"""Manifests that are spoilt after they were emitted, and what the proof says of them.

A change is a function of a file's text; a file of which nothing is left is left out.
"""

from collections.abc import Callable

from policies import formula as f
from policies.formula import PolicySet, WorkloadPolicy
from policies.inventory import Inventory
from policies.proof.manifests import read_manifests
from policies.proof.verdict import Verdict, prove_workload
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import TARGETS

WEB, API = "spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/shop/sa/api"
TEAM = f.header("x-team")
Change = Callable[[str], str]


def question(allow: f.Formula, deny: f.Formula = f.FALSE) -> f.Question:
    return f.Question(
        f.Decision.of(f.Disjunct(allow, (f.Origin("p.rego", 3),))),
        f.Decision.of(f.Disjunct(deny, (f.Origin("p.rego", 9),))),
    )


def prove(
    asked: f.Question, target: str, key: str, inventory: Inventory, change: Change = lambda text: text
) -> tuple[Verdict, ...]:
    emission = TARGETS[target](PolicySet.of("sha256:0", WorkloadPolicy(key, asked)), inventory, Options())
    assert not emission.refused
    rendered = {name: change(text) for name, text in files(emission.manifests).items()}
    rendered = {name: text for name, text in rendered.items() if text.strip()}
    return prove_workload(asked, inventory.by_key[key], inventory, read_manifests(rendered))


def replacing(*pairs: tuple[str, str]) -> Change:
    """Every replacement has to hit somewhere, or the test would prove the unspoilt text."""
    hits: set[str] = set()

    def change(text: str) -> str:
        for before, after in pairs:
            if before in text:
                hits.add(before)
                text = text.replace(before, after)
        return text

    change.hits = hits  # type: ignore[attr-defined]
    change.wanted = {before for before, _ in pairs}  # type: ignore[attr-defined]
    return change


def dropping(marker: str) -> Change:
    """Files with `marker` in them are left out."""
    return lambda text: "" if marker in text else text


CALLER = f.equals(f.SOURCE_ID, WEB)
