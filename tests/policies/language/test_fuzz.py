"""The fuzz target run by hypothesis: token soup, odd texts, mutations of good policies, plain bytes."""

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import example, given, note
from hypothesis import strategies as st
from odd_texts import odd_text

from policies.language.layout.format import format_module
from policies.language.syntax.ast import Module
from policies.language.syntax.parser import parse_module

ROOT = Path(__file__).resolve().parents[3]
SEEDS = [path.read_text() for path in sorted((ROOT / "rego").rglob("*.rego"))]

TOKENS = """package import as default else if in not every some with contains true false null
p q x y _ input data f count set startswith ( ) [ ] { } . , ; : := = == != < > <= >= + - * / % & | "a" `b` 1
-1 2.5 1e3 $"{x}" $"a{ #c """
WORDS = [*TOKENS.split(), "\n", " ", "\t", "#c\n"]


def _target() -> Callable[[bytes], bool]:
    spec = importlib.util.spec_from_file_location("fuzz_rego_parser", ROOT / "tests/fuzz/fuzz_rego_parser.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target: Callable[[bytes], bool] = module.fuzz_rego_parser
    return target


TARGET = _target()


@given(st.binary(max_size=300))
def test_bytes(data: bytes) -> None:
    TARGET(data)


@given(st.lists(st.sampled_from(WORDS), max_size=60), st.sampled_from(["", " "]))
@example(["p", " ", "if", "{", "x", "}", "else"], "")
def test_token_soup(words: list[str], glue: str) -> None:
    TARGET(("package p\n" + glue.join(words)).encode())


@given(st.sampled_from(SEEDS or ["package p\n"]), st.data())
def test_mutated_policies(seed: str, data: st.DataObject) -> None:
    text = seed[:2000]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(WORDS)) + text[end:]
    TARGET(text.encode())


NAMES = st.sampled_from(
    ["x", "y", "xs", "input.a", 'input["b c"]', "data.q", "f(x)", "1", '"s"', "null", "`r`"]
)
OPERATORS = st.sampled_from(["+", "-", "*", "/", "%", "&", "|", "==", "!=", "<", ">=", "in"])


def terms() -> st.SearchStrategy[str]:
    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, OPERATORS, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            st.tuples(inner, OPERATORS, inner).map(lambda t: f"{t[0]} {t[1]} {t[2]}"),
            st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
            st.lists(inner, min_size=1, max_size=3).map(lambda items: f"{{{', '.join(items)}}}"),
            inner.map(lambda item: f'{{"k": {item}}}'),
            inner.map(lambda item: f"{{z | z := {item}}}"),
            inner.map(lambda item: f"[z | some z in [{item}]\n z]"),
            inner.map(lambda item: f"count({item})"),
            inner.map(lambda item: f'$"a{{{item}}}b"'),
        )

    return st.recursive(NAMES, larger, max_leaves=8)


STATEMENTS = st.one_of(
    terms(),
    terms().map(lambda t: f"v := {t}"),
    terms().map(lambda t: f"not {t}"),
    terms().map(lambda t: f"{t} with input.a as {t}"),
    terms().map(lambda t: f"every e in {t} {{ e; {t} }}"),
    terms().map(lambda t: f"some k, v in {t}"),
)


def _rules(module: Module) -> list[object]:
    return [(rule.kind, rule.head.reference, rule.head.value, rule.body) for rule in module.rules]


@given(st.lists(STATEMENTS, min_size=1, max_size=4), terms())
def test_formatting_keeps_the_tree(statements: list[str], value: str) -> None:
    text = "package p\n\nr := " + value + " if {\n" + "\n".join(statements) + "\nlast\n}\n"
    module = parse_module(text)
    assert _rules(parse_module(format_module(module))) == _rules(module)


@given(st.randoms(use_true_random=True))
def test_odd_texts(random: Random) -> None:
    text = odd_text(random)
    note(text)
    if TARGET(text.encode()):
        module = parse_module(text)
        lost = Counter(_words(module)) - Counter(_words(parse_module(format_module(module))))
        assert not lost  # one may come twice, behind what is written as it was


def _words(module: Module) -> list[str]:
    """The comments; of those that share a line now, each."""
    return [part.strip() for comment in module.comments for part in comment.text.split("#")]
