"""Our formulas proved equal to what OPA's partial evaluation leaves, where every attribute is present.

OPA's residual drops `not` over what is missing, so that the two are held against each other only on requests
that have every attribute which either reads. The proof is our own engine's: a witness is a bug in one of the
two. Residuals with support modules, `else`, `every` or `with` take no part: they refer to the policy itself.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from policies import formula as f
from policies.formula import Attribute, Formula
from policies.formula.expression import atoms_of
from policies.inventory import Inventory, Workload
from policies.inventory_file import inventory_from_document, parse_inventory
from policies.project import Project
from policies.proof.dimensions import Dimensions
from policies.proof.question import QuestionMeaning
from policies.proof.space import Space, Witness
from policies.questions import Questions, destination_document, inventory_document

ROOT = Path(__file__).resolve().parents[3]
UNKNOWN = ("input.source", "input.request", "input.jwt", "input.connection", "input.destination.port")
KEYED = {("source", "labels"), ("request", "headers")}
HEAD = "package gatehouse.authz\n\ndefault allow := false\n\ndefault deny := false\n\n"
PORTS = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 5432, "protocol": "tcp"}]
INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "issuers": [{"name": "one", "issuer": "https://one", "jwks_uri": "https://one/keys",
                 "claims": {"role": "string", "groups": "list"}}],
    "workloads": [
        {"name": name, "namespace": namespace, "service_account": name, "mode": "sidecar",
         "labels": {"app": name, "tier": tier}, "services": [{"name": name, "ports": PORTS}]}
        for name, namespace, tier in (
            ("web", "shop", "front"), ("pay", "shop", "back"), ("job", "ops", "back"),
        )
    ],
})  # fmt: skip
BODIES = [
    'input.source.namespace == "shop"; input.request.method == "GET"',
    '"POST" == input.request.method; "front" != input.source.labels.tier',
    'input.request.method in {"GET", "HEAD"}; startswith(input.request.path, "/a")',
    'input.request.path in {"/a", "/b"}; input.source.service_account != "web"',
    'endswith(input.request.path, ".png"); contains(input.request.host, "shop")',
    'not startswith(input.request.path, "/admin"); input.connection.mtls',
    'net.cidr_contains("10.0.0.0/8", input.source.ip)',
    'not net.cidr_contains("10.0.0.0/8", input.source.ip)\n\tinput.source.namespace == "ops"',
    'glob.match("/a/*/c", ["/"], input.request.path)',
    'regex.match("^/a/[0-9]+$", input.request.path)',
    'input.request.headers["x-team"] == "blue"; not input.request.headers["x-env"] == "test"',
    'input.jwt.claims.role == "admin"',
    'input.destination.port == 8080; input.source.trust_domain == data.inventory.trust_domain',
    'input.destination.port in {8080, 5432}; input.source.namespace == input.destination.namespace',
    'some one in data.inventory.workloads; one.namespace == "ops"; input.source.spiffe_id == one.spiffe_id',
    'some path in ["/x", "/y"]\n\tstartswith(input.request.path, path)\n\tinput.request.method == "PUT"',
    'reader(input.request.method)\n\tinput.request.path == "/r"',
    'not blocked\n\tinput.request.method == "GET"',
    'input.destination.service == "pay"; input.request.path == "/only/pay"',
]  # fmt: skip
COMMON = """
reader(method) if method == "GET"

reader(method) if method == "HEAD"

blocked if input.request.path == "/blocked"

