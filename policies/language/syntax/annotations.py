"""`# METADATA` blocks: YAML in comments above packages and rules.

A block begins with a comment line `# METADATA` and takes the comment lines right below it. It belongs to
the next package or rule: scope rule (the default above a rule) to that rule, document to all rules of
that name, package and subpackages to the package. The YAML is read without aliases and with a size limit.

Not here: what annotations mean to anybody (built-ins rego.metadata.*, schema checks).
"""

import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import yaml

from policies.documents import MAX_DEPTH, nests_deeper, yaml_problem
from policies.language.diagnostics import Diagnostic, ErrorCode, did_you_mean
from policies.language.source import Span
from policies.language.syntax.ast import Annotations, Comment, Module, Rule

MAX_BLOCK: Final = 64 * 1024
_SCOPES: Final = ("rule", "document", "package", "subpackages")
_FIELDS: Final = (
    "scope", "title", "description", "entrypoint", "organizations", "related_resources", "authors",
    "schemas", "custom", "compile", "labels",
)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (they multiply) and without dates (JSON has none)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in annotations")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Unfit(Exception):
    """The YAML is fine but is no annotation."""


def attach(module: Module) -> tuple[Module, list[Diagnostic]]:
    """The module with its annotations read and attached, and what was wrong with them."""
    diagnostics: list[Diagnostic] = []
    rules = list(module.rules)
    of_package: list[Annotations] = []
    of_rule: dict[int, list[Annotations]] = {}
    starts = [rule.span.start for rule in rules]
    package_start = module.package.span.start
    for block in _blocks(module.comments):
        span = block[0].span.to(block[-1].span)
        index = bisect_right(starts, span.start)
        following = index if index < len(rules) else None
        above_package = span.start < package_start
        try:
            annotations = _read(block, span, "package" if above_package else "rule")
        except (_Unfit, yaml.YAMLError, RecursionError) as error:
            hint = "a block ends at the first line that is no comment: leave a blank line below it"
            problem, mark = (
                yaml_problem(error) if isinstance(error, yaml.YAMLError) else (_short(error), None)
            )
            wrong = block[min(mark.line + 1, len(block) - 1)] if mark is not None else block[0]
            message = f"annotations can't be read: {problem}"
            diagnostics.append(
                Diagnostic(wrong.span, ErrorCode.PARSE, message, "YAML with known fields", hint)
            )
            continue
        if annotations.scope in ("package", "subpackages"):
            if above_package or annotations.scope == "subpackages":
                of_package.append(annotations)
                continue
        elif following is not None and not above_package:
            of_rule.setdefault(following, []).append(annotations)
            continue
        wanted = "package" if annotations.scope in ("package", "subpackages") else "rule"
        message = f"annotation scope '{annotations.scope}' must be applied to {wanted}"
        diagnostics.append(Diagnostic(block[0].span, ErrorCode.PARSE, message, f"a {wanted} below the block"))
    for index, found in of_rule.items():
        rules[index] = replace(rules[index], annotations=tuple(found))
    return replace(module, rules=tuple(rules), annotations=tuple(of_package)), diagnostics


def _blocks(comments: Iterable[Comment]) -> list[list[Comment]]:
    """Only comments at the start of a line count, as OPA has it: others stand behind code, or inside."""
    blocks: list[list[Comment]] = []
    last_row = -1
    for comment in comments:
        if comment.span.column != 1:
            last_row = -1
        elif comment.text.strip() == "METADATA":
            blocks.append([comment])
            last_row = comment.span.row
        elif last_row > 0 and comment.span.row == last_row + 1:
            blocks[-1].append(comment)
            last_row += 1
        elif blocks:
            last_row = -1
    return blocks


