"""The canonical layout of a module, the same as that of `opa fmt` (1.19).

`format_module` gives text that parses to the same module. Layout follows the author where `opa fmt` does:
rules that stood on adjoining lines stay together, collections spread over rows stay spread, empty lines
between statements are kept (one at most).

Known differences, on purpose: what `opa fmt` loses is kept. It drops parentheses that matter (`a == (b == c)`
becomes `a == b == c`), beside `rego.v1` `future.keywords.not`, and comments that follow `if {}` somewhere.
Where two comments end up on one line it leaves a term as it was written; here they are joined.
"""

import re
from typing import Final

from policies.language.layout.beginnings import leading_union, stays_behind_if
from policies.language.layout.statements import StatementFormatter
from policies.language.layout.writer import LineWriter
from policies.language.source import Span
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Import, Module, Rule
from policies.language.syntax.parser import parse_module

_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\w+')


def format_text(text: str, file: str = "policy.rego") -> str:
    """A Rego file in canonical layout. Raises Diagnostics when it does not parse."""
    return format_module(parse_module(text, file, annotated=False))


def format_module(module: Module) -> str:
    """A parsed module as text in canonical layout."""
    return _ModuleFormatter(module).run()


class _ModuleFormatter(StatementFormatter):
    """Writes packages, imports and rules."""

    def __init__(self, module: Module) -> None:
        super().__init__(LineWriter(module.comments), module.strict_not)
        self.module = module
        heads = [rule.head for rule in module.rules]
        # OPA writes `p["a"]` unless the module has heads that only the dotted form can express.
        self.dotted_heads = any(
            len(head.reference.operands) > 1 or (head.reference.operands and head.key is not None)
            for head in heads
        )

    def run(self) -> str:
        package = self.module.package
        self.out.comments_before(package.span.row)
        self.out.write("package ")
        self.path(package.path, package.span)
        self.out.comments_on(package.span.end_row)
        self.out.blank()
        rules, imports = self.module.rules, self.kept_imports()
        for index, rule in enumerate(rules):
            above = [entry for entry in imports if entry.span.start < rule.span.start]
            imports = imports[len(above) :]
            self.imports(above)
            self.out.comments_before(rule.span.row)
            self.rule(rule)
            self.out.comments_on(rule.span.end_row)
            self.out.end_line()
            following = rules[index + 1] if index + 1 < len(rules) else None
            if following is None or not _together(rule, following):
                self.out.blank()
        self.imports(imports)
        self.out.blank()
        self.out.comments_left()
        return self.out.text()

    def kept_imports(self) -> list[Import]:
        """The imports without the keywords that `rego.v1` brings along."""
        imports = self.module.imports
        v1 = any(entry.path == ("rego", "v1") for entry in imports)
        needless = [i for i in imports if v1 and i.path[0] == "future" and i.path[2:] != ("not",)]
        return [entry for entry in imports if entry not in needless]

    def imports(self, imports: list[Import]) -> None:
        """Imports in the author's groups, each sorted."""
        groups: list[list[Import]] = []
        for entry in imports:
            if groups and entry.span.row - groups[-1][-1].span.row == 1:
                groups[-1].append(entry)
            else:
                groups.append([entry])
        for group in groups:
            self.out.comments_before(group[0].span.row)
            trailing = self.trailing_comments(group)
            for entry in sorted(group, key=_import_order):
                self.out.write("import ")
                self.path(entry.path, entry.span)
                if entry.alias is not None:
                    self.out.write(f" as {entry.alias}")
                if entry.span.row in trailing:
                    self.out.trailing.append(trailing[entry.span.row])
                self.out.end_line()
            self.out.blank()

    def trailing_comments(self, group: list[Import]) -> dict[int, str]:
        """The comments behind the imports of a group, by row."""
        waiting = self.out.comments[self.out.next_comment :]
        last = group[-1].span.row
        found = {row: text for row, text in waiting if row <= last}
        self.out.next_comment += len(found)
        return found

    def path(self, path: tuple[str, ...], span: Span) -> None:
        """The path of a package or an import; a keyword keeps the notation that the author chose."""
        pieces = [
            Span(span.source, span.start + piece.start(), span.start + piece.end())
            for piece in _PIECE.finditer(span.text)
        ]
        # The first piece is the word `package` or `import`, the second the head of the path.
        operands = tuple(map(ast.String, path[1:], pieces[2:]))
        self.reference(ast.Ref(ast.Var(path[0]), operands))

    # --- rules

    def rule(self, rule: Rule) -> None:
        """A rule and its branches."""
        if rule.is_default:
            self.out.write("default ")
        head = rule.head
        if self.dotted_heads or len(head.reference.operands) != 1:
            self.reference(head.reference)
        else:
            self.bracketed(head.reference)
        if head.arguments is not None:
            self.sequence("(", head.arguments, ")", Call(head.reference, head.arguments, head.span))
        if head.key is not None:
            self.out.write(" contains ")
            self.term(head.key)
        self.branch(rule, rule.head.span.end_row)
        previous, branch = rule, rule.otherwise
        while branch is not None:
            self.otherwise(previous, branch)
            previous, branch = branch, branch.otherwise

    def bracketed(self, reference: ast.Ref) -> None:
        """`name[key]`."""
        [operand] = reference.operands
        self.term(reference.head)
        self.out.write("[")
        written = isinstance(operand, ast.String) and operand.span.text == operand.value
        if isinstance(operand, ast.String) and written:
            self.out.write(f'"{operand.value}"')
        else:
            self.term(operand)
        self.out.write("]")

    def branch(self, rule: Rule, row: int) -> None:
        """Value and body of a branch."""
        head = rule.head
        has_body = bool(rule.body) and not _only_true(rule)
        if head.value is not None and not (_true(head.value) and has_body):
            self.value(head.value)
        elif not has_body and head.key is None and (head.arguments is None or rule.body):
            self.out.write(" := true")
        if has_body:
            self.rule_body(rule, row)

    def value(self, value: ast.Term) -> None:
        self.out.write(" := ")
        self.term(value)

    def rule_body(self, rule: Rule, row: int) -> None:
        """`if` and the body, in braces unless it is one statement that stood on the row of the head."""
        body = rule.body
        if stays_behind_if(body, row):
            self.out.write(" if ")
            self.expression(body[0])
            return
        self.kept = leading_union(body[0].node)
        self.out.write(" if {")
        opened = row if rule.head.value is None else max(row, rule.head.value.span.end_row)
        self.block(body, opened, rule.span.end_row if rule.otherwise is None else _body_end_row(rule))

    def otherwise(self, previous: Rule, branch: Rule) -> None:
        """An `else` branch: behind the closing brace, or after an empty line."""
        row = branch.span.row
        source = self.module.source
        before = source.text[: branch.span.start]
        own_line = not before[before.rfind("\n") + 1 :].strip()
        commented = self.out.has_comment_before(row)
        braces = previous.body and not stays_behind_if(previous.body, previous.head.span.end_row)
        if commented or own_line or not braces or row == previous.span.row:
            self.out.comments_on(_body_end_row(previous))
            self.out.blank()
            self.out.comments_before(row)
        else:
            self.out.write(" ")
        self.out.write("else")
        head = branch.head
        if head.value is not None and not (_true(head.value) and branch.body and not _only_true(branch)):
            self.value(head.value)
        if branch.body and not _only_true(branch):
            self.rule_body(branch, row)
        elif head.value is None:
            self.out.write(" := true")