blocked if {
	input.source.namespace == "ops"
	input.request.method == "DELETE"
}
"""


class Apart(Exception):
    """A residual that takes no part; the argument says why."""


def residual(opa: Path, folder: Path, rule: str, known: object) -> list[list[Any]]:
    """The queries that OPA leaves of one rule; raises Apart where there are support modules as well."""
    (folder / "input.json").write_text(json.dumps({"destination": known}))
    flags = [part for path in UNKNOWN for part in ("-u", path)]
    command = [opa, "eval", "--partial", "-f", "json", "-d", folder / "policy", "-i", folder / "input.json"]
    asked = f"data.gatehouse.authz.{rule} == true"
    finished = subprocess.run([*command, *flags, asked], check=True, capture_output=True, timeout=60)
    answer = json.loads(finished.stdout).get("partial", {})
    if answer.get("modules"):
        raise Apart("support modules")
    queries: list[list[Any]] = answer.get("queries", [])
    return queries


def as_formula(queries: Iterable[Iterable[Any]]) -> Formula:
    """A residual as a formula: some query whose expressions all hold."""
    return f.any_of(*(f.all_of(*map(_expression, query)) for query in queries))


def _expression(node: Any) -> Formula:
    if node.get("with") or (isinstance(node["terms"], dict) and "domain" in node["terms"]):
        raise Apart("with or every")
    terms = node["terms"] if isinstance(node["terms"], list) else [node["terms"]]
    found = f.equals(_attribute(terms[0]), True) if len(terms) == 1 else _call(terms)
    return f.negate(found) if node.get("negated") else found


def _call(terms: list[Any]) -> Formula:
    name = ".".join(part["value"] for part in terms[0]["value"])
    left, right, *more = terms[1:]
    if name in ("eq", "equal", "neq"):
        place, constant = (left, right) if left["type"] == "ref" else (right, left)
        return (f.differs if name == "neq" else f.equals)(_attribute(place), constant["value"])
    if name == "internal.member_2":
        return f.one_of(_attribute(left), [one["value"] for one in right["value"]])
    if name in ("startswith", "endswith", "contains"):
        build = {"startswith": f.starts_with, "endswith": f.ends_with, "contains": f.contains}[name]
        return build(_attribute(left), right["value"])
    if name == "net.cidr_contains":
        return f.in_network(_attribute(right), left["value"])
    if name == "regex.match":
        return f.matches(_attribute(right), left["value"])
    if name == "glob.match":
        return f.matches_glob(
            _attribute(more[0]), left["value"], tuple(one["value"] for one in right["value"])
        )
    raise Apart(name)


def _attribute(term: Any) -> Attribute:
    if term["type"] != "ref" or term["value"][0]["value"] != "input":
        raise Apart(f"a {term['type']} in place of an attribute")
    first, second, *rest = (part["value"] for part in term["value"][1:])
    if (first, second) in KEYED or second == "claims":
        return Attribute(f"{first}.{second}", tuple(rest))
    return Attribute(f"{first}.{second}")


def difference(ours: Formula, theirs: Formula, inventory: Inventory, workload: Workload) -> Witness | None:
    """A request with every attribute there, on which the two answer differently."""
    read = {atom.attribute for one in (ours, theirs) for atom in atoms_of(one)}
    there = f.all_of(*(f.equals(one, True) if one == f.MTLS else f.present(one) for one in sorted(read)))
    space = Space()
    shapes = {("role",): "string", ("groups",): "list"}
    meaning = QuestionMeaning(
        space, Dimensions.of(strict=True, claim_shapes=shapes, authenticated=True), inventory, workload
    )
    left, right = (meaning.of(one & there) for one in (ours, theirs))
    return space.difference(left, right) or space.difference(right, left)


def compare(opa: Path, folder: Path, sources: dict[str, str], inventory: Inventory) -> tuple[int, list[str]]:
    """How many residuals were proved equal, and why others took no part; fails with a witness."""
    policy = folder / "policy"
    policy.mkdir()
    for name, text in sources.items():
        (policy / name.replace("/", "_")).write_text(text)
    (policy / "data.json").write_text(json.dumps({"inventory": inventory_document(inventory)}))
    project = Project.of(sources)
    questions = Questions.of(project.checked().compiled, inventory, project.data)
    proved, apart = 0, []
    for workload in inventory.workloads:
        question = questions.workload(workload).authz
        assert question is not None
        known = destination_document(workload, workload.services[0].name if workload.services else None)
        for rule, ours in (("allow", question.allow.formula), ("deny", question.deny.formula)):
            try:
                theirs = as_formula(residual(opa, folder, rule, known))
            except Apart as error:
                apart.append(f"{workload.key} {rule}: {error}")
                continue
            witness = difference(ours, theirs, inventory, workload)
            assert witness is None, f"{workload.key} {rule}: {witness}\nours {ours}\nOPA's {theirs}"
            proved += 1
    return proved, apart


@pytest.mark.peers
@pytest.mark.parametrize("body", BODIES)
def test_one_rule(body: str, peer: Callable[[str], Path], tmp_path: Path) -> None:
    text = f'{HEAD}allow if {{\n\t{body}\n}}\n\ndeny if input.request.path == "/never"\n{COMMON}'
    proved, apart = compare(peer("opa"), tmp_path, {"authz.rego": text}, INVENTORY)
    assert (proved, apart) == (6, [])


@pytest.mark.peers
def test_starter_policies(peer: Callable[[str], Path], tmp_path: Path) -> None:
    files = [ROOT / "rego/lib/spiffe.rego", ROOT / "rego/starter/authz/authz.rego"]
    sources = {str(file.relative_to(ROOT)): file.read_text() for file in files}
    inventory = parse_inventory((ROOT / "deploy/demo/inventory.yaml").read_text())
    proved, apart = compare(peer("opa"), tmp_path, sources, inventory)
    assert proved >= 2 * len(inventory.workloads) - 2, apart


def test_a_difference_is_found(tmp_path: Path) -> None:
    workload = INVENTORY.workloads[0]
    ours, theirs = f.starts_with(f.PATH, "/a/"), f.starts_with(f.PATH, "/a")
    witness = difference(ours, theirs, INVENTORY, workload)
    assert witness is not None and "/a" in str(witness.values)
    assert difference(ours, ours, INVENTORY, workload) is None
