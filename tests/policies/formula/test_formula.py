"""Formulas: meaning under absence, simplification that keeps meaning, canonical order, JSON."""

import contextlib
import json

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.core.errors import GatehouseError, InvalidInput, ResourceExhausted
from policies import formula as f

EMPTY = f.Request.of({})


@pytest.mark.parametrize("build", [
    lambda: f.equals(f.PATH, "/a"), lambda: f.one_of(f.PATH, ["/a", "/b"]),
    lambda: f.starts_with(f.PATH, ""),
    lambda: f.ends_with(f.PATH, ""), lambda: f.contains(f.PATH, ""),
    lambda: f.matches_glob(f.PATH, "**"),
    lambda: f.in_network(f.SOURCE_IP, "0.0.0.0/0"), lambda: f.between(f.PORT, 0, 65535),
    lambda: f.present(f.PATH),
    lambda: f.matches(f.PATH, ".*"), lambda: f.has_member(f.claim("g"), ["a"]),
])  # fmt: skip
def test_an_atom_on_an_absent_attribute_is_false_and_its_negation_true(build) -> None:
    atom = build()
    assert not f.evaluate(atom, EMPTY)
    assert f.evaluate(f.negate(atom), EMPTY)


def test_unequal_means_present_and_another_value() -> None:
    unequal = f.differs(f.header("X-Team"), "evil")
    assert not f.evaluate(unequal, EMPTY)
    assert not f.evaluate(unequal, f.Request.of({f.header("x-team"): "evil"}))
    assert f.evaluate(unequal, f.Request.of({f.header("x-team"): "good"}))


def test_a_shape_exists_once() -> None:
    left = f.all_of(f.equals(f.PATH, "/a"), f.any_of(f.equals(f.METHOD, "GET"), f.present(f.HOST)))
    right = f.all_of(f.any_of(f.present(f.HOST), f.equals(f.METHOD, "GET")), f.equals(f.PATH, "/a"), f.TRUE)
    assert left is right


def test_finite_sets_merge() -> None:
    assert f.equals(f.PATH, "/a") & f.equals(f.PATH, "/b") is f.FALSE
    assert f.equals(f.PATH, "/a") | f.equals(f.PATH, "/b") is f.one_of(f.PATH, ["/b", "/a"])
    both = f.negate(f.equals(f.PATH, "/a")) & f.negate(f.equals(f.PATH, "/b"))
    assert both is f.negate(f.one_of(f.PATH, ["/a", "/b"]))
    assert f.negate(f.equals(f.PATH, "/a")) | f.negate(f.equals(f.PATH, "/b")) is f.TRUE


def test_a_text_never_equals_a_number_and_one_is_not_true() -> None:
    level = f.claim("level")
    assert f.evaluate(f.equals(level, 1), f.Request.of({level: 1}))
    assert not f.evaluate(f.equals(level, 1), f.Request.of({level: True}))
    assert not f.evaluate(f.equals(level, True), f.Request.of({level: 1}))
    assert f.equals(f.PATH, 5) is f.FALSE


def test_regular_expressions_that_are_plain_text_become_plain_atoms() -> None:
    assert f.matches(f.METHOD, "^(GET|HEAD)$") is f.one_of(f.METHOD, ["GET", "HEAD"])
    assert f.matches(f.PATH, "^/api/") is f.starts_with(f.PATH, "/api/")
    assert f.matches(f.PATH, r"\.png$") is f.ends_with(f.PATH, ".png")
    assert f.matches(f.PATH, "admin") is f.contains(f.PATH, "admin")
    digits = f.matches(f.PATH, r"^/item/[0-9]+$")
    assert f.evaluate(digits, f.Request.of({f.PATH: "/item/42"}))
    assert not f.evaluate(digits, f.Request.of({f.PATH: "/item/42/x"}))
    assert isinstance(next(f.atoms_of(f.matches(f.PATH, "(?i)^/a|/b$"))), f.Opaque)
    either = f.matches(f.PATH, "^/a|/b$")
    assert either is f.starts_with(f.PATH, "/a") | f.ends_with(f.PATH, "/b")
    assert f.evaluate(either, f.Request.of({f.PATH: "/x/b"}))
    assert f.evaluate(either, f.Request.of({f.PATH: "/a/x"}))


@pytest.mark.parametrize("build", [
    lambda: f.matches(f.PATH, "(?=a)"), lambda: f.matches(f.PATH, "(a"), lambda: f.matches(f.PATH, "a{2000}"),
    lambda: f.in_network(f.SOURCE_IP, "10.0.0.0/33"), lambda: f.in_network(f.SOURCE_IP, "10.0.0.1:80"),
    lambda: f.matches_glob(f.PATH, "[a"), lambda: f.matches_glob(f.PATH, "a", ("//",)),
    lambda: f.matches_glob(f.PATH, "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}"), lambda: f.header(""),
    lambda: f.Attribute.of("source.spifee_id"), lambda: f.Attribute.of("request.path", "x"),
])  # fmt: skip
def test_bad_constants_are_refused(build) -> None:
    with pytest.raises(InvalidInput):
        build()


