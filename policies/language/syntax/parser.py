"""Rego v1 text into a syntax tree.

`parse_module` reads a file, `parse_query` a query. Both raise one `Diagnostics` with everything that is
wrong: after an error the parser goes on at the next line that begins a rule. Work is linear in the text
and bounded (MAX_CHARACTERS, MAX_TOKENS, MAX_BRACKETS in `lexer`, MAX_HEIGHT in `terms`,
MAX_BRANCHES in `rules`), each bound with an error of its own.

Not here: what names mean (compile) and what is unwise (checks).
"""

from typing import Final

from policies.language.diagnostics import MAX_SHOWN, Diagnostic, Diagnostics, ErrorCode
from policies.language.source import Source, Span
from policies.language.syntax.annotations import attach
from policies.language.syntax.ast import Body, Import, Module, Package, Rule, String, Term, Var
from policies.language.syntax.cursor import Failure
from policies.language.syntax.lexer import EOF, KEYWORDS, NAME, STRING, tokenize
from policies.language.syntax.rules import RuleParser

_FUTURE: Final = ("contains", "every", "if", "in", "not")
_ROOTS: Final = ("data", "future", "input", "rego")


def parse_module(text: str, file: str = "policy.rego", *, annotated: bool = True) -> Module:
    """The module written in `text`; `file` names it in errors. Raises Diagnostics.

    Without `annotated`, METADATA blocks are comments like others.
    """
    source = Source(file, text)
    try:
        return _ModuleParser(source).module(annotated=annotated)
    except RecursionError as error:
        raise too_deep(source) from error


def parse_query(text: str, file: str = "query", *, strict_not: bool = False) -> Body:
    """The statements of a query, such as `data.a.b == x; x > 1`. Raises Diagnostics."""
    parser = RuleParser(tokenize(Source(file, text)))
    parser.strict_not = strict_not
    found = parser.tokens.diagnostics
    body: Body = ()
    if not found:
        try:
            body = parser.parse_body(EOF)
        except Failure as failure:
            found.append(failure.diagnostic)
        except RecursionError as error:
            raise too_deep(parser.source) from error
    if found:
        raise Diagnostics(found)
    return body


def parse_term(text: str, file: str = "term") -> Term:
    """One term, such as `{"a": 1}`. Raises Diagnostics."""
    parser = RuleParser(tokenize(Source(file, text)))
    found = parser.tokens.diagnostics
    if not found:
        try:
            term = parser.parse_operation()
            parser.expect(EOF, "the end of the term")
            return term
        except Failure as failure:
            found.append(failure.diagnostic)
    raise Diagnostics(found)