def _together(rule: Rule, following: Rule) -> bool:
    """Whether two rules stay on adjoining lines."""
    if len(rule.body) > 1 or len(following.body) > 1 or rule.is_default or following.is_default:
        return False
    if rule.otherwise is not None:
        return False  # its branches get lines of their own
    if rule.body and not stays_behind_if(rule.body, rule.head.span.end_row):
        return False  # it gets a block; what follows on the row of its body is another body of this rule
    if rule.head.span.end_row > rule.head.span.row:
        return False  # another body of a rule repeats the rows of its head
    if rule.body and rule.body[0].span.end_row > rule.span.row:
        return False
    return following.span.row == rule.span.row + 1


def _only_true(rule: Rule) -> bool:
    """Whether the body is `true` and may be left out."""
    if len(rule.body) != 1 or rule.otherwise is not None:
        return False
    return _true(rule.body[0].node) and not rule.body[0].modifiers


def _true(term: ast.ExprNode) -> bool:
    return isinstance(term, ast.Boolean) and term.value


def _body_end_row(rule: Rule) -> int:
    """The row on which a branch ends, before its `else`."""
    if rule.otherwise is None:
        return rule.span.end_row
    source = rule.span.source
    before = source.text[: rule.otherwise.span.start]
    lines = before.split("\n")
    row = len(lines)
    while row > 1 and not lines[row - 1].split("#")[0].strip():
        row -= 1
    return row


def _import_order(entry: Import) -> tuple[str, ...]:
    return entry.path
