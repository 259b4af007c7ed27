"""Every mistake of the table in docs/rego-errors.md: what we say about it, in full, and the table itself.

With GATEHOUSE_UPDATE_GOLDEN=1 the golden file and the table are written anew.
"""

import json
import os
from pathlib import Path

import pytest

from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import check_modules
from policies.language.diagnostics import Diagnostic, Diagnostics
from policies.language.syntax.parser import parse_module

HERE = Path(__file__).parent
MISTAKES = json.loads((HERE / "mistakes.json").read_text())
GOLDEN = HERE / "golden" / "mistakes.txt"
TABLE = HERE.parents[2] / "docs" / "rego-errors.md"
UPDATE = os.environ.get("GATEHOUSE_UPDATE_GOLDEN") == "1"

INTRODUCTION = """# What Rego authors get wrong, and what they are told

Every row is a mistake that the parser and the checks of Gatehouse look for, with the answer of OPA 1.19
(`opa check --strict`) beside ours. *Accepted* means that OPA says nothing. The policies behind the rows are
in `tests/policies/language/mistakes.json`, our answers in full in `golden/mistakes.txt` beside it; this table
is generated from both by `tests/policies/language/test_mistakes.py`.

| mistake | OPA | Gatehouse |
| --- | --- | --- |
"""


def findings(policy: str) -> tuple[Diagnostic, ...]:
    try:
        return check_modules([parse_module(policy, "policy.rego")], BUILTINS).warnings
    except Diagnostics as error:
        return error.diagnostics


def story(mistake: dict[str, str]) -> str:
    shown = [f"[{diagnostic.severity}] {diagnostic.render()}" for diagnostic in findings(mistake["policy"])]
    return "\n".join([f"=== {mistake['mistake']}", *shown, ""])


def row(mistake: dict[str, str]) -> str:
    first = findings(mistake["policy"])[0]
    said = f"{first.span.row}:{first.span.column} {first.code}: {first.message}"
    if first.severity == "warning":
        said = "warning at " + said
    more = first.hint or (f"write `{first.replacement}`" if first.replacement else "")
    if first.expected and not more:
        more = f"expected {first.expected}"
    cell = (said + (f" — {more}" if more else "")).replace("|", "\\|")
    name = mistake["mistake"].replace("|", "\\|")
    return f"| {name} | {mistake['opa']} | {cell} |"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: str(m["mistake"]))
def test_every_mistake_is_found(mistake: dict[str, str]) -> None:
    found = findings(mistake["policy"])
    assert found
    assert all(d.span.source.file == "policy.rego" for d in found)


def test_what_is_said_in_full() -> None:
    text = "\n".join(story(mistake) for mistake in MISTAKES)
    if UPDATE:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_table_of_the_documentation() -> None:
    text = INTRODUCTION + "\n".join(row(mistake) for mistake in MISTAKES) + "\n"
    if UPDATE:
        TABLE.write_text(text)
    assert text == TABLE.read_text()


def test_a_good_policy_has_no_findings() -> None:
    policy = """package gatehouse.authz

import future.keywords.not

default allow := false

allow if {
	input.source.service_account == "web"
	input.request.method in {"GET", "HEAD"}
	glob.match("/api/**", ["/"], input.request.path)
	not blocked
}

blocked if net.cidr_contains("10.0.0.0/8", input.source.ip)
"""
    assert findings(policy) == ()


@pytest.mark.parametrize("annotated", ["default", "rule", "neither"])
def test_an_entry_point_may_be_said_at_the_default(annotated: str) -> None:
    entry = "# METADATA\n# scope: document\n# entrypoint: true\n"
    default, rule = (entry if annotated == place else "" for place in ("default", "rule"))
    text = (
        "package other\nimport future.keywords.not\n\n"
        f"{default}default decision := false\n\n{rule}decision if helped\n\nhelped if input.source.ip\n\n"
    )
    asked = "package gatehouse.authz\n\nallow if input.source.spiffe_id\n"
    checked = check_modules([parse_module(text, "a.rego"), parse_module(asked, "b.rego")], BUILTINS)
    unreached = [one.message for one in checked.warnings if "no query reaches" in one.message]
    assert len(unreached) == (2 if annotated == "neither" else 0), unreached
