"""How deep a YAML text nests, before a slow reader looks at it."""

import pytest
import yaml

from policies.documents import nests_deeper

LEVELS = 10


@pytest.mark.parametrize("begin, end", [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")])
def test_every_kind_of_nesting_counts(begin: str, end: str) -> None:
    for depth in (1, LEVELS, LEVELS + 1, 5000):
        assert nests_deeper(begin * depth + "x" + end * depth, LEVELS) == (depth > LEVELS)


@pytest.mark.parametrize("text", ["", "x", "a: b", "[[]]\n---\n" * 20, "[a]" * 3, "a: [b"])
def test_what_is_wide_or_wrong_is_left_to_the_reader_of_its_content(text: str) -> None:
    assert not nests_deeper(text, LEVELS)


def test_what_only_looks_deep_is_refused_at_once_where_it_is_wrong() -> None:
    with pytest.raises(yaml.YAMLError):
        nests_deeper("[a] b" + "[" * 3000, LEVELS)
