"""Rules together: the tree of documents they make, their conflicts, and recursion.

Not here: what is inside of one rule.
"""

from collections.abc import Iterable, Iterator, Mapping

from policies.language.compiler.compiled import CompiledRule, RuleGroup, RuleTree, Shape
from policies.language.compiler.terms import walk, walk_body
from policies.language.diagnostics import Diagnostic, ErrorCode, Related
from policies.language.syntax.ast import Call, Ref, String, Var

Path = tuple[str, ...]


def grouped(rules: Iterable[CompiledRule], found: list[Diagnostic]) -> dict[Path, RuleGroup]:
    """Rules by path. Rules of different kinds, arities or two defaults at one path are errors."""
    by_path: dict[Path, list[CompiledRule]] = {}
    for rule in rules:
        by_path.setdefault(rule.path, []).append(rule)
    groups: dict[Path, RuleGroup] = {}
    for path, members in by_path.items():
        first = members[0]
        for other in members[1:]:
            if not _same_kind(first, other):
                message = f"conflicting rules {_name(path)} found"
                related = (Related(first.span, f"{_describe(first)} here"),)
                found.append(
                    Diagnostic(
                        other.span, ErrorCode.TYPE, message, expected=_describe(first),
                        hint=f"this one is {_describe(other)}; give it another name", related=related,
                    )
                )  # fmt: skip
                break
        defaults = [rule for rule in members if rule.is_default]
        if len(defaults) > 1:
            message = f"multiple default rules {_name(path)} found"
            related = (Related(defaults[0].span, "another default"),)
            found.append(
                Diagnostic(defaults[1].span, ErrorCode.TYPE, message, hint="keep one", related=related)
            )
        groups[path] = RuleGroup(
            path=path,
            shape=first.shape,
            rules=tuple(rule for rule in members if not rule.is_default),
            default=defaults[0] if defaults else None,
            arity=len(first.arguments),
        )
    return groups


def tree_of(groups: Mapping[Path, RuleGroup], packages: Iterable[Path], found: list[Diagnostic]) -> RuleTree:
    """The tree of packages and rules; a rule below a complete rule, a set or a function is an error."""
    root: dict[str, object] = {}
    for path in packages:
        _descend(root, path)
    for path in groups:
        _descend(root, path)
    for path, group in groups.items():
        # Most rules have nothing below them; only then is it worth looking for what.
        below = []
        if _closed(group) and _descend(root, path):
            below = [other for other in groups if len(other) > len(path) and other[: len(path)] == path]
        if below:
            span = _first(group).span
            related = tuple(
                Related(_first(groups[other]).span, f"rule {_name(other)}") for other in below[:5]
            )
            message = f"rule {_name(path)} conflicts with rules below it"
            found.append(
                Diagnostic(
                    span,
                    ErrorCode.TYPE,
                    message,
                    hint="a rule with a value can't hold other rules",
                    related=related,
                )
            )
    for path in packages:
        for length in range(1, len(path) + 1):
            owner = groups.get(path[:length])
            if owner is not None and _closed(owner):
                span = _first(owner).span
                message = f"package {_name(path)} conflicts with rule {_name(owner.path)} defined at {span}"
                found.append(
                    Diagnostic(span, ErrorCode.COMPILE, message, hint="rename the rule or the package")
                )
    return _frozen(root, (), groups)


def _descend(root: dict[str, object], path: Path) -> dict[str, object]:
    """The node at a path, made where it is missing."""
    node = root
    for name in path:
        following = node.setdefault(name, {})
        assert isinstance(following, dict)
        node = following
    return node


def _frozen(node: dict[str, object], path: Path, groups: Mapping[Path, RuleGroup]) -> RuleTree:
    children = {
        name: _frozen(child, (*path, name), groups) for name, child in node.items() if isinstance(child, dict)
    }
    return RuleTree(children, groups.get(path))


def _closed(group: RuleGroup) -> bool:
    """Whether nothing may stand below the path of a group."""
    return (
        group.shape is Shape.FUNCTION
        or any(not rule.keys for rule in group.rules)
        or group.default is not None
    )


def _same_kind(first: CompiledRule, other: CompiledRule) -> bool:
    if first.shape is not other.shape:
        return False
    if first.shape is Shape.FUNCTION:
        return len(first.arguments) == len(other.arguments)
    return first.shape is Shape.SET or bool(first.keys) == bool(other.keys)