def _read(block: list[Comment], span: Span, default_scope: str) -> Annotations:
    text = "\n".join(comment.text for comment in block[1:])
    if len(text) > MAX_BLOCK:
        raise _Unfit(f"more than {MAX_BLOCK} characters")
    if nests_deeper(text, MAX_DEPTH):
        raise _Unfit(f"nested deeper than {MAX_DEPTH}")
    # The text is bounded and the loader makes plain values only.
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
    except ValueError as error:
        raise _Unfit("a number or a date that can't be read") from error
    if not isinstance(value, dict):
        raise _Unfit("expected fields, such as `title: …`")
    for name in value:
        if name not in _FIELDS:
            raise _Unfit(f"unknown field {name!r}" + (f", {did_you_mean(str(name), _FIELDS)}".rstrip(", ")))
    try:
        value = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise _Unfit("a value that JSON does not have") from error
    scope = value.get(
        "scope", "document" if value.get("entrypoint") and default_scope == "rule" else default_scope
    )
    if scope not in _SCOPES:
        raise _Unfit(f"unknown scope {scope!r}; it is one of {', '.join(_SCOPES)}")
    compile_options = value.get("compile") or {}
    if not isinstance(compile_options, dict):
        raise _Unfit("compile must hold fields")
    return Annotations(
        scope=scope,
        title=_text(value, "title"),
        description=_text(value, "description"),
        entrypoint=bool(value.get("entrypoint", False)),
        organizations=tuple(map(str, _list(value, "organizations"))),
        authors=tuple(_author(entry) for entry in _list(value, "authors")),
        related_resources=tuple(_resource(entry) for entry in _list(value, "related_resources")),
        schemas=tuple(_schema(entry) for entry in _list(value, "schemas")),
        custom=value.get("custom"),
        labels=value.get("labels"),
        compile_unknowns=tuple(map(str, compile_options.get("unknowns") or ())),
        compile_mask_rule=str(compile_options.get("mask_rule") or ""),
        span=span,
    )


def to_json(annotations: Annotations) -> dict[str, object]:
    """The annotations as rego.metadata.rule() and .chain() give them: empty fields are left out."""
    result: dict[str, object] = {"scope": annotations.scope}
    if annotations.title:
        result["title"] = annotations.title
    if annotations.description:
        result["description"] = annotations.description
    if annotations.entrypoint:
        result["entrypoint"] = True
    if annotations.organizations:
        result["organizations"] = list(annotations.organizations)
    if annotations.related_resources:
        result["related_resources"] = [
            {"ref": ref, "description": text} if text else {"ref": ref}
            for ref, text in annotations.related_resources
        ]
    if annotations.authors:
        result["authors"] = [
            {key: part for key, part in (("name", name), ("email", email)) if part}
            for name, email in annotations.authors
        ]
    if annotations.schemas:
        result["schemas"] = [
            {"path": path.split("."), ("schema" if isinstance(schema, str) else "definition"): (
                schema.split(".") if isinstance(schema, str) else schema
            )}
            for path, schema in annotations.schemas
        ]  # fmt: skip
    if annotations.custom is not None:
        result["custom"] = annotations.custom
    if annotations.labels is not None:
        result["labels"] = annotations.labels
    return result


def of_document(rules: Iterable[Rule]) -> list[Annotations]:
    """The document-scope annotations among rules of one name."""
    return [entry for rule in rules for entry in rule.annotations if entry.scope == "document"]


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        return json.dumps(text)
    return text


def _list(value: dict[str, Any], name: str) -> list[Any]:
    entries = value.get(name)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise _Unfit(f"{name} must be a list")
    return entries


def _author(entry: Any) -> tuple[str, str]:
    if isinstance(entry, dict):
        return str(entry.get("name") or ""), str(entry.get("email") or "")
    words = str(entry).split()
    if words and words[-1].startswith("<") and words[-1].endswith(">"):
        return " ".join(words[:-1]), words[-1][1:-1]
    return " ".join(words), ""


def _resource(entry: Any) -> tuple[str, str]:
    if isinstance(entry, dict):
        return str(entry.get("ref") or ""), str(entry.get("description") or "")
    return str(entry), ""


def _schema(entry: Any) -> tuple[str, object]:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise _Unfit("each entry of schemas is `path: schema`")
    [(path, schema)] = entry.items()
    return str(path), schema


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
