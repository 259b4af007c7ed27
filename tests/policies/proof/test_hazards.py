"""Each hazard of mesh policies as a mutation: the emitted text is spoilt, and the proof names a request.

A mutation stands for an emitter that got one thing wrong. The unspoilt text is proved first, so that it is
the mutation that the proof rejects.
"""

import re
from pathlib import Path

import pytest
from spoilt import API, CALLER, TEAM, WEB, dropping, prove, question, replacing

from policies import formula as f
from policies.proof.verdict import Outcome

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