@pytest.mark.parametrize(("pattern", "delimiters", "inside", "outside"), [
    ("/a/*", "/", ["/a/", "/a/b"], ["/a", "/a/b/c"]),
    ("/a/**", "/", ["/a/", "/a/b/c"], ["/a"]),
    ("/a/?/b", "/", ["/a/x/b"], ["/a//b", "/a/xy/b"]),
    ("[!ab]x", "/", ["/x", "cx"], ["ax", "x"]),
    ("{a,b{c,d}}", "/", ["a", "bc", "bd"], ["b", "ad"]),
    ("*.example.com", ".", ["www.example.com"], ["a.b.example.com", "example.com"]),
    ("a*", "", ["a", "a/b.c"], ["b"]),
    (r"\*", "/", ["*"], ["a"]),
    ("{a", "/", ["{a"], ["a"]),
])  # fmt: skip
def test_globs_mean_what_opa_measured(pattern, delimiters, inside, outside) -> None:
    glob = f.matches_glob(f.PATH, pattern, tuple(delimiters))
    for text in inside:
        assert f.evaluate(glob, f.Request.of({f.PATH: text})), text
    for text in outside:
        assert not f.evaluate(glob, f.Request.of({f.PATH: text})), text


def test_mapped_addresses_are_ipv4_and_the_default_route_of_one_family_is_not_the_others() -> None:
    everything = f.in_network(f.SOURCE_IP, "0.0.0.0/0")
    assert f.evaluate(everything, f.Request.of({f.SOURCE_IP: "::ffff:1.2.3.4"}))
    assert not f.evaluate(everything, f.Request.of({f.SOURCE_IP: "::1"}))
    assert f.in_network(f.SOURCE_IP, "10.1.2.3/8") is f.in_network(f.SOURCE_IP, "10.0.0.0/8")


def test_opaque_conditions_are_the_callers_business() -> None:
    unknown = f.opaque("d1", "p.rego:7:3", "time.now_ns changes", [f.PATH])
    with pytest.raises(InvalidInput, match=r"p\.rego:7:3"):
        f.evaluate(unknown, EMPTY)
    assert f.evaluate(f.negate(unknown), EMPTY, lambda atom: False)


def test_depth_is_bounded() -> None:
    formula = f.present(f.PATH)
    with pytest.raises(ResourceExhausted):
        for index in range(1000):
            formula = (formula & f.equals(f.PATH, str(index))) | f.equals(f.METHOD, str(index))


@given(data=st.data())
@settings(max_examples=150)
def test_operations_keep_their_meaning(data, formulas, requests) -> None:
    left, right = data.draw(formulas), data.draw(formulas)
    request = data.draw(requests)
    one, other = f.evaluate(left, request), f.evaluate(right, request)
    assert f.evaluate(left & right, request) == (one and other)
    assert f.evaluate(left | right, request) == (one or other)
    assert f.evaluate(f.negate(left), request) != one
    assert f.negate(f.negate(left)) is left
    known = {attribute: request.get(attribute) for attribute in (f.PATH, f.PORT, f.claim("groups"))}
    assert f.evaluate(f.ground(left, known), request) == one
    assert not set(known) & {atom.attribute for atom in f.atoms_of(f.ground(left, known))}


@given(data=st.data())
@settings(max_examples=100)
def test_json_brings_back_the_same_object(data, formulas) -> None:
    formula = data.draw(formulas)
    assert f.formula_from_json(json.loads(json.dumps(f.formula_to_json(formula)))) is formula


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["and", "or", "atom", "on", "args", "not"]),
                inner | st.sampled_from(["equal", "cidr"]),
                max_size=4,
            )
        ),
    )
)
@settings(max_examples=150)
def test_hostile_json_is_refused_and_never_crashes(document) -> None:
    with contextlib.suppress(GatehouseError):
        f.formula_from_json(document)


def test_a_policy_set_survives_json() -> None:
    origin = f.Origin("authz.rego", 12, "data.gatehouse.authz.allow")
    allow = f.Decision.of(f.Disjunct(f.equals(f.PATH, "/a"), (origin,)), f.Disjunct(f.FALSE, (origin,)))
    policies = f.PolicySet.of("sha256:1", f.WorkloadPolicy("shop/payment", f.Question(allow)))
    assert f.policy_set_from_json(json.loads(json.dumps(f.policy_set_to_json(policies)))) == policies
    assert len(allow.disjuncts) == 1


@pytest.mark.parametrize("expression", [
    "^/a|/b$", "a|b|c", "^(a|b)$", "^/[ab]+$", "x(y|z)*$", r"\.php$", "^", "$", "", "a{2}", r"^/\d+/", "b?",
    "[|]a", r"\|",
])  # fmt: skip
@given(text=st.text("ab/x|yz.php1\n", max_size=6))
@settings(max_examples=40)
def test_searches_mean_what_re2_finds(expression, text) -> None:
    formula = f.matches(f.PATH, expression)
    if not any(isinstance(atom, f.Opaque) for atom in f.atoms_of(formula)):
        expected = re2.search(expression, text) is not None
        assert f.evaluate(formula, f.Request.of({f.PATH: text})) == expected
