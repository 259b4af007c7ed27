"""Spoilt manifests beside the table of hazards: tokens, plain text, trust domains, network policies."""

import re

import pytest
from spoilt import CALLER, WEB, dropping, prove, question, replacing

from policies import formula as f
from policies.formula import PolicySet, WorkloadPolicy
from policies.inventory_file import inventory_from_document
from policies.proof.manifests import read_manifests
from policies.proof.network_policy import prove_segmentation
from policies.proof.verdict import Outcome, prove_workload
from policies.targets.emission import Options
from policies.targets.manifest import files
from policies.targets.registry import TARGETS


def test_an_envoy_without_its_token_filter_is_rejected(inventory) -> None:
    asked = question(CALLER & f.negate(f.equals(f.claim("role"), "guest")))
    assert [one.outcome for one in prove(asked, "envoy-rbac", "shop/bare", inventory)] == [Outcome.EXACT]
    unchecked = replacing(
        ("envoy.filters.http.jwt_authn\n  typed_config", "envoy.filters.http.other\n  typed_config")
    )
    wider = prove(asked, "envoy-rbac", "shop/bare", inventory, unchecked)
    assert wider[0].outcome in (Outcome.WIDER, Outcome.UNDECIDED)
    believed = replacing(("https://one/keys", "https://two/keys"))
    assert prove(asked, "envoy-rbac", "shop/bare", inventory, believed)[0].outcome is Outcome.UNDECIDED


def test_plain_text_is_let_through_without_strict_mtls(inventory) -> None:
    """Without PeerAuthentication requests without identity exist, and the proof says where they matter."""
    asked = question(f.negate(f.equals(f.SOURCE_ID, WEB)) & f.equals(f.MTLS, True))
    assert [one.outcome for one in prove(asked, "istio-sidecar", "shop/side", inventory)] == [Outcome.EXACT]
    permissive = replacing(("mode: STRICT", "mode: PERMISSIVE"), ('        principals:\n        - "*"\n', ""))
    after = prove(asked, "istio-sidecar", "shop/side", inventory, permissive)
    assert after[0].outcome is Outcome.WIDER
    assert f.SOURCE_ID not in after[0].witness.values


def test_tokens_of_an_unknown_issuer_are_refused(inventory) -> None:
    asked = question(CALLER & f.equals(f.claim("role"), "admin"))
    after = prove(
        asked, "istio-sidecar", "shop/side", inventory, replacing(("https://one/keys", "https://two/keys"))
    )
    assert after[0].outcome is Outcome.UNDECIDED


def test_a_path_with_a_query_never_holds(inventory) -> None:
    """Rego compares the path without its query; a manifest that lets one in would match nothing either."""
    asked = question(CALLER & f.equals(f.PATH, "/a?b=1"))
    emission = TARGETS["istio-sidecar"](
        PolicySet.of("x", WorkloadPolicy("shop/side", asked)), inventory, Options()
    )
    assert "/a?" not in "".join(one.text() for one in emission.manifests)
    assert prove(asked, "istio-sidecar", "shop/side", inventory)[0].outcome is Outcome.EXACT


def test_unknown_fields_are_refused_not_skipped(inventory) -> None:
    change = replacing(("        principals:\n", "        remoteNamespaces:\n"))
    assert (
        prove(question(CALLER), "istio-sidecar", "shop/side", inventory, change)[0].outcome
        is Outcome.UNDECIDED
    )


def test_trust_domain_aliases_widen_principals() -> None:
    document = {
        "mesh": {"trust_domain": "example.org", "trust_domain_aliases": ["old.org"]},
        "workloads": [
            {"name": "side", "namespace": "shop", "labels": {"app": "side"},
             "services": [{"name": "side", "ports": [{"port": 80, "protocol": "http"}]}]},
            {"name": "web", "namespace": "shop", "service_account": "web", "labels": {"app": "web"}},
        ],
    }  # fmt: skip
    inventory = inventory_from_document(document)
    verdict = prove(question(CALLER), "istio-sidecar", "shop/side", inventory)[0]
    assert verdict.outcome is Outcome.NARROWER  # nothing can be said exactly, so nobody is let in
    mesh = {"mesh": {"trust_domain": "example.org"}}
    plain = inventory_from_document(document | mesh)
    emission = TARGETS["istio-sidecar"](
        PolicySet.of("x", WorkloadPolicy("shop/side", question(CALLER))), plain, Options()
    )
    naive = prove_workload(
        question(CALLER), inventory.by_key["shop/side"], inventory, read_manifests(files(emission.manifests))
    )
    assert naive[0].outcome is Outcome.WIDER
    assert naive[0].witness.get(f.SOURCE_ID) == "spiffe://old.org/ns/shop/sa/web"


@pytest.mark.parametrize(("change", "outcome"), [
    (lambda text: text, Outcome.EXACT),
    (lambda text: re.sub(r" +app: web\n", "", text), Outcome.WIDER),
    (replacing(("metadata.name: shop", "metadata.name: jobs")), Outcome.NARROWER),
    (replacing(("port: 8080", "port: 22")), Outcome.WIDER),
    (dropping("NetworkPolicy"), Outcome.WIDER),
    (replacing(("- Ingress", "- Egress")), Outcome.WIDER),
    (replacing(("- from:", "- comesFrom:")), Outcome.UNDECIDED),
])  # fmt: skip
def test_spoilt_network_policies(change, outcome, inventory) -> None:
    asked = question(CALLER)
    policies = PolicySet.of("x", WorkloadPolicy("shop/side", None, asked))
    rendered = files(TARGETS["network-policy"](policies, inventory, Options()).manifests)
    spoilt = {
        name: text for name, text in ((name, change(text)) for name, text in rendered.items()) if text.strip()
    }
    verdict = prove_segmentation(asked, inventory.by_key["shop/side"], inventory, read_manifests(spoilt))
    assert verdict.outcome is outcome, str(verdict)
