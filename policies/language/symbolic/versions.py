"""What of an earlier version of a policy stands unchanged in a later one.

Rules are the same where their text stands at the same place of the same file, means the same after
compilation, and uses only documents whose rules are the same. `adopted` puts the earlier rules in their place
so that whatever was worked out about a rule, and is found by its identity, is found again.

Not here: data, which every result names in its reads (memory).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from policies.language.compiler.compiled import CompiledModules, CompiledRule, RuleGroup, RuleTree
from policies.language.compiler.graph import Path, rule_uses

_Place = tuple[str, int]


def adopted(later: CompiledModules, earlier: CompiledModules) -> CompiledModules:
    """The later policy with the earlier rules where they are the same."""
    if _texts(later) == _texts(earlier):
        return earlier
    if _packages(later) != _packages(earlier):
        return later
    alike = {path: _alike(group, earlier.groups.get(path)) for path, group in later.groups.items()}
    removed = earlier.groups.keys() - later.groups.keys()
    uses = {
        path: {
            id(rule): rule_uses(rule, later.tree)
            | (rule_uses(old, earlier.tree) if removed and (old := alike[path].get(id(rule))) else set())
            for rule in _rules(group)
        }
        for path, group in later.groups.items()
    }
    touched = _touched(later, earlier, alike, uses) | removed
    groups = {
        path: _with_earlier(group, earlier.groups.get(path), alike[path], uses[path], touched)
        for path, group in later.groups.items()
    }
    return dataclasses.replace(later, groups=groups, tree=_tree(later.tree, groups))


def rules_of(modules: CompiledModules) -> Iterator[CompiledRule]:
    """Every rule, defaults included."""
    for group in modules.groups.values():
        yield from _rules(group)


def _rules(group: RuleGroup) -> tuple[CompiledRule, ...]:
    return (*group.rules, *((group.default,) if group.default is not None else ()))


def _texts(modules: CompiledModules) -> dict[str, str]:
    return {module.source.file: module.source.text for module in modules.modules}


def _packages(modules: CompiledModules) -> set[Path]:
    return {module.package.path for module in modules.modules}


def _alike(group: RuleGroup, earlier: RuleGroup | None) -> Mapping[int, CompiledRule]:
    """For rules of a group, by identity, the earlier rule with the same text, place and meaning."""
    if earlier is None or (group.shape, group.arity) != (earlier.shape, earlier.arity):
        return {}
    known = {_place(rule): rule for rule in _rules(earlier)}
    pairs = ((rule, known.get(_place(rule))) for rule in _rules(group))
    return {id(rule): old for rule, old in pairs if old is not None and _same(rule, old)}


def _place(rule: CompiledRule) -> _Place:
    return rule.span.source.file, rule.span.start


def _same(rule: CompiledRule, old: CompiledRule) -> bool:
    """Whether two rules are equal, and so are the places of all their parts."""
    return (
        (rule.span.text, rule.span.row, rule.span.column) == (old.span.text, old.span.row, old.span.column)
    ) and rule == old


def _touched(
    later: CompiledModules,
    earlier: CompiledModules,
    alike: Mapping[Path, Mapping[int, CompiledRule]],
    uses: Mapping[Path, Mapping[int, set[Path]]],
) -> set[Path]:
    """Groups that changed, and those that use them, however far away."""
    users: dict[Path, set[Path]] = {}
    for path, by_rule in uses.items():
        for used in set().union(*by_rule.values()):
            users.setdefault(used, set()).add(path)
    waiting = [path for path, group in later.groups.items() if not _whole(group, earlier, alike[path])]
    waiting += [user for path in earlier.groups.keys() - later.groups.keys() for user in users.get(path, ())]
    touched: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in touched:
            touched.add(path)
            waiting.extend(users.get(path, ()))
    return touched


def _whole(group: RuleGroup, earlier: CompiledModules, alike: Mapping[int, CompiledRule]) -> bool:
    """Whether a group has the earlier rules in the earlier order, all of them."""
    old = earlier.groups.get(group.path)
    return old is not None and [id(alike.get(id(rule))) for rule in _rules(group)] == list(
        map(id, _rules(old))
    )


def _with_earlier(
    group: RuleGroup,
    earlier: RuleGroup | None,
    alike: Mapping[int, CompiledRule],
    uses: Mapping[int, set[Path]],
    touched: set[Path],
) -> RuleGroup:
    if earlier is not None and group.path not in touched:
        return earlier

    def put(rule: CompiledRule) -> CompiledRule:
        return rule if uses[id(rule)] & touched else alike.get(id(rule), rule)

    default = put(group.default) if group.default is not None else None
    return dataclasses.replace(group, rules=tuple(map(put, group.rules)), default=default)


def _tree(node: RuleTree, groups: Mapping[Path, RuleGroup]) -> RuleTree:
    children = {name: _tree(child, groups) for name, child in node.children.items()}
    return RuleTree(children, groups[node.group.path] if node.group is not None else None)
