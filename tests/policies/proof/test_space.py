"""Languages against RE2, partitions against brute force, differences against enumeration."""

import itertools

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.proof.language import expression_language, shortest
from policies.proof.partition import partition
from policies.proof.probes import (
    ABSENT,
    Constant,
    Dimension,
    Element,
    Ends,
    Interval,
    Matches,
    Probe,
    Starts,
    Within,
    network_span,
)
from policies.proof.regular import UndecidableLanguage
from policies.proof.space import FALSE, TRUE, Space

PATH = Dimension(9, "path", "text", domain="/[^?#\n]*", head="/")
HOST = Dimension(5, "host", "text")
PORT = Dimension(1, "port", "port", always=True)
CLAIM = Dimension(6, "claim", "claim", ("groups",))
FLAG = Dimension(8, "flag", "flag")

EXPRESSIONS = [
    "a*b|c", ".*/ns/x/.*", "spiffe://.+/ns/n/(.+/|)sa/s(/.+)?", "[^/]+", "(?:ab)+c?", "a{2,3}b", "x{2,}",
    "[a-c]*", r"\.\*", "(?s:.)*z", "", "(a|b|)c", "[-a]+", r"[\]a]b", "a|", "^a.*$",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(word=st.text("abcxz/s.*-]\n", max_size=6) | st.sampled_from(["spiffe://t/ns/n/sa/s", "a/ns/x/b"]))
@settings(max_examples=60)
def test_languages_agree_with_re2(expression, word) -> None:
    assert expression_language(expression).has(word) == (re2.fullmatch(expression, word) is not None)


@pytest.mark.parametrize(
    "expression", ["(a", "a)", "(?i:a)", r"\bx", r"\pN", "[[:alpha:]]", "a**", "x^a", "a{5000}"]
)
def test_expressions_outside_the_subset_are_refused(expression) -> None:
    with pytest.raises(UndecidableLanguage):
        expression_language(expression)


def test_the_shortest_word_of_every_combination() -> None:
    languages = [
        expression_language("/a(?s:.)*"),
        expression_language("(?s:.)*b"),
        expression_language("/a/[^/]+"),
    ]
    words = shortest(expression_language("/[^?]*"), languages, frozenset({"/ab", "/"}))
    assert words[frozenset()] == min(
        w for w in words.values() if w and not w.startswith("/a") and not w.endswith("b")
    )
    assert words[frozenset({0, 1})] == "/a.b" or len(words[frozenset({0, 1})]) == 4
    assert words[frozenset({0, 1, 2})] == "/a/b"
    assert "/ab" not in words.values()


INNER = [Within(CLAIM, frozenset(one)) for one in ("a", "b", "ab")]

text_tests = st.one_of(
    st.builds(
        Within, st.just(PATH), st.frozensets(st.sampled_from(["/", "/a", "/ab", "/a/b", "x"]), max_size=3)
    ),
    st.builds(Starts, st.just(PATH), st.sampled_from(["", "/", "/a", "/a/", "x", "/ab"])),
    st.builds(Ends, st.just(PATH), st.sampled_from(["", "/", "b", "/b", "ab", "/ab"])),
    st.builds(Matches, st.just(PATH), st.sampled_from(["/[^/]*", "/a/.+", ".*b.*", "(?s:.)*"])),
    st.just(Probe(PATH)),
)


def holding(tests, value) -> int:
    return sum(bit for bit, test in tests.items() if test.holds(value))


@given(st.frozensets(text_tests, max_size=5))
@settings(max_examples=200)
def test_classes_of_texts_are_complete_and_true(tests) -> None:
    numbered = {1 << position: test for position, test in enumerate(tests)}
    classes = partition(PATH, numbered)
    kinds = {one.holds for one in classes}
    for one in classes:
        assert one.holds == holding(numbered, one.value)
    alphabet = "/abx"
    for size in range(5):
        for letters in itertools.product(alphabet, repeat=size):
            word = "/" + "".join(letters)
            assert holding(numbered, word) in kinds, word


@given(st.frozensets(st.one_of(
    st.builds(Within, st.just(CLAIM), st.frozensets(st.sampled_from(["a", "b"]), min_size=1, max_size=2)),
    st.builds(Element, st.just(CLAIM), st.sampled_from(INNER)),
    st.builds(Constant, st.just(CLAIM), st.sampled_from(["5", "true"])),
    st.just(Probe(CLAIM)),
), max_size=5))  # fmt: skip
@settings(max_examples=150)
def test_classes_of_claims_are_complete_and_true(tests) -> None:
    numbered = {1 << position: test for position, test in enumerate(tests)}
    classes = partition(CLAIM, numbered)
    kinds = {one.holds for one in classes}
    for one in classes:
        assert one.holds == holding(numbered, one.value)
    for value in [ABSENT, "a", "b", "c", (), ("a",), ("b",), ("a", "b"), ("c",), ("a", "c")]:
        assert holding(numbered, value) in kinds


def test_addresses_are_cut_where_networks_end() -> None:
    source = Dimension(3, "source_ip", "address")
    wide, narrow = (Interval(source, (network_span(one),)) for one in ("10.0.0.0/8", "10.1.0.0/16"))
    shown = {one.holds: one.value for one in partition(source, {1: wide, 2: narrow})}
    assert shown == {0: "0.0.0.1", 1: "10.0.0.0", 1 | 2: "10.1.0.0"}


space_tests = st.one_of(
    text_tests,
    st.builds(Within, st.just(HOST), st.sampled_from([frozenset("a"), frozenset("b"), frozenset("ab")])),
    st.builds(Interval, st.just(PORT), st.sampled_from([((80, 80),), ((1, 100),), ((443, 443), (80, 80))])),
    st.just(Probe(FLAG)),
)
trees = st.recursive(
    space_tests.map(lambda test: ("test", test)),
    lambda inner: st.tuples(st.sampled_from(["or", "and", "not"]), st.lists(inner, min_size=1, max_size=4)),
    max_leaves=14,
)


def build(space: Space, tree) -> int:
    if tree[0] == "test":
        return space.test(tree[1])
    parts = [build(space, one) for one in tree[1]]
    return {"or": space.any_of, "and": space.all_of, "not": lambda ones: space.all_of(ones) ^ 1}[tree[0]](
        parts
    )


def truth(tree, values) -> bool:
    if tree[0] == "test":
        return tree[1].holds(values.get(tree[1].dimension, ABSENT))
    parts = [truth(one, values) for one in tree[1]]
    return {"or": any, "and": all, "not": lambda ones: not all(ones)}[tree[0]](parts)


@given(trees, trees)
@settings(max_examples=250)
def test_a_difference_is_found_exactly_when_there_is_one(left, right) -> None:
    space = Space()
    witness = space.difference(build(space, left), build(space, right))
    if witness is not None:
        values = {PORT: 0} | dict(witness.values)
        assert truth(left, values) and not truth(right, values)
        return
    for path, host, port, flag in itertools.product(
        [ABSENT, "/", "/a", "/ab", "/a/b", "/b", "/x", "/a/x", "/aab"],
        [ABSENT, "a", "b", "c"],
        [80, 443, 1, 0],
        [ABSENT, True],
    ):
        values = {PATH: path, HOST: host, PORT: port, FLAG: flag}
        assert not (truth(left, values) and not truth(right, values))


def test_a_wide_disjunction_with_one_caller_each_stays_cheap() -> None:
    space = Space()
    caller = Dimension(2, "caller", "text")
    rules = [
        space.all_of([
            space.test(Within(caller, frozenset({f"c{index}"}))), space.test(Starts(PATH, f"/p{index % 7}"))
        ])
        for index in range(5000)
    ]  # fmt: skip
    everything = space.any_of(rules)
    assert space.difference(everything, space.any_of(rules[:-1])).get(caller) == "c4999"
    assert space.difference(space.any_of(rules[:-1]), everything) is None
    assert space.difference(everything, FALSE) is not None
    assert space.difference(FALSE, everything) is None and space.difference(everything, TRUE) is None
