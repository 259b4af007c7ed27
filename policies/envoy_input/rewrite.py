"""Rewrites modules: packages, imports, aliases and references, each where it stands in the text.

`http := input.attributes.request.http` and `import input.attributes.request.http` only give a name to a part
of Envoy's input; what is read through the name is rewritten and the name goes. Comparisons of `parsed_path`
with constants become comparisons of the path, which manifests can say; all else about it is `split`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.envoy_input import fields
from policies.envoy_input.edits import Edits, end_of_operand
from policies.envoy_input.parsed_path import as_path_condition
from policies.envoy_input.report import Assumption, Difference, Kind, Remark, Rewrite
from policies.envoy_input.walk import Names, declared, walk
from policies.language.checks.check import parse_modules
from policies.language.layout.format import format_text
from policies.language.source import Span
from policies.language.syntax import ast

Path = tuple[str, ...]

OURS: Final[Path] = ("gatehouse", "authz")
USUAL: Final[tuple[Path, ...]] = (("envoy", "authz"), ("istio", "authz"))
"""Packages that decide in the plugin's default configuration, and in that of its tutorial for Istio."""


def rewrite_modules(texts: Mapping[str, str], *, decision: Path | None = None) -> Rewrite:
    """Rewrites Rego files by name. `decision` is the package whose `allow` the plugin asks.

    Raises Diagnostics for Rego that doesn't parse, InvalidInput where no package decides.
    """
    modules = dict(zip(texts, parse_modules(texts), strict=True))
    package = _deciding(modules.values(), decision)
    aliases = _rule_aliases(modules.values())
    made: dict[str, str] = {}
    remarks: list[Remark] = []
    assumed: set[Assumption] = set()
    for name, module in modules.items():
        rewriter = _ModuleRewriter(module, package, aliases)
        rewriter.run()
        remarks += rewriter.remarks
        assumed |= rewriter.assumed
        made[name] = rewriter.edits.result()
    refused = any(remark.kind is Kind.REFUSED for remark in remarks)
    formatted = {} if refused else {name: format_text(text, name) for name, text in made.items()}
    ordered = sorted(remarks, key=lambda one: (one.span.source.file, one.span.start))
    return Rewrite(formatted, tuple(ordered), tuple(one for one in Assumption if one in assumed))


def _deciding(modules: Iterable[ast.Module], decision: Path | None) -> Path:
    having = {module.package.path for module in modules for rule in module.rules if _name(rule) == "allow"}
    candidates = [decision] if decision is not None else [path for path in USUAL if path in having]
    found = [path for path in candidates if path in having]
    if len(found) != 1:
        known = ", ".join("/".join((*path, "allow")) for path in sorted(having)) or "none"
        raise InvalidInput(
            "rewriting policies for Envoy: it isn't clear which package decides",
            hint=f"name the plugin's path with --decision; packages with `allow`: {known}",
        )
    return found[0]


def _rule_aliases(modules: Iterable[ast.Module]) -> dict[Path, Path]:
    """Rules that only name a part of Envoy's input, by their full path."""
    found: dict[Path, Path] = {}
    for module in modules:
        names = Names.of_imports(module)
        for rule in module.rules:
            value = rule.head.value
            part = names.envoy_path(value) if value is not None and not rule.body else None
            if part is not None and not rule.is_default and rule.otherwise is None and _is_part(part):
                found[(*module.package.path, _name(rule))] = part
    return found


def _is_part(path: Path) -> bool:
    """Whether a path leads to an object of fields or headers rather than to one value."""
    return path == fields.HEADERS or any(
        field[: len(path)] == path and len(field) > len(path) for field in fields.FIELDS
    )


def _name(rule: ast.Rule) -> str:
    head = rule.head.reference.head
    return head.name if isinstance(head, ast.Var) and not rule.head.reference.operands else ""


