"""Generates `docs/conformance.md` from the names of the tests and the table of rules beside this file.

`--check` writes nothing and fails when the document is not what it would write.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RULES = DOCS / "conformance-rules.txt"
TARGET = DOCS / "conformance.md"
RULE = re.compile(r"([A-Z]{1,2}-\d\d)\s+(ours|client)\s+(\S.*)")
TEST = re.compile(r"test_(id|x|j|b|w|e)_(\d\d)(?:_|\Z)")

HEAD = """# Conformance

Each rule of the SPIFFE standards that a server, an agent or a verifier must keep has a test that carries its
number: `test_x_02_…` holds X-02. This page is generated from those names by `make docs`; `make check` fails
when it is not up to date. Rules for a workload's own library are listed for completeness.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its number, the section that it stands in, whose it is, and what it asks."""

    number: str
    section: str
    whose: str
    text: str


def rules() -> list[Rule]:
    """All rules, in order. Raises `SystemExit` on a line that is none."""
    found: list[Rule] = []
    section = ""
    for line in RULES.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line and not line.startswith("#"):
            matched = RULE.fullmatch(line)
            if matched is None:
                raise SystemExit(f"{RULES.name}: not a rule: {line!r}")
            found.append(Rule(matched[1], section, matched[2], matched[3]))
    return found


def tests() -> dict[str, list[tuple[Path, str]]]:
    """Rule number → the tests that carry it, as (file, function)."""
    found: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in _functions(path):
            matched = TEST.match(name)
            if matched:
                found[f"{matched[1].upper()}-{matched[2]}"].append((path, name))
    return found


def _functions(path: Path) -> Iterator[str]:
    """Names of all functions in a file, methods too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def untested() -> list[str]:
    """Numbers of our rules that no test carries."""
    held = tests()
    return [rule.number for rule in rules() if rule.whose == "ours" and rule.number not in held]


def document() -> str:
    """The whole page."""
    held = tests()
    lines = [HEAD]
    section = ""
    for rule in rules():
        if rule.section != section:
            section = rule.section
            lines += ["", f"## {section}", "", "| rule | what it asks | held by |", "| --- | --- | --- |"]
        lines.append(f"| {rule.number} | {rule.text} | {_holders(rule, held.get(rule.number, []))} |")
    return "\n".join(lines) + "\n"


def _holders(rule: Rule, holders: list[tuple[Path, str]]) -> str:
    """The cell that names a rule's tests."""
    if holders:
        return "<br>".join(f"[{name}](../{path.relative_to(ROOT).as_posix()})" for path, name in holders)
    return "the workload's library" if rule.whose == "client" else "**no test yet**"


def main() -> int:
    """Writes the page, or with `--check` compares it. 1 when it differs."""
    wanted = document()
    if "--check" in sys.argv[1:]:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != wanted:
            print(f"{TARGET.relative_to(ROOT)} is not up to date: run `make docs`")
            return 1
        return 0
    TARGET.write_text(wanted, encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}; rules without a test: {', '.join(untested()) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
