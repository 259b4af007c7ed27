"""The rules that can hold for a workload, with everything that they use, as digests and as places.

A rule stands for its compiled form and its text. What it uses is every group that it may read, and what those
use. Rules of a large group that ask for another destination don't count (`rule_index`): an edit in one team's
file is no change for the others.

An edit moves every rule below it. So there are two digests: `loose` says nothing of rows, and whoever keeps
something under it names rows by rule (`Places`); `exact` says where each rule stands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from control_plane.core.errors import InvalidInput
from policies.formula import Origin
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


@dataclass(frozen=True, slots=True)
class Places:
    """The rows of several rules, each `(file, first, last)`; `apart` where no two share a row."""

    rules: tuple[tuple[str, int, int], ...]
    apart: bool

    @staticmethod
    def of(rules: Iterable[CompiledRule]) -> Places:
        """The places of rules, in their order."""
        found = tuple((one.span.source.file, one.span.row, one.span.end_row) for one in rules)
        ordered = sorted(found)
        apart = all(
            first[0] != second[0] or first[2] < second[1] for first, second in itertools.pairwise(ordered)
        )
        return Places(found, apart)

    def written(self, origins: Iterable[Origin]) -> list[list[object]] | None:
        """Lines as rule, distance from its first row, and name; None for one that is in no rule."""
        found: list[list[object]] = []
        for origin in origins:
            for number, (file, first, last) in enumerate(self.rules):
                if file == origin.file and first <= origin.line <= last:
                    found.append([number, origin.line - first, origin.rule])
                    break
            else:
                return None
        return found

    def read(self, document: object) -> tuple[Origin, ...]:
        """The lines where the rules are now. Raises InvalidInput for others, or in another order."""
        found: list[Origin] = []
        for entry in document if isinstance(document, list) else [None]:
            match entry:
                case [int(number), int(distance), str(name)] if 0 <= number < len(self.rules):
                    file, first, last = self.rules[number]
                    if not 0 <= distance <= last - first:
                        raise InvalidInput("reading a line: it is in another rule")
                    found.append(Origin(file, first + distance, name))
                case _:
                    raise InvalidInput("reading a line: another shape")
        if any(not one < other for one, other in itertools.pairwise(found)):
            raise InvalidInput("reading lines: they stand in another order now")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Rules:
    """What stands for several rules and what they use: without rows, with rows, and where the rules are."""

    loose: str
    exact: str
    places: Places


@dataclass(frozen=True, slots=True)
class _Digests:
    loose: str
    exact: str

    @staticmethod
    def joined(head: str, several: Iterable[_Digests]) -> _Digests:
        listed = list(several)
        return _Digests(
            digest(head, *(one.loose for one in listed)), digest(head, *(one.exact for one in listed))
        )


class RuleDigests:
    """The digests of one policy version."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._modules = questions.memory.modules
        self._rules: dict[int, tuple[_Digests, frozenset[Path]]] = {}
        self._groups: dict[Path, _Digests] = {}
        self._closures: dict[frozenset[Path], _Digests] = {}
        self._packages = repr(sorted({module.package.path for module in self._modules.modules}))
        groups = [path for path in _ASKED if path in self._modules.groups]
        size = {path: len(self._modules.groups[path].rules) for path in groups}
        self._large = [path for path in groups if size[path] >= rule_index.WORTH_AN_INDEX]
        self._small = {path: self._modules.groups[path].rules for path in groups if path not in self._large}
        self._common: Rules | None = None

    def of(self, workload: Workload) -> Rules:
        """The rules of one workload. Raises Diagnostics where a large group has no index."""
        if not self._large:
            self._common = self._common or self._of(self._small)
            return self._common
        own = {path: self._questions.rules(workload, path) for path in self._large}
        return self._of(self._small | own)

    def _of(self, rules: dict[Path, tuple[CompiledRule, ...]]) -> Rules:
        found = _Digests.joined(self._packages, (self._entry(path, rules[path]) for path in rules))
        return Rules(
            found.loose, found.exact, Places.of(rule for several in rules.values() for rule in several)
        )

    def _entry(self, path: Path, rules: Iterable[CompiledRule]) -> _Digests:
        group = self._modules.groups[path]
        listed = [*rules, *((group.default,) if group.default is not None else ())]
        used = frozenset().union(*(self._rule(rule)[1] for rule in listed))
        return _Digests.joined(_head(group), [*(self._rule(rule)[0] for rule in listed), self._closure(used)])

    def _rule(self, rule: CompiledRule) -> tuple[_Digests, frozenset[Path]]:
        """The digests of a rule by itself, and the groups that it uses."""
        known = self._rules.get(id(rule))
        if known is None:
            span = rule.span
            loose = digest(repr(rule), span.text, span.source.file, str(span.column))
            uses = frozenset(rule_uses(rule, self._modules.tree))
            known = _Digests(loose, digest(loose, str(span.row))), uses
            self._rules[id(rule)] = known  # the version holds its rules, so none gets another's id
        return known

    def _group(self, path: Path) -> tuple[_Digests, frozenset[Path]]:
        group = self._modules.groups[path]
        rules = (*group.rules, *((group.default,) if group.default is not None else ()))
        if path not in self._groups:
            self._groups[path] = _Digests.joined(_head(group), (self._rule(rule)[0] for rule in rules))
        return self._groups[path], frozenset().union(*(self._rule(rule)[1] for rule in rules))

    def _closure(self, used: frozenset[Path]) -> _Digests:
        """Groups and all that they use, however far away."""
        known = self._closures.get(used)
        if known is None:
            reached: dict[Path, _Digests] = {}
            waiting = list(used)
            while waiting:
                path = waiting.pop()
                if path not in reached:
                    reached[path], further = self._group(path)
                    waiting.extend(further)
            known = _Digests.joined("", (reached[path] for path in sorted(reached)))
            self._closures[used] = known
        return known


def _head(group: RuleGroup) -> str:
    return repr((group.path, group.shape, group.arity, group.default is not None))