class _ModuleParser(RuleParser):
    """Reads a file: package, imports, rules, annotations."""

    def __init__(self, source: Source) -> None:
        super().__init__(tokenize(source))
        self.imports: list[Import] = []
        self.rules: list[Rule] = []

    def module(self, *, annotated: bool) -> Module:
        """The whole file."""
        found = self.tokens.diagnostics
        package = self.guarded_package()
        while self.kinds[self.index] != EOF and len(found) < MAX_SHOWN:
            at = self.index
            try:
                if self.kinds[at] == "import" and not self.is_rule_name(at):
                    self.parse_import()
                else:
                    self.rules.extend(self.parse_rule())
            except Failure as failure:
                found.append(failure.diagnostic)
                self.recover(at)
        module = Module(
            package or Package(()),
            tuple(self.imports),
            tuple(self.rules),
            tuple(self.tokens.comments),
            (),
            self.source,
        )
        if annotated:
            module, misplaced = attach(module)
            found.extend(misplaced)
        if found:
            raise Diagnostics(sorted(found, key=lambda diagnostic: diagnostic.span.start))
        return module

    def recover(self, failed_at: int) -> None:
        """Moves to the next token at the left margin that can begin a rule or an import."""
        self.index = max(self.index, failed_at + 1) if self.kinds[failed_at] != EOF else failed_at
        while self.kinds[self.index] != EOF:
            index = self.index
            begins = self.kinds[index] in (NAME, "default", "import") or self.is_rule_name(index)
            if begins and self.newline[index] and self.at_margin(index):
                return
            self.index = index + 1

    def at_margin(self, index: int) -> bool:
        """Whether the token stands in the first column."""
        start = self.starts[index]
        return start == 0 or self.source.text[start - 1] == "\n"

    def guarded_package(self) -> Package | None:
        """The package declaration, or None after reporting what is wrong with it."""
        try:
            if self.kinds[0] == EOF and not self.tokens.diagnostics:
                self.fail(self.tokens.span(0), "empty module", "package name")
            if self.kinds[0] != "package":
                hint = "a file begins with its package, such as: package gatehouse.authz"
                self.fail(self.tokens.span(0), "package expected", "package name", hint)
            start = self.starts[0]
            self.index = 1
            path = self.parse_path("package")
            return Package(path, self.span_from(start))
        except Failure as failure:
            self.tokens.diagnostics.append(failure.diagnostic)
            if self.index or self.kinds[0] == EOF:
                self.recover(0)
            return None

    def parse_path(self, what: str) -> tuple[str, ...]:
        """`name.name["any key"]`; names may be keywords (what imports begin with is checked later)."""
        first = self.kinds[self.index]
        if first != NAME and first not in KEYWORDS:
            self.unexpected(f"a name after {what}")
        path = [self.values[self.index]]
        self.index += 1
        while self.kinds[self.index] in (".", "[") and self.touches(self.index):
            operand = self.parse_dot() if self.kinds[self.index] == "." else self.parse_subscript()
            if not isinstance(operand, String):
                self.fail(
                    operand.span, f"{what} name cannot contain variables or numbers", 'a name or ["text"]'
                )
            path.append(operand.value)
        if self.kinds[self.index] not in (EOF, "as") and not self.newline[self.index]:
            self.unexpected("a line end")
        return tuple(path)

    def parse_import(self) -> None:
        """`import path [as name]`."""
        start = self.starts[self.index]
        self.index += 1
        if self.kinds[self.index] == STRING:
            self.unexpected("a path that begins with data or input")
        path_start = self.starts[self.index]
        path = self.parse_path("import")
        path_span = self.span_from(path_start)
        alias: str | None = None
        if self.kinds[self.index] == "as":
            self.index += 1
            name: Var = self.parse_variable()
            alias = name.name
            if alias == "_":
                self.fail(name.span, "import alias cannot be _", "a name")
        span = self.span_from(start)
        self.check_import(path, alias, path_span)
        entry = Import(path, alias, span)
        self.imports.append(entry)
        if path == ("future", "keywords", "not"):
            self.strict_not = True

    def check_import(self, path: tuple[str, ...], alias: str | None, span: Span) -> None:
        """Refuses imports of what does not exist."""
        if path[0] not in _ROOTS:
            shown = ", ".join(_ROOTS)
            self.fail(
                span,
                f"unexpected import path, must begin with one of: {{{shown}}}, got: {path[0]}",
                "import data.… or import input.…",
                f"write data.{'.'.join(path)} if that is a package of yours",
            )
        if path[0] == "rego" and path != ("rego", "v1"):
            self.fail(span, "invalid import: rego knows only `rego.v1`", "rego.v1")
        if path[0] == "future":
            if len(path) < 2 or path[1] != "keywords":
                self.fail(span, "invalid import, must be `future.keywords`", "future.keywords.<keyword>")
            if path[2:] in (("and",), ("or",)):
                self.fail(
                    span, f"import of {'.'.join(path)} can't be used: OPA 1.19 has it as an experiment only",
                    hint="write a rule for each alternative; statements below one another are joined by and",
                    code=ErrorCode.UNSUPPORTED,
                )  # fmt: skip
            if len(path) > 2 and (path[2] not in _FUTURE or len(path) > 3):
                known = " ".join(_FUTURE)
                self.fail(
                    span, f"unexpected keyword, must be one of [{known}]", f"one of {', '.join(_FUTURE)}"
                )
            if alias is not None:
                self.fail(span, "`future` imports cannot be aliased", "the import without `as`")


def too_deep(source: Source) -> Diagnostics:
    """For callers that stand so deep themselves that even a policy within all limits doesn't fit."""
    message = "the policy is nested too deeply for where it is read"
    return Diagnostics([Diagnostic(Span(source, 0, 1), ErrorCode.LIMIT, message, hint="nest less")])
