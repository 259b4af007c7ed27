"""Alternatives that differ in one attribute's values: fewer of them, with the same meaning."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policies import formula as f
from policies.formula.factored import factored

CALLERS = [f"spiffe://a/ns/x/sa/{index}" for index in range(6)]


def edge(caller: str, path: str) -> f.Formula:
    return f.all_of(f.equals(f.SOURCE_ID, caller), f.matches_glob(f.PATH, path), f.equals(f.METHOD, "GET"))


def test_callers_that_are_asked_the_same_are_one_set() -> None:
    edges = f.any_of(*(edge(caller, f"/{index % 2}/**") for index, caller in enumerate(CALLERS)))
    found = factored(edges)
    expected = f.any_of(
        *(
            f.all_of(
                f.one_of(f.SOURCE_ID, CALLERS[part::2]),
                f.matches_glob(f.PATH, f"/{part}/**"),
                f.equals(f.METHOD, "GET"),
            )
            for part in (0, 1)
        )
    )
    assert found is expected


def test_what_differs_in_two_places_stays_apart() -> None:
    both = f.any_of(
        f.all_of(f.equals(f.METHOD, "GET"), f.equals(f.PATH, "/a")),
        f.all_of(f.equals(f.METHOD, "PUT"), f.equals(f.PATH, "/b")),
    )
    assert factored(both) is both


def test_a_product_comes_back_whole() -> None:
    pairs = [(method, path) for method in ("GET", "PUT") for path in ("/a", "/b", "/c")]
    apart = f.any_of(*(f.all_of(f.equals(f.METHOD, one), f.equals(f.PATH, two)) for one, two in pairs))
    assert factored(apart) is f.all_of(
        f.one_of(f.METHOD, ["GET", "PUT"]), f.one_of(f.PATH, ["/a", "/b", "/c"])
    )


@given(data=st.data())
@settings(max_examples=150)
def test_the_meaning_stays(data, formulas, requests) -> None:
    parts = data.draw(st.lists(formulas, max_size=4))
    alternatives = [
        f.all_of(f.one_of(f.METHOD, data.draw(st.lists(st.sampled_from(["a", "b", ""]), max_size=2))), part)
        for part in data.draw(st.lists(st.sampled_from(parts), max_size=6) if parts else st.just([]))
    ]
    whole = f.any_of(*alternatives)
    request = data.draw(requests)
    expected = f.evaluate(whole, request)
    assert f.evaluate(factored(whole), request) == expected
    apart = [[*one.children] if one.kind == "and" else [one] for one in alternatives]
    assert f.evaluate(f.any_of_all(apart), request) == expected
