"""The part of the parser that reads rules: heads of every kind, bodies, `else`, `default`.

Rego before v1 (no `if`, no `contains`) is recognised and refused with the line as it reads today; its
body is read all the same, so that one error does not hide the next.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from policies.language.diagnostics import Diagnostic, ErrorCode
from policies.language.syntax import ast
from policies.language.syntax.ast import Body, Head, Ref, Rule, RuleKind, String, Term, Var
from policies.language.syntax.cursor import FOREIGN_WORDS
from policies.language.syntax.lexer import EOF, KEYWORDS, NAME
from policies.language.syntax.statements import StatementParser

MAX_BRANCHES: Final = 200
"""Branches of one `else` chain."""


class RuleParser(StatementParser):
    """Reads rules; findings that do not stop it go to `self.tokens.diagnostics`."""

    def parse_rule(self) -> list[Rule]:
        """One rule, or several where bodies follow one another (`p if {…} {…}`)."""
        start = self.starts[self.index]
        if self.kinds[self.index] == "default" and not self.is_rule_name(self.index):
            self.index += 1
            return [self.parse_default(start)]
        head = self.parse_head()
        rules = []
        body, bodies_follow = self.parse_rule_body(head)
        if not body and head.value is None and head.key is None and head.arguments is None:
            self.refuse_empty(head)
        kind = _kind(head)
        otherwise = self.parse_else(head, kind) if self.at_else() else None
        rules.append(Rule(kind, head, body, False, otherwise, (), self.span_from(start)))
        while bodies_follow and otherwise is None and self.kinds[self.index] == "{":
            at = self.starts[self.index]
            body = self.parse_braced_body()
            rules.append(Rule(kind, head, body, False, None, (), self.span_from(at)))
        return rules

    # --- heads

    def is_rule_name(self, index: int) -> bool:
        """Whether the token begins a rule's name: a name, or a keyword with `.` or `[` right behind it."""
        kind = self.kinds[index]
        if kind == NAME:
            return True
        return kind in KEYWORDS and self.kinds[index + 1] in (".", "[") and self.touches(index + 1)

    def parse_head(self) -> Head:
        """A rule's head up to (not including) `if` or a body."""
        index = self.index
        start = self.starts[index]
        if not self.is_rule_name(index):
            self.unexpected("a rule", self.hint_for_statement())
        self.index = index + 1
        name = Var(self.values[index], self.tokens.span(index))
        operands: list[Term] = []
        while self.touches(self.index) and self.kinds[self.index] in (".", "["):
            operands.append(self.parse_dot() if self.kinds[self.index] == "." else self.parse_subscript())
        reference = Ref(name, tuple(operands), self.span_from(start))
        arguments: tuple[Term, ...] | None = None
        if self.kinds[self.index] == "(" and self.touches(self.index):
            self.index += 1
            arguments = tuple(self.parse_list(")")) or None  # `name()` is a rule, as `name`
        key: Term | None = None
        value: Term | None = None
        assigned = ""
        if self.kinds[self.index] == "contains":
            self.index += 1
            key = self.parse_operation()
        if self.kinds[self.index] in (":=", "="):
            assigned = self.kinds[self.index]
            if key is not None:
                self.unexpected(
                    "`if` or the end of the rule", "a rule with contains adds its term and has no value"
                )
            self.index += 1
            value = self.parse_operation()
        return Head(reference, arguments, key, value, assigned, self.span_from(start))

    def hint_for_statement(self) -> str:
        """What to do about a statement that stands outside of a rule."""
        kind = self.kinds[self.index]
        if kind == "else":
            return "else must follow the body of a rule"
        if kind in ("some", "every", "not"):
            return "statements stand in the body of a rule: name if { … }"
        return ""

    def refuse_empty(self, head: Head) -> None:
        """A head alone defines nothing."""
        if not head.reference.operands:
            self.fail(
                head.span,
                "var cannot be used for rule name",
                "`:= value`, `contains term` or `if body` after the name",
                FOREIGN_WORDS.get(ast.dotted(head.reference), ""),
            )
        last = head.reference.operands[-1] if head.reference.operands else None
        if last is not None and len(head.reference.operands) == 1 and _constant(last):
            self.fail(
                head.span,
                "`contains` keyword is required for partial set rules",
                f"{head.reference.head.span.text} contains {last.span.text}",
            )
        self.fail(
            head.span, "rule must have value assignment and/or body declaration", "`:= value` or `if body`"
        )

    # --- bodies

    def parse_rule_body(self, head: Head) -> tuple[Body, bool]:
        """The body behind a head, and whether more bodies in braces may follow."""
        kind = self.kinds[self.index]
        if kind == "if" and not self.is_keyword_name(self.index):
            self.index += 1
            return self.parse_after_if()
        if kind == "{":
            self.refuse_v0(head)
            return self.parse_braced_body(), True
        return (), False

    def parse_after_if(self) -> tuple[Body, bool]:
        """`{ body }` or one statement."""
        if self.kinds[self.index] == "{":
            body = self.parse_block()
            if body is not None:
                return body, True
        if self.kinds[self.index] == EOF or self.is_rule_start_at_margin():
            self.unexpected("a body after `if`")
        # A body in braces may follow a body that is a plain statement, too.
        return (self.parse_statement(),), True

    def is_rule_start_at_margin(self) -> bool:
        """Whether the next token begins another rule at the left margin (`if` with nothing behind it)."""
        index = self.index
        if not self.newline[index] or self.source.position(self.starts[index])[1] != 1:
            return False
        following = self.kinds[index + 1]
        return self.kinds[index] == "default" or following in (":=", "if", "contains")

    def parse_braced_body(self) -> Body:
        """`{ body }`."""
        self.expect("{", "`{`")
        body = self.parse_body("}")
        self.expect("}")
        return body

    def refuse_v0(self, head: Head) -> None:
        """Reports a body without `if`, and a set in the old notation, with the line rewritten."""
        line_end = self.source.text.find("\n", self.starts[self.index])
        line = self.source.text[
            head.span.start : line_end if line_end >= 0 else len(self.source.text)
        ].rstrip()
        behind = line[self.starts[self.index] - head.span.start :]
        operands = head.reference.operands
        old_set = head.value is None and head.arguments is None and head.key is None and len(operands) == 1
        name = head.reference.head.span.text
        if old_set:
            rewritten = f"{name} contains {operands[0].span.text} if {behind}"
        else:
            rewritten = f"{self.source.text[head.span.start : head.span.end]} if {behind}"
        hint = "this is Rego before v1; `opa fmt --v0-v1 -w` rewrites whole files"
        report = self.tokens.diagnostics.append
        report(
            Diagnostic(
                head.span, ErrorCode.PARSE, "`if` keyword is required before rule body",
                hint=hint, replacement=rewritten,
            )
        )  # fmt: skip
        if old_set:
            report(
                Diagnostic(
                    head.span, ErrorCode.PARSE, "`contains` keyword is required for partial set rules",
                    hint=hint, replacement=rewritten,
                )
            )  # fmt: skip

    # --- else

    def at_else(self) -> bool:
        """Whether an `else` branch follows (and not a rule named else.…)."""
        return self.kinds[self.index] == "else" and not self.is_rule_name(self.index)

    def parse_else(self, head: Head, kind: RuleKind) -> Rule:
        """The chain of `else` branches behind a rule."""
        if kind is RuleKind.PARTIAL_SET:
            self.fail(self.tokens.span(self.index), "else keyword cannot be used on multi-value rules")
        branches: list[Rule] = []
        while self.at_else():
            start = self.starts[self.index]
            if len(branches) == MAX_BRANCHES:
                span = self.tokens.span(self.index)
                self.fail(
                    span,
                    f"more than {MAX_BRANCHES} else branches",
                    hint="a table in data reads better",
                    code=ErrorCode.LIMIT,
                )
            self.index += 1
            value: Term | None = None
            assigned = ""
            if self.kinds[self.index] in (":=", "="):
                assigned = self.kinds[self.index]
                self.index += 1
                value = self.parse_operation()
            branch = Head(head.reference, head.arguments, None, value, assigned, self.span_from(start))
            body: Body = ()
            if self.kinds[self.index] == "if":
                self.index += 1
                body, _ = self.parse_after_if()
            elif self.kinds[self.index] == "{":
                self.refuse_v0(replace(branch))
                body = self.parse_braced_body()
            elif value is None:
                self.unexpected("`:= value` or `if` and a body after else")
            branches.append(Rule(kind, branch, body, False, None, (), self.span_from(start)))
        chain: Rule | None = None
        for branch_rule in reversed(branches):
            chain = replace(branch_rule, otherwise=chain)
        assert chain is not None
        return chain

    # --- default

    def parse_default(self, start: int) -> Rule:
        """What follows `default`."""
        head = self.parse_head()
        if head.key is not None:
            self.fail(head.span, "illegal default rule (must have a value)", "default name := value")
        if head.value is None:
            self.fail(head.span, "illegal default rule (must have a value)", "default name := value")
        if self.kinds[self.index] in ("if", "{") and not self.is_rule_name(self.index):
            self.fail(
                head.span, "illegal default rule (cannot have a body)", "a constant value and nothing else"
            )
        for operand in head.reference.operands:
            if not isinstance(operand, String):
                self.fail(operand.span, "illegal default rule (name must be constant)")
        for fault in _not_constant(head.value):
            word = {Ref: "ref", Var: "var", ast.Call: "call"}.get(type(fault), "template string")
            self.fail(
                fault.span,
                f"illegal default rule (value cannot contain {word})",
                "a constant",
                "put the computed value into the last else branch",
            )
        seen: set[str] = set()
        for argument in head.arguments or ():
            if not isinstance(argument, Var):
                self.fail(argument.span, "illegal default rule (arguments must be plain variables)")
            if argument.name != "_" and argument.name in seen:
                self.fail(argument.span, f"illegal default rule (argument {argument.name} is repeated)")
            seen.add(argument.name)
        return Rule(_kind(head), head, (), True, None, (), self.span_from(start))


def _kind(head: Head) -> RuleKind:
    if head.arguments is not None:
        return RuleKind.FUNCTION
    if head.key is not None:
        return RuleKind.PARTIAL_SET
    if all(isinstance(operand, String) for operand in head.reference.operands):
        return RuleKind.COMPLETE
    return RuleKind.PARTIAL_OBJECT


def _constant(term: Term) -> bool:
    return isinstance(term, String | ast.Number | ast.Boolean | ast.Null)


def _not_constant(term: Term) -> Iterator[Term]:
    """The parts of a term that are not constants; comprehensions count as constants here, as in OPA."""
    if isinstance(term, Ref | Var | ast.Call | ast.TemplateString):
        yield term
    elif isinstance(term, ast.Array | ast.Set):
        for item in term.items:
            yield from _not_constant(item)
    elif isinstance(term, ast.Object):
        for key, value in term.entries:
            yield from _not_constant(key)
            yield from _not_constant(value)
