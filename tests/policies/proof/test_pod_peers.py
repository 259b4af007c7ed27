"""NetworkPolicies that say callers by the labels a policy speaks of, and what spoils them."""

import dataclasses

import pytest

from policies import formula as f
from policies.inventory import Inventory, Mode, Port, Protocol
from policies.inventory_file import inventory_from_document
from policies.proof.manifests import read_manifests
from policies.proof.network_policy import prove_segmentation
from policies.proof.verdict import Outcome, Verdict
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import TARGETS

TIERS, PLACES = ("web", "app", "data"), ("north", "south")


def estate() -> Inventory:
    """Twelve workloads in two namespaces, a tier each."""
    return inventory_from_document(
        {
            "mesh": {"trust_domain": "example.org"},
            "workloads": [
                {
                    "name": f"s{index}", "service_account": f"s{index}", "namespace": PLACES[index % 2],
                    "labels": {"app": f"s{index}", "tier": TIERS[index % 3]},
                    "services": [{"name": f"s{index}", "ports": [{"port": 80, "protocol": "tcp"}]}],
                }
                for index in range(12)
            ],
        }
    )  # fmt: skip


def rendered(question: f.Question, inventory: Inventory) -> dict[str, str]:
    policies = f.PolicySet.of("x", f.WorkloadPolicy("north/s2", None, question))
    emission = TARGETS["network-policy"](policies, inventory, Options())
    assert not emission.shortfalls
    return files(emission.manifests)


def proved(question: f.Question, inventory: Inventory, texts: dict[str, str]) -> Verdict:
    return prove_segmentation(question, inventory.by_key["north/s2"], inventory, read_manifests(texts))


def allowing(*rules: f.Formula, deny: f.Formula = f.FALSE) -> f.Question:
    origin = (f.Origin("p.rego", 1),)
    return f.Question(
        f.Decision.of(*(f.Disjunct(one, origin) for one in rules)), f.Decision.of(f.Disjunct(deny, origin))
    )


BY_TIER = allowing(f.one_of(f.label("tier"), ["web", "app"]))


def test_a_label_that_the_policy_names_says_all_its_workloads_at_once() -> None:
    inventory = estate()
    texts = rendered(BY_TIER, inventory)
    (text,) = (text for name, text in texts.items() if "networkpolicy" in name)
    assert text.count("namespaceSelector") == 1 and "operator: In" in text
    assert "app: s0" not in text
    assert proved(BY_TIER, inventory, texts).outcome is Outcome.EXACT


def test_who_is_denied_shares_no_selector_with_the_others() -> None:
    asked = allowing(
        f.one_of(f.label("tier"), ["web", "app"]),
        deny=f.equals(f.SOURCE_ID, "spiffe://example.org/ns/south/sa/s3"),
    )
    inventory = estate()
    texts = rendered(asked, inventory)
    text = "".join(texts.values())
    assert "app: s3" not in text and "app: s9" in text  # the other web in the south is said by itself
    assert proved(asked, inventory, texts).outcome is Outcome.EXACT


def test_callers_named_one_by_one_are_said_by_all_their_labels() -> None:
    callers = [
        f"spiffe://example.org/ns/north/sa/s{index}" for index in (0, 6)
    ]  # all of the web in the north
    asked = allowing(f.one_of(f.SOURCE_ID, callers))
    inventory = estate()
    texts = rendered(asked, inventory)
    assert "app: s0" in "".join(texts.values()) and "app: s6" in "".join(texts.values())
    assert proved(asked, inventory, texts).outcome is Outcome.EXACT


@pytest.mark.parametrize(("was", "becomes", "outcome"), [
    ("          - web\n", "          - web\n          - data\n", Outcome.WIDER),
    ("          - web\n", "", Outcome.NARROWER),
    ("          - south\n", "", Outcome.NARROWER),
    ("key: tier\n          operator: In", "key: tier\n          operator: NotIn", Outcome.WIDER),
    ("key: tier\n", "key: app\n", Outcome.NARROWER),
    ("operator: In", "operator: Within", Outcome.UNDECIDED),
    ("operator: In", "operator: Exists", Outcome.UNDECIDED),
    ("key: kubernetes.io/metadata.name", "key: team", Outcome.UNDECIDED),
])  # fmt: skip
def test_spoilt_expressions_are_noticed(was, becomes, outcome) -> None:
    inventory = estate()
    texts = rendered(BY_TIER, inventory)
    spoilt = {name: text.replace(was, becomes) for name, text in texts.items()}
    assert spoilt != texts
    verdict = proved(BY_TIER, inventory, spoilt)
    assert verdict.outcome is outcome, str(verdict)


def tunnelled() -> Inventory:
    """The estate in an ambient mesh, with two ports each."""
    base = estate()
    ports = (Port(80, 80, Protocol.TCP), Port(81, 81, Protocol.TCP))
    return dataclasses.replace(
        base,
        workloads=tuple(
            dataclasses.replace(
                one, mode=Mode.AMBIENT, services=(dataclasses.replace(one.services[0], ports=ports),)
            )
            for one in base.workloads
        ),
    )


def test_the_tunnel_of_an_ambient_mesh_carries_every_port() -> None:
    """Callers come by port 15008 there: without it nobody of the mesh gets in, and with it to every port."""
    inventory = tunnelled()
    texts = rendered(BY_TIER, inventory)
    (name,) = (name for name in texts if "networkpolicy" in name)
    assert proved(BY_TIER, inventory, texts).outcome is Outcome.EXACT
    closed = {name: texts[name].replace("    - port: 15008\n      protocol: TCP\n", "")}
    assert closed[name] != texts[name]
    assert proved(BY_TIER, inventory, closed).outcome is Outcome.NARROWER
    one_port = allowing(f.one_of(f.label("tier"), ["web", "app"]) & f.equals(f.PORT, 80))
    assert proved(one_port, inventory, texts).outcome is Outcome.WIDER
    narrow = {name: texts[name].replace("    - port: 81\n      protocol: TCP\n", "")}
    verdict = proved(one_port, inventory, narrow)
    assert verdict.outcome is Outcome.WIDER
    assert verdict.witness is not None and verdict.witness.get(f.PORT) == 81


def test_whom_one_port_is_for_gets_no_tunnel() -> None:
    inventory = tunnelled()
    one_port = allowing(f.one_of(f.label("tier"), ["web", "app"]) & f.equals(f.PORT, 80))
    emission = TARGETS["network-policy"](
        f.PolicySet.of("x", f.WorkloadPolicy("north/s2", None, one_port)), inventory, Options()
    )
    (shortfall,) = emission.shortfalls
    assert "15008" in shortfall.reason
    assert proved(one_port, inventory, files(emission.manifests)).outcome is Outcome.NARROWER


@pytest.mark.parametrize("mode", [Mode.NONE, Mode.AMBIENT])
def test_a_pod_without_ports_is_closed(mode: Mode) -> None:
    """A rule without ports would be one for all ports, and a job listens on none."""
    base = estate()
    inventory = dataclasses.replace(
        base,
        workloads=tuple(dataclasses.replace(one, mode=mode, services=()) for one in base.workloads),
    )
    texts = rendered(BY_TIER, inventory)
    assert proved(BY_TIER, inventory, texts).outcome is Outcome.EXACT
    assert all("ingress: []" in text for name, text in texts.items() if "networkpolicy" in name)
