"""Our reading of a policy against what Istio itself makes of it, for the published pairs."""

import os
from pathlib import Path

import pytest
import yaml

from policies.documents import read_documents
from policies.proof.dimensions import Dimensions
from policies.proof.envoy_policy import RbacReader, snake_case
from policies.proof.istio_policy import Chain, Reader
from policies.proof.probes import Dimension, Probe
from policies.proof.space import FALSE, Space
from policies.proof.ztunnel_policy import ZtunnelReader

CONFORMANCE = os.environ.get("GATEHOUSE_CONFORMANCE", "")
DATA = Path(CONFORMANCE) / "istio"
TRUST_DOMAINS = {"td-aliases-source-principal": ("new-td", "old-td", "some-trustdomain")}
CASES = (
    sorted(path for kind in ("http", "tcp") for path in DATA.glob(f"{kind}/*-in.yaml")) if CONFORMANCE else []
)

pytestmark = pytest.mark.skipif(
    not CONFORMANCE, reason="GATEHOUSE_CONFORMANCE names no conformance directory"
)


def same(space: Space, left: int, right: int) -> None:
    for one, other, sign in ((left, right, "ours only"), (right, left, "Istio's only")):
        witness = space.difference(one, other)
        assert witness is None, f"{sign}: {witness}"


def without_stars(node):
    """Values `*` and what Istio makes of them left out: beside them every other value is invisible."""
    if isinstance(node, list):
        kept = [one for one in node if one != "*"]
        return [without_stars(one) for one in (kept or node)]
    if not isinstance(node, dict):
        return node
    found = {key: without_stars(value) for key, value in node.items()}
    for key in ("orRules", "orIds", "orMatch"):
        if key in found:
            ((name, parts),) = found[key].items()
            kept = [one for one in parts if not is_presence(one)]
            found[key] = {name: kept or parts}
    return found


def is_presence(node) -> bool:
    text = str(node)
    leaves = node.get("andIds", {}).get("ids", [node])
    return all(
        "'presentMatch': True" in str(one) or "{'regex': '.+'}" in str(one) for one in leaves
    ) or "'.*/ns/.*/.*'" in text  # fmt: skip


class Propositional(Space):
    """Every test stands for itself, as a coin that may fall either way.

    Many published rules contradict themselves and match no request, so that anything would mean the same;
    here only the same Boolean function of the same tests does.
    """

    def test(self, test: Probe) -> int:
        return super().test(Probe(Dimension(test.dimension.rank, "coin", "flag", (repr(test),))))


@pytest.mark.parametrize("kind", [Space, Propositional])
@pytest.mark.parametrize("stars", [True, False], ids=["as-published", "without-stars"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.name[:-8]}")
def test_a_policy_means_what_its_envoy_filter_means(path, stars, kind) -> None:
    """As a whole, and rule by rule: Istio names each RBAC policy after its rule."""
    name = path.name.removesuffix("-in.yaml")
    chain = Chain.HTTP if path.parent.name == "http" else Chain.TCP
    space, dimensions = kind(), Dimensions.of(strict=False)
    reader = Reader(space, dimensions, chain, TRUST_DOMAINS.get(name, ()))
    rbac = RbacReader(space, dimensions, chain is Chain.HTTP)
    outs = sorted(path.parent.glob(f"{name}-out*.yaml"))
    filters = [one for out in outs for one in read_documents(out.read_text(), out.name)]
    policies = list(read_documents(path.read_text(), path.name))
    if not stars:
        filters, policies = without_stars(filters), without_stars(policies)
    theirs_by_rule = {
        rule: rbac.policy(snake_case(one))
        for document in filters
        for rule, one in document["typedConfig"]["rules"]["policies"].items()
    }
    matches: dict[str, list[int]] = {"ALLOW": [], "DENY": []}
    for policy in policies:
        spec, metadata = policy["spec"], policy["metadata"]
        matches[spec.get("action", "ALLOW")].append(reader.policy(metadata["namespace"], spec))
        for index, rule in enumerate(spec["rules"]):
            ours = reader.policy(metadata["namespace"], spec | {"rules": [rule]})
            label = f"ns[{metadata['namespace']}]-policy[{metadata['name']}]-rule[{index}]"
            theirs = theirs_by_rule.get(label, FALSE)
            same(space, ours, theirs)
    ours = space.any_of(matches["DENY"]) ^ 1
    if matches["ALLOW"]:
        ours = space.all_of([ours, space.any_of(matches["ALLOW"])])
    same(space, ours, rbac.filters(filters))


@pytest.mark.parametrize("name", ["allow-full", "deny-groups"])
def test_a_policy_means_what_its_ztunnel_list_means(name) -> None:
    """As a whole, and group by group: Istio keeps the rules' order and leaves dropped ones out."""
    space, dimensions = Space(), Dimensions.of(strict=False)
    reader = ZtunnelReader(space, dimensions)
    policy = yaml.safe_load((DATA / "ambient" / f"{name}-in.yaml").read_text())
    listed = yaml.safe_load((DATA / "ambient" / f"{name}.yaml").read_text())
    namespace, spec = policy["metadata"].get("namespace", ""), policy["spec"]
    same(space, reader.policy(namespace, spec), reader.authorization(listed))
    groups = iter(listed["groups"])
    for rule in without_stars(spec["rules"]):
        ours = reader.policy(namespace, spec | {"rules": [rule]})
        if spec.get("action") != "DENY" and ours == FALSE:
            continue
        group = without_presence(next(groups))
        same(space, ours, reader.authorization({"groups": [group]}))
    assert next(groups, None) is None


def without_presence(node):
    if isinstance(node, list):
        kept = [one for one in node if one != {"presence": {}}]
        return [without_presence(one) for one in (kept or node)]
    return {key: without_presence(value) for key, value in node.items()} if isinstance(node, dict) else node


def test_single_rules_are_told_apart() -> None:
    """The comparison can fail: one changed value in Istio's output is found."""
    path = DATA / "http" / "single-policy-in.yaml"
    space, dimensions = Propositional(), Dimensions.of(strict=False)
    (policy,) = read_documents(path.read_text(), path.name)
    ours = Reader(space, dimensions, Chain.HTTP).policy("foo", policy["spec"])
    text = (DATA / "http" / "single-policy-out.yaml").read_text()
    rbac = RbacReader(space, dimensions)
    for before, after in (
        ("9012", "9013"),
        ("prefixLen: 18", "prefixLen: 19"),
        ("10.0.1.1", "10.0.1.2"),
    ):
        assert before in text
        changed = rbac.filters(list(read_documents(text.replace(before, after), "changed")))
        assert space.difference(ours, changed) is not None or space.difference(changed, ours) is not None
