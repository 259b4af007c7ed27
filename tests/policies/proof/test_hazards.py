"""Each hazard of mesh policies as a mutation: the emitted text is spoilt, and the proof names a request.

A mutation stands for an emitter that got one thing wrong. The unspoilt text is proved first, so that it is
the mutation that the proof rejects.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from policies import formula as f
from policies.formula import PolicySet, WorkloadPolicy
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.proof.manifests import read_manifests
from policies.proof.network_policy import prove_segmentation
from policies.proof.verdict import Outcome, Verdict, prove_workload
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
BOTH = "        - example.org/ns/shop/sa/api\n        - example.org/ns/shop/sa/web\n"
PORTS = '        ports:\n        - "8080"\n        - "9090"\n'
HAZARDS = {
    "unequal without presence": (
        question(CALLER & f.differs(TEAM, "evil")), "istio-sidecar", "shop/side",
        replacing(('      values:\n      - "*"\n', "")), {"source.spiffe_id": WEB},
    ),
    "a star in the middle of a DENY": (
        question(CALLER, f.contains(f.PATH, "admin")), "istio-sidecar", "shop/side",
        replacing(('        paths:\n        - "*"\n', '        paths:\n        - "*admin*"\n')), {},
    ),
    "a star in the middle of a header DENY": (
        question(CALLER, f.starts_with(TEAM, "ev")), "istio-sidecar", "shop/side",
        replacing(('- "ev*"', '- "e*v*"')), {},
    ),
    "namespace without trust domain": (
        question(f.one_of(f.SOURCE_ID, [WEB, API])), "istio-sidecar", "shop/side",
        replacing(("        principals:\n" + BOTH,
                   "        namespaces:\n        - shop\n")), {},
    ),
    "service account without trust domain": (
        question(CALLER), "istio-sidecar", "shop/side",
        replacing(("        principals:\n        - example.org/ns/shop/sa/web\n",
                   "        serviceAccounts:\n        - shop/web\n")), {},
    ),
    "a principal prefix instead of an exact principal": (
        question(CALLER), "istio-sidecar", "shop/side", replacing(("sa/web\n", 'sa/web*\n')), {},
    ),
    "a DENY with an HTTP field and no ports, which refuses a TCP port too": (
        question(CALLER, f.equals(f.METHOD, "POST")), "istio-sidecar", "shop/side",
        lambda text: text.replace(PORTS, "") if "action: DENY" in text else text, {"destination.port": 5432},
    ),
    "no ALLOW where nobody may call": (
        question(f.FALSE), "istio-sidecar", "shop/side", dropping("action: ALLOW"), {},
    ),
    "an ALLOW with an empty rule": (
        question(f.FALSE), "istio-sidecar", "shop/side",
        replacing(("  action: ALLOW\n", "  action: ALLOW\n  rules:\n  - {}\n")), {},
    ),
    "no DENY": (
        question(CALLER, f.starts_with(f.PATH, "/admin")), "istio-sidecar", "shop/side",
        dropping("action: DENY"), {"request.path": "/admin"},
    ),
    "a DENY of another workload's labels": (
        question(CALLER, f.starts_with(f.PATH, "/admin")), "istio-sidecar", "shop/side",
        lambda text: text.replace("app: side", "app: web") if "action: DENY" in text else text,
        {"request.path": "/admin"},
    ),
    "a DENY that only tries itself out": (
        question(CALLER, f.starts_with(f.PATH, "/admin")), "istio-sidecar", "shop/side",
        lambda text: text.replace("  annotations:\n", '  annotations:\n    istio.io/dry-run: "true"\n')
        if "action: DENY" in text else text, {"request.path": "/admin"},
    ),
    "a DENY that only writes down": (
        question(CALLER, f.starts_with(f.PATH, "/admin")), "istio-sidecar", "shop/side",
        replacing(("action: DENY", "action: AUDIT")), {"request.path": "/admin"},
    ),
    "the query of a path left out": (
        question(CALLER & f.one_of(f.PATH, ["/a?b=1", "/c"])), "istio-sidecar", "shop/side",
        replacing(("- /c\n", "- /c\n        - /a\n")), {"request.path": "/a"},
    ),
    "a literal star at the end": (
        question(CALLER & f.one_of(f.PATH, ["/a*", "/c"])), "istio-sidecar", "shop/side",
        replacing(("- /c\n", '- /c\n        - "/a*"\n')), {"request.path": "/a"},
    ),
    "a header that is there but empty": (
        question(CALLER & f.present(TEAM) & f.differs(TEAM, "")), "envoy-rbac", "shop/bare",
        lambda text: text.replace("exact: \"\"", "exact: never"), {"request.headers[\"x-team\"]": ""},
    ),
    "addresses that a header may claim": (
        question(f.in_network(f.SOURCE_IP, "10.0.0.0/8")), "istio-sidecar", "shop/side",
        replacing(("ipBlocks:", "remoteIpBlocks:")), {},
    ),
    "STRICT mTLS with a port left out": (
        question(f.negate(CALLER)), "istio-sidecar", "shop/side",
        replacing(("    mode: STRICT\n",
                   '    mode: STRICT\n  portLevelMtls:\n    "8080":\n      mode: DISABLE\n')),
        {"source.spiffe_id": None},
    ),
    "a port that isn't listed": (
        question(CALLER), "istio-sidecar", "shop/side",
        replacing(('        - "8080"\n', '        - "8080"\n        - "8081"\n')), {"destination.port": 8081},
    ),
    "no ports at all": (
        question(CALLER), "istio-sidecar", "shop/side",
        replacing(('    to:\n    - operation:\n        ports:\n        - "5432"\n', ""), (PORTS[15:], "")),
        {},
    ),
    "no STRICT mTLS under a negative condition on callers": (
        question(f.negate(CALLER)), "istio-sidecar", "shop/side", dropping("PeerAuthentication"),
        {"source.spiffe_id": None},
    ),
    "no STRICT mTLS where everybody may call": (
        question(f.TRUE), "istio-ztunnel", "shop/ambient", replacing(("mode: STRICT", "mode: PERMISSIVE")),
        {"source.spiffe_id": None},
    ),
    "STRICT mTLS of another workload": (
        question(f.negate(CALLER)), "istio-sidecar", "shop/side",
        lambda text: text.replace("app: side", "app: web") if "PeerAuthentication" in text else text,
        {"source.spiffe_id": None},
    ),
    "two claims for one that must be a text": (
        question(CALLER & f.equals(f.claim("role"), "admin")), "istio-sidecar", "shop/side",
        replacing(("claims[role]", "claims[groups]")), {},
    ),
    "a claim excluded where no token is checked": (
        question(CALLER & f.negate(f.equals(f.claim("role"), "guest"))), "istio-sidecar", "shop/side",
        dropping("RequestAuthentication"), {},
    ),
    "a template read as more than one segment": (
        question(CALLER & f.matches_glob(f.PATH, "/a/*", ("/",))), "istio-sidecar", "shop/side",
        replacing(('"/a/{*}"', '"/a/{**}"')), {},
    ),
    "a path prefix cut short": (
        question(CALLER & f.starts_with(f.PATH, "/pay/")), "istio-sidecar", "shop/side",
        replacing(('"/pay/*"', '"/pay*"')), {"request.path": "/pay"},
    ),
    "excluded values of a header in place of values": (
        question(CALLER & f.equals(TEAM, "a")), "istio-sidecar", "shop/side",
        replacing(("values:", "notValues:")), {},
    ),
    "a host in the wrong case": (
        question(CALLER & f.any_of(f.equals(f.HOST, "Admin.test"), f.equals(f.HOST, "b.test"))),
        "istio-sidecar", "shop/side", replacing(("- b.test", "- b.test\n        - Admin.test")),
        {"request.host": "admin.test"},
    ),
    "L7 stripped from a DENY by ztunnel": (
        question(f.one_of(f.SOURCE_ID, [WEB, API]), f.equals(f.SOURCE_ID, API) & f.equals(f.METHOD, "POST")),
        "istio-ztunnel", "shop/ambient",
        lambda text: text.replace(PORTS, PORTS + "        methods:\n        - POST\n").replace(PORTS, "")
        if "action: DENY" in text else text, {"source.spiffe_id": API},
    ),
    "trust domains, which ztunnel doesn't read": (
        question(CALLER), "istio-ztunnel", "shop/ambient",
        replacing(("        principals:\n        - example.org/ns/shop/sa/web\n",
                   "        namespaces:\n        - shop\n        trustDomains:\n        - example.org\n")),
        {},
    ),
    "selectors, which waypoints ignore": (
        question(CALLER, f.starts_with(f.PATH, "/admin")), "istio-waypoint", "shop/way",
        lambda text: text.replace('  targetRefs:\n  - group: ""\n    kind: Service\n    name: way\n',
                                  "  selector:\n    matchLabels:\n      app: way\n")
        if "action: DENY" in text else text, {},
    ),
    "the workload's ports at a waypoint, which counts the service's": (
        question(CALLER & f.equals(f.PORT, 9090)), "istio-waypoint", "shop/way",
        lambda text: text.replace('"9090"', '"80"') if "targetRefs" in text else text,
        {"destination.port": 8080},
    ),
    "a ztunnel behind a waypoint that admits everyone": (
        question(CALLER), "istio-waypoint", "shop/way",
        lambda text: text.replace("- example.org/ns/shop/sa/gate", '- "example.org/*"')
        if "selector" in text else text, {},
    ),
    "an Envoy filter with a prefix for an exact name": (
        question(CALLER), "envoy-rbac", "shop/bare", replacing(("exact: ", "prefix: ")), {},
    ),
    "an Envoy DENY that became an ALLOW": (
        question(CALLER, f.starts_with(f.PATH, "/admin")), "envoy-rbac", "shop/bare",
        replacing(("action: DENY", "action: ALLOW")), {},
    ),
    "Envoy filters without the one for TCP": (
        question(CALLER), "envoy-rbac", "shop/bare",
        lambda text: text[: text.index("tcp:")] + "tcp: []\n" if "tcp:" in text else text, {},
    ),
}  # fmt: skip
REFUSED_TOO_MUCH = {"a DENY with an HTTP field and no ports, which refuses a TCP port too"}
"""These refuse more than Rego does: the proof calls them narrower, and names a request that is lost."""


@pytest.mark.parametrize("name", HAZARDS)
def test_a_spoilt_manifest_is_rejected_with_a_request(name, inventory) -> None:
    asked, target, key, change, expected = HAZARDS[name]
    before = prove(asked, target, key, inventory)
    assert all(one.accepted for one in before), [str(one) for one in before]
    after = prove(asked, target, key, inventory, change)
    assert getattr(change, "hits", None) == getattr(change, "wanted", None)
    (found,) = [one for one in after if one.outcome is not Outcome.EXACT][:1]
    assert found.outcome is (Outcome.NARROWER if name in REFUSED_TOO_MUCH else Outcome.WIDER), str(found)
    document = {str(place)[6:]: value for place, value in found.witness.values.items()}
    assert {place: document.get(place) for place in expected} == expected, str(found)


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


def test_every_hazard_of_the_documentation_has_its_test_and_the_other_way_round() -> None:
    here = Path(__file__).parent
    rows = (here.parents[2] / "docs" / "policy-hazards.md").read_text().splitlines()[8:]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row.rsplit("| ", 1)[1])}
    functions = {
        name
        for path in here.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert all(row.count("`") >= 2 for row in rows), "a row without a test"
    assert named <= functions | HAZARDS.keys()
    assert named >= HAZARDS.keys()
