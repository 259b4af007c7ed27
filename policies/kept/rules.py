"""A digest of the rules that can hold for a workload, with everything that they use.

A rule stands for its compiled form, its text and its place, which the origins of a formula name. What it uses
is every group that it may read, and what those use. Rules of a large group that ask for another destination
don't count (`rule_index`): an edit in one team's file is no change for the others.
"""

from __future__ import annotations

from collections.abc import Iterable

from policies.inventory import Workload
from policies.kept.shelf import digest
from policies.language.compiler.compiled import CompiledRule, RuleGroup
from policies.language.compiler.graph import Path, rule_uses
from policies.language.symbolic import rule_index
from policies.questions import AUTHZ, INVARIANTS, SEGMENTATION, Questions

_ASKED: tuple[Path, ...] = (
    (*AUTHZ, "allow"),
    (*AUTHZ, "deny"),
    (*SEGMENTATION, "allow"),
    (*SEGMENTATION, "deny"),
    INVARIANTS,
)


class RuleDigests:
    """The digests of one policy version."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._modules = questions.memory.modules
        self._rules: dict[int, tuple[str, frozenset[Path]]] = {}
        self._groups: dict[Path, str] = {}
        self._closures: dict[frozenset[Path], str] = {}
        packages = sorted({module.package.path for module in self._modules.modules})
        self._packages = digest(repr(packages))
        groups = {path: group for path in _ASKED if (group := self._modules.groups.get(path)) is not None}
        self._large = [path for path, one in groups.items() if len(one.rules) >= rule_index.WORTH_AN_INDEX]
        small = [(path, groups[path].rules) for path in groups if path not in self._large]
        self._common = digest(self._packages, *(self._entry(path, rules) for path, rules in small))

    def of(self, workload: Workload) -> str:
        """The digest for one workload. Raises Diagnostics where a large group has no index."""
        own = ((path, self._questions.rules(workload, path)) for path in self._large)
        return digest(self._common, *(self._entry(path, rules) for path, rules in own))

    def _entry(self, path: Path, rules: Iterable[CompiledRule]) -> str:
        group = self._modules.groups[path]
        listed = [*rules, *((group.default,) if group.default is not None else ())]
        used = frozenset().union(*(self._rule(rule)[1] for rule in listed))
        return digest(_head(group), *(self._rule(rule)[0] for rule in listed), self._closure(used))

    def _rule(self, rule: CompiledRule) -> tuple[str, frozenset[Path]]:
        """The digest of a rule by itself, and the groups that it uses."""
        known = self._rules.get(id(rule))
        if known is None:
            span = rule.span
            place = (span.source.file, str(span.row), str(span.column))
            known = digest(repr(rule), span.text, *place), frozenset(rule_uses(rule, self._modules.tree))
            self._rules[id(rule)] = known  # the version holds its rules, so none gets another's id
        return known

    def _group(self, path: Path) -> tuple[str, frozenset[Path]]:
        group = self._modules.groups[path]
        rules = (*group.rules, *((group.default,) if group.default is not None else ()))
        if path not in self._groups:
            self._groups[path] = digest(_head(group), *(self._rule(rule)[0] for rule in rules))
        return self._groups[path], frozenset().union(*(self._rule(rule)[1] for rule in rules))

    def _closure(self, used: frozenset[Path]) -> str:
        """Groups and all that they use, however far away."""
        known = self._closures.get(used)
        if known is None:
            reached: dict[Path, str] = {}
            waiting = list(used)
            while waiting:
                path = waiting.pop()
                if path not in reached:
                    reached[path], further = self._group(path)
                    waiting.extend(further)
            known = self._closures[used] = digest(*(reached[path] for path in sorted(reached)))
        return known


def _head(group: RuleGroup) -> str:
    return repr((group.path, group.shape, group.arity, group.default is not None))
