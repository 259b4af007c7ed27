"""Random formulas and requests over a small vocabulary, attributes absent as often as present."""

from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from policies import formula as f

TEXTS = ["", "a", "b", "ab", "/a", "/a/b", "/b", "a.b", "x*"]
SCALARS: list[str | int | bool] = ["", "1", "a", 0, 1, 2, True, False]
ATTRIBUTES = [f.PATH, f.METHOD, f.HOST, f.header("x-team"), f.SOURCE_ID, f.claim("groups")]


def literals() -> st.SearchStrategy[f.Formula]:
    attribute, text = st.sampled_from(ATTRIBUTES), st.sampled_from(TEXTS)
    return st.one_of(
        attribute.map(f.present),
        st.builds(f.equals, attribute, text),
        st.builds(f.differs, attribute, text),
        st.builds(f.one_of, attribute, st.lists(text, max_size=4)),
        st.builds(f.starts_with, attribute, text),
        st.builds(f.ends_with, attribute, text),
        st.builds(f.contains, attribute, text),
        st.builds(
            f.matches_glob, attribute, st.sampled_from(["/a/*", "**b", "{a,b}*", "?"]), st.just(("/",))
        ),
        st.builds(f.in_network, st.just(f.SOURCE_IP), st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "::/0"])),
        st.builds(f.between, st.just(f.PORT), st.integers(0, 3), st.integers(0, 5)),
        st.builds(f.equals, st.just(f.PORT), st.integers(0, 6)),
        st.builds(f.differs, st.just(f.PORT), st.integers(0, 6)),
        st.builds(f.one_of, st.just(f.PORT), st.lists(st.integers(0, 6), max_size=4)),
        st.builds(f.one_of, st.just(f.claim("role")), st.lists(st.sampled_from(SCALARS), max_size=4)),
        st.builds(f.differs, st.just(f.claim("role")), st.sampled_from(SCALARS)),
        st.builds(f.has_member, st.just(f.claim("groups")), st.lists(text, max_size=2)),
    )


@pytest.fixture(scope="session")
def formulas() -> st.SearchStrategy[f.Formula]:
    """Formulas of a few levels, negation included."""

    def grow(inner: st.SearchStrategy[f.Formula]) -> st.SearchStrategy[f.Formula]:
        several = st.lists(inner, max_size=4)
        join: list[Callable[..., f.Formula]] = [f.all_of, f.any_of]
        return st.one_of(inner.map(f.negate), *(several.map(lambda parts, j=one: j(*parts)) for one in join))

    return st.recursive(literals(), grow, max_leaves=12)


@pytest.fixture(scope="session")
def requests() -> st.SearchStrategy[f.Request]:
    """Requests with each attribute present or not."""
    text = st.one_of(st.none(), st.sampled_from([*TEXTS, "/a/", "zb"]))
    values = dict.fromkeys(ATTRIBUTES, text)
    values[f.claim("groups")] = st.one_of(text, st.lists(st.sampled_from(TEXTS), max_size=2).map(tuple))
    values[f.SOURCE_IP] = st.sampled_from([None, "10.1.2.3", "10.2.0.1", "::1", "::ffff:10.1.0.1", "junk"])
    values[f.claim("role")] = st.one_of(st.none(), st.sampled_from(SCALARS), st.just(("a",)))
    values[f.PORT] = st.one_of(st.none(), st.integers(0, 6))
    fixed = st.fixed_dictionaries(values)
    return fixed.map(lambda found: f.Request.of({k: v for k, v in found.items() if v is not None}))