def _describe(rule: CompiledRule) -> str:
    if rule.shape is Shape.FUNCTION:
        return f"a function of {len(rule.arguments)} arguments"
    if rule.shape is Shape.SET:
        return "a set (contains)"
    return "an object with computed keys" if rule.keys else "a complete rule"


def _first(group: RuleGroup) -> CompiledRule:
    return group.rules[0] if group.rules else group.default or _unreachable()


def _unreachable() -> CompiledRule:
    raise AssertionError("a group has a rule or a default")


def _name(path: Path) -> str:
    return ".".join(("data", *path))


# --- who uses whom -------------------------------------------------------------------------------------


def branches(rule: CompiledRule) -> Iterator[CompiledRule]:
    """A rule and the branches of its `else` chain."""
    branch: CompiledRule | None = rule
    while branch is not None:
        yield branch
        branch = branch.otherwise


def nodes_of(rule: CompiledRule) -> Iterator[object]:
    """Every node of a rule, all branches and head terms included."""
    for branch in branches(rule):
        yield from walk_body(branch.body)
        for term in (*branch.keys, branch.member, branch.value, *branch.arguments):
            if term is not None:
                yield from walk(term)


def uses(group: RuleGroup, tree: RuleTree) -> set[Path]:
    """The paths of the groups that the rules of a group may read."""
    rules = (*group.rules, *((group.default,) if group.default else ()))
    return set().union(*(rule_uses(rule, tree) for rule in rules))


def rule_uses(rule: CompiledRule, tree: RuleTree) -> set[Path]:
    """The paths of the groups that a rule may read."""
    found: set[Path] = set()
    heads: set[int] = set()
    for node in nodes_of(rule):
        if isinstance(node, Ref):
            heads.add(id(node.head))
            found.update(_targets(node, tree))
        elif isinstance(node, Call):
            found.update(_targets(node.operator, tree))
        elif isinstance(node, Var) and node.name == "data" and id(node) not in heads:
            found.update(_targets(Ref(node), tree))  # bare `data` reads everything
    return found


def _targets(reference: Ref, tree: RuleTree) -> Iterator[Path]:
    """Groups on and below the document that a reference names."""
    if not isinstance(reference.head, Var) or reference.head.name != "data":
        return
    nodes = [tree]
    for operand in reference.operands:
        following: list[RuleTree] = []
        for node in nodes:
            if node.group is not None:
                yield node.group.path
            if isinstance(operand, String):
                child = node.children.get(operand.value)
                following.extend([child] if child is not None else [])
            elif isinstance(operand, Var | Ref | Call):
                following.extend(node.children.values())
        nodes = following
    while nodes:
        node = nodes.pop()
        if node.group is not None:
            yield node.group.path
        nodes.extend(node.children.values())


def check_recursion(groups: Mapping[Path, RuleGroup], tree: RuleTree, found: list[Diagnostic]) -> None:
    """One error for each cycle of rules that need one another."""
    edges = {path: sorted(uses(group, tree)) for path, group in groups.items()}
    for component in _cycles(edges):
        cycle = _shortest_cycle(component, edges)
        first = _first(groups[cycle[0]])
        chain = " -> ".join(_name(path) for path in (*cycle, cycle[0]))
        related = tuple(Related(_first(groups[path]).span, _name(path)) for path in cycle[1:8])
        message = f"rule {_name(cycle[0])} is recursive: {chain}"
        hint = "Rego has no recursion; to walk nested data use walk or graph.reachable"
        found.append(Diagnostic(first.span, ErrorCode.RECURSION, message, hint=hint, related=related))


def _cycles(edges: Mapping[Path, list[Path]]) -> list[list[Path]]:
    """Strongly connected components with a cycle (Tarjan, without recursion)."""
    index: dict[Path, int] = {}
    low: dict[Path, int] = {}
    stack: list[Path] = []
    on_stack: set[Path] = set()
    found: list[list[Path]] = []
    for root in edges:
        if root in index:
            continue
        work: list[tuple[Path, Iterator[Path]]] = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for target in following:
                if target not in edges:
                    continue
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(edges[target])))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in edges[node]:
                        found.append(component)
    return found


def _shortest_cycle(component: list[Path], edges: Mapping[Path, list[Path]]) -> list[Path]:
    members = set(component)
    start = min(component)
    came_from: dict[Path, Path] = {}
    queue = [start]
    for node in queue:
        for target in edges[node]:
            if target == start:
                cycle = [node]
                while cycle[-1] != start:
                    cycle.append(came_from[cycle[-1]])
                return cycle[::-1]
            if target in members and target not in came_from:
                came_from[target] = node
                queue.append(target)
    return [start]