class _ModuleRewriter:
    def __init__(self, module: ast.Module, package: Path, aliases: Mapping[Path, Path]) -> None:
        self.edits = Edits(module.source)
        self.remarks: list[Remark] = []
        self.assumed: set[Assumption] = set()
        self._module, self._package, self._aliases = module, package, aliases
        own = {path[-1]: part for path, part in aliases.items() if path[:-1] == module.package.path}
        self._names = Names.of_imports(module).plus(own)
        self._gone: set[int] = set()
        """Nodes inside of what was replaced as a whole, by identity; the module keeps them alive."""
        self._objects = {
            _name(rule) for rule in module.rules for each in _branches(rule) if _is_object(each.head.value)
        }
        """Rules whose value is an object literal."""

    def run(self) -> None:
        """Collects the edits and remarks of the module."""
        self._packages()
        for rule in self._module.rules:
            if (*self._module.package.path, _name(rule)) in self._aliases:
                self.edits.replace(rule.span.start, rule.span.end, "")
                continue
            for one in _branches(rule):
                self._decision(one)
            self._rule(rule)

    def _packages(self) -> None:
        module = self._module
        if module.package.path == self._package:
            self.edits.replace(module.package.span.start, module.package.span.end, "package gatehouse.authz")
        for entry in module.imports:
            if entry.path[0] == "input" and self._names.of_envoy.get(entry.name) == entry.path[1:]:
                self.edits.replace(entry.span.start, entry.span.end, "")
            elif entry.path[1 : 1 + len(self._package)] == self._package and entry.path[0] == "data":
                path = ".".join(("data", *OURS, *entry.path[1 + len(self._package) :]))
                alias = f" as {entry.name}" if entry.name != path.rpartition(".")[2] else ""
                self.edits.replace(entry.span.start, entry.span.end, f"import {path}{alias}")

    def _decision(self, rule: ast.Rule) -> None:
        """The plugin takes objects for answers too; ours are true or false."""
        if self._module.package.path != self._package or _name(rule) != "allow":
            return
        value = rule.head.value
        named = isinstance(value, ast.Var) and value.name in self._objects
        if _is_object(value) or named or rule.kind is not ast.RuleKind.COMPLETE:
            self._refuse(
                rule.head.span, "an answer with headers, body or status has no counterpart: `allow if …`"
            )

    def _rule(self, rule: ast.Rule) -> None:
        names = self._names
        for name, span in declared(rule):
            if name in names.of_envoy:
                self._refuse(span, f"{name} names a part of Envoy's input elsewhere: give it another name")
        names = names.plus(self._local_aliases(rule))
        for node, around in walk(rule):
            if isinstance(node, ast.Expr):
                self._statement(node, names)
            elif isinstance(node, ast.With) and node.target.head == ast.Var("input"):
                self._refuse(node.span, "an input that is put there by `with` is Envoy's: rewrite it by hand")
            elif isinstance(node, ast.Ref | ast.Var) and id(node) not in self._gone:
                self._reference(node, around, names)

    def _local_aliases(self, rule: ast.Rule) -> dict[str, Path]:
        """`x := <part of Envoy's input>` in a body; the statement becomes one that the part is there."""
        found: dict[str, Path] = {}
        for node, _ in walk(rule):
            if not isinstance(node, ast.Expr) or not isinstance(node.node, ast.Call):
                continue
            call = node.node
            if call.name == "assign" and isinstance(call.arguments[0], ast.Var):
                part = self._names.plus(found).envoy_path(call.arguments[1])
                if part is not None and _is_part(part):
                    found[call.arguments[0].name] = part
                    there = "input.request" if part[:3] == fields.HEADERS[:3] else "true"
                    self._replace(node, node.span, there)
        return found

    def _statement(self, expression: ast.Expr, names: Names) -> None:
        """A comparison of `parsed_path` with constants, as one of the path."""
        condition = as_path_condition(expression.node, names)
        if condition is None or id(expression) in self._gone:
            return
        node = expression.node
        assert isinstance(node, ast.Call)
        self._replace(node, node.span, condition)
        self.assumed.add(Assumption.NORMALISED)
        was = " ".join(node.span.text.split())
        self.remarks.append(Remark(node.span, Kind.DIFFERS, was, condition, Difference.DECODED))

    def _reference(self, node: ast.Ref | ast.Var, around: ast.Call | None, names: Names) -> None:
        ref = node if isinstance(node, ast.Ref) else ast.Ref(node, (), node.span)
        if ref.head == ast.Var("data"):
            self._data(ref)
            return
        base = names.base(ref)
        if base is None:
            return
        steps = [*base, *(one.value if isinstance(one, ast.String) else None for one in ref.operands)]
        skipped = len(base)
        if steps[: len(fields.HEADERS)] == [*fields.HEADERS] and len(steps) > len(fields.HEADERS):
            pseudo = fields.PSEUDO_HEADERS.get(str(steps[len(fields.HEADERS)]))
            if pseudo is not None:
                skipped += len(pseudo) - len(fields.HEADERS) - 1
                steps = [*pseudo, *steps[len(fields.HEADERS) + 1 :]]
        if steps[:1] and steps[0] not in fields.ROOTS:
            return  # our own schema
        found = fields.find(steps)
        was = " ".join(ref.span.text.split())
        if found.field is None:
            self._refuse(ref.span, found.reason)
            return
        end = end_of_operand(ref, max(0, found.length - skipped))
        self.edits.replace(ref.span.start, end, found.field.ours)
        if found.field.assumption is not None:
            self.assumed.add(found.field.assumption)
        difference = found.field.difference
        if difference is Difference.QUERY and _ignores_query(node, around):
            difference = None
        if tuple(steps) == fields.HEADERS or (steps[:4] == [*fields.HEADERS] and None in steps[4:]):
            difference = Difference.PSEUDO_HEADERS if not _gets_one(node, around) else None
        kind = Kind.SAME if difference is None else Kind.DIFFERS
        became = found.field.ours + ref.span.source.text[end : ref.span.end]
        self.remarks.append(Remark(ref.span, kind, was, " ".join(became.split()), difference))

    def _data(self, ref: ast.Ref) -> None:
        """References by the full name of the package that was renamed."""
        path = tuple(one.value for one in ref.operands if isinstance(one, ast.String))
        length = len(self._package)
        if path[:length] == self._package and len(ref.operands) >= length:
            self.edits.replace(ref.span.start, end_of_operand(ref, length), ".".join(("data", *OURS)))

    def _replace(self, node: ast.Expr | ast.Call, span: Span, text: str) -> None:
        """A statement as a whole: nothing inside of it is rewritten by itself."""
        self.edits.replace(span.start, span.end, text)
        self._gone.update(id(inner) for inner, _ in walk(node))

    def _refuse(self, span: Span, reason: str) -> None:
        self.remarks.append(Remark(span, Kind.REFUSED, " ".join(span.text.split()), reason=reason))


def _is_object(term: ast.Term | None) -> bool:
    return isinstance(term, ast.Object | ast.ObjectComprehension)


def _branches(rule: ast.Rule) -> Iterator[ast.Rule]:
    branch: ast.Rule | None = rule
    while branch is not None:
        yield branch
        branch = branch.otherwise


def _ignores_query(ref: ast.Ref | ast.Var, around: ast.Call | None) -> bool:
    """Whether the path is only compared with a beginning that can't reach into a query."""
    if around is None or around.name != "startswith" or around.arguments[0] is not ref:
        return False
    beginning = around.arguments[1]
    return isinstance(beginning, ast.String) and "?" not in beginning.value


def _gets_one(ref: ast.Ref | ast.Var, around: ast.Call | None) -> bool:
    """Whether headers are only asked for one, by name."""
    if around is None or around.name != "object.get" or around.arguments[0] is not ref:
        return False
    return isinstance(around.arguments[1], ast.String) and not around.arguments[1].value.startswith(":")
