"""Built-in functions against independent definitions of what they compute."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import urllib.parse
from datetime import UTC, datetime, timedelta

import pytest
import re2
from hypothesis import assume, example, given
from hypothesis import strategies as st

from policies.language.builtins.errors import BuiltinError
from policies.language.builtins.globs import overlaps, read_glob
from policies.language.builtins.registry import BUILTINS, REFUSALS
from policies.language.builtins.signature import parse_shape, parse_signature
from policies.language.values import FALSE, TRUE, Object, Set, Value

CALL = {name: builtin.function for name, builtin in BUILTINS.items() if builtin.function is not None}
integers = st.integers(-(10**6), 10**6)
small_sets = st.frozensets(st.integers(0, 9))
words = st.text("ab/.é", max_size=8)


def test_every_built_in_of_opa_is_declared_and_either_there_or_refused_with_a_reason() -> None:
    assert len(BUILTINS) == 206
    for builtin in BUILTINS.values():
        assert (builtin.function is None) == bool(builtin.refusal), builtin.name
    missing = {name for name, builtin in BUILTINS.items() if builtin.refusal == "not implemented"}
    # The compile stage replaces the two functions about metadata by literals.
    assert missing == {
        "crypto.x509.parse_and_verify_certificates_with_options",
        "rego.metadata.chain",
        "rego.metadata.rule",
    }
    assert {"http.send", "opa.runtime", "rand.intn", "net.lookup_ip_addr"} <= set(REFUSALS)


def test_signatures_are_read_strictly() -> None:
    signature = parse_signature("string array[string]|set[string] -> object[string:tuple[any,number]]")
    assert [str(shape) for shape in signature.arguments] == ["string", "any<array[string], set[string]>"]
    assert str(signature.result) == "object[string: array<any, number>]"
    for wrong in ("text", "array[string", "array[string]x", ""):
        with pytest.raises(ValueError):
            parse_shape(wrong)


@given(small_sets, small_sets)
def test_sets_are_sets(left: frozenset[int], right: frozenset[int]) -> None:
    first, second = Set(left), Set(right)
    assert CALL["and"](first, second) == left & right
    assert CALL["or"](first, second) == left | right
    assert CALL["minus"](first, second) == left - right
    assert CALL["union"](Set([first, second])) == left | right
    assert CALL["intersection"](Set([first, second])) == left & right
    assert type(CALL["and"](first, second)) is Set
    assert CALL["sort"](first) == tuple(sorted(left))
    assert CALL["count"](first) == len(left)


@given(integers, integers)
def test_remainders_have_the_sign_of_the_dividend(left: int, right: int) -> None:
    assume(right)
    rest = CALL["rem"](left, right)
    assert abs(rest) < abs(right)
    assert rest == 0 or (rest < 0) == (left < 0)
    assert (left - rest) % right == 0


@given(integers, integers)
def test_bits_are_pythons(left: int, right: int) -> None:
    assert CALL["bits.and"](left, right) == left & right
    assert CALL["bits.or"](left, right) == left | right
    assert CALL["bits.xor"](left, right) == left ^ right


@given(words, words)
def test_strings_by_definition(text: str, part: str) -> None:
    assert CALL["contains"](text, part) is (TRUE if re.search(re.escape(part), text) else FALSE)
    assert CALL["concat"](part, CALL["split"](text, part)) == text if part else True
    assert CALL["strings.reverse"](CALL["strings.reverse"](text)) == text
    if part:
        found = CALL["indexof_n"](text, part)
        assert found == tuple(at for at in range(len(text)) if text.startswith(part, at))
        assert CALL["indexof"](text, part) == (found[0] if found else -1)


@given(st.binary(max_size=40))
@example(b"\xff\xfe")
def test_encodings_keep_every_byte(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    text = CALL["base64.decode"](encoded)
    assert CALL["base64.encode"](text) == encoded
    assert CALL["hex.encode"](text) == data.hex()
    assert CALL["hex.decode"](data.hex()) == text
    assert CALL["base64url.decode"](CALL["base64url.encode_no_pad"](text)) == text
    assert CALL["crypto.sha256"](text) == hashlib.sha256(data).hexdigest()
    assert CALL["urlquery.decode"](CALL["urlquery.encode"](text)) == text


@given(st.text(max_size=10))
def test_query_components_are_the_standard_librarys(text: str) -> None:
    assert CALL["urlquery.encode"](text) == urllib.parse.quote_plus(text, safe="~")


networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: ipaddress.ip_network(pair, strict=False)
)


@given(networks, networks)
def test_blocks_are_networks(left: ipaddress.IPv4Network, right: ipaddress.IPv4Network) -> None:
    assert CALL["net.cidr_contains"](str(left), str(right)) is (TRUE if right.subnet_of(left) else FALSE)
    assert CALL["net.cidr_intersects"](str(left), str(right)) is (TRUE if left.overlaps(right) else FALSE)
    merged = CALL["net.cidr_merge"]((str(left), str(right)))
    assert merged == {str(network) for network in ipaddress.collapse_addresses([left, right])}


@pytest.mark.parametrize(
    "block", ["10.0.0.0/33", "10.0.0.0", "10.0.0.0/", "10.0.0.0/+8", "x/8", "10.0.0.0/8 ", "::/129"]
)
def test_bad_blocks_are_errors(block: str) -> None:
    with pytest.raises(BuiltinError):
        CALL["net.cidr_contains"](block, "10.0.0.1")
    assert CALL["net.cidr_is_valid"](block) is FALSE


@given(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001 - made aware below
def test_times_are_datetimes(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    ns = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000
    assert CALL["time.date"](ns) == (moment.year, moment.month, moment.day)
    assert CALL["time.clock"](ns) == (moment.hour, moment.minute, moment.second)
    assert CALL["time.weekday"](ns) == moment.strftime("%A")
    assert CALL["time.parse_rfc3339_ns"](CALL["time.format"](ns)) == ns


@given(st.integers(0, 2**62), st.integers(-5, 5), st.integers(-30, 30), st.integers(-60, 60))
def test_dates_move_and_differences_add_up(ns: int, years: int, months: int, days: int) -> None:
    moved = CALL["time.add_date"](ns, 0, 0, days)
    assert moved - ns == days * 86_400_000_000_000
    assert CALL["time.add_date"](ns, years, 0, 0) == CALL["time.add_date"](ns, 0, 12 * years, 0)
    parts = CALL["time.diff"](ns, moved)
    assert all(part >= 0 for part in parts)


globs = st.text("ab/*?[]{},!-", max_size=7)


@given(globs, st.text("ab/", max_size=6))
@example("/a/**/c", "/a/c")
@example("a**a", "a")
def test_globs_never_match_less_than_the_plain_translation(glob: str, text: str) -> None:
    try:
        pattern = read_glob(glob, "/")
    except BuiltinError:
        return
    matches = CALL["glob.match"](glob, ("/",), text) is TRUE
    if text in overlaps(pattern):
        assert matches
    if not re.search(r"[*?\[\]{},]", glob):
        assert matches == (glob == text)


@given(st.text(max_size=10))
def test_a_quoted_glob_matches_itself_only(text: str) -> None:
    quoted = CALL["glob.quote_meta"](text)
    assert CALL["glob.match"](quoted, None, text) is TRUE
    assert CALL["glob.match"](quoted, None, text + "x") is FALSE


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){12}", "(x+x+)+y"])
def test_regular_expressions_take_linear_time(pattern: str) -> None:
    assert CALL["regex.match"](pattern, "a" * 20_000 + "!") in (TRUE, FALSE)


@given(st.text("ab.*+?()|[]\\", max_size=8), st.text("ab", max_size=6))
def test_matching_is_re2s(pattern: str, text: str) -> None:
    options = re2.Options()
    options.log_errors = False
    try:
        wanted = re2.compile(pattern, options).search(text) is not None
    except re2.error:
        assert CALL["regex.is_valid"](pattern) is FALSE
        return
    assert CALL["regex.match"](pattern, text) is (TRUE if wanted else FALSE)
    whole = "".join(CALL["regex.split"](pattern, text)) if text else text
    assert len(whole) <= len(text)


paths = st.lists(st.sampled_from(["a", "b", "0"]), max_size=3)
trees = st.recursive(
    st.integers(0, 3),
    lambda inner: (
        st.dictionaries(st.sampled_from(["a", "b"]), inner).map(Object)
        | st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=6,
)


@given(trees, paths)
def test_removing_and_filtering_share_nothing(tree: Value, path: list[str]) -> None:
    assume(isinstance(tree, Object) and path)
    text = "/".join(path)
    removed = CALL["json.remove"](tree, (text,))
    kept = CALL["json.filter"](tree, (text,))
    assert CALL["json.remove"](removed, (text,)) == removed or "0" in path
    if kept == Object():
        assert removed == tree or tree != removed
    assert CALL["object.get"](removed, tuple(path), "none") == "none" or "0" in path


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from("abcd")).map(tuple)),
    st.sampled_from("abcd"),
)
def test_reachable_is_the_closure(graph: dict[str, tuple[str, ...]], start: str) -> None:
    reached = {start} & graph.keys()
    while True:
        more = reached | {n for node in reached for n in graph[node] if n in graph}
        if more == reached:
            break
        reached = more
    assert CALL["graph.reachable"](Object(graph), (start,)) == reached


@pytest.mark.parametrize("schema", ["6869", '"x"', "[1]", "null", '{"$schema": [1]}', '{"pattern": "(a"}'])
def test_what_is_no_schema_is_refused(schema: str) -> None:
    valid, why = CALL["json.verify_schema"](schema)
    if valid is FALSE:
        assert why.startswith("jsonschema: ")
    with pytest.raises(BuiltinError):
        CALL["json.match_schema"]('{"a": "b"}' if schema != '{"pattern": "(a"}' else '"a"', schema)


def test_patterns_of_a_schema_are_matched_in_linear_time() -> None:
    text = json.dumps("a" * 40 + "b")
    for schema in (
        {"pattern": "^(a+)+$"},
        {"propertyNames": {"pattern": "^(a+)+$"}},
        {"patternProperties": {"^(a+)+$": {"type": "number"}}, "additionalProperties": False},
    ):
        document = text if "pattern" in schema else json.dumps({json.loads(text): "x"})
        valid, errors = CALL["json.match_schema"](document, json.dumps(schema))
        assert valid is FALSE and len(errors) == 1, schema
    valid, _ = CALL["json.match_schema"](
        '{"aa": 1, "b": 2}', '{"patternProperties": {"^a+$": {"type": "number"}}, "properties": {"b": {}}}'
    )
    assert valid is TRUE


def test_a_schema_that_refers_to_itself_without_end_stops() -> None:
    with pytest.raises(BuiltinError, match="without end"):
        CALL["json.match_schema"]("1", '{"$ref": "#"}')
