"""Statements as `opa fmt` writes them: one a line, or the few of a short block on the line of its brace.

An empty line stays between statements that did not stand on adjoining rows, so a comment between two
statements has an empty line above it.
"""

from policies.language.layout.beginnings import begins_with_brace, leading_negative
from policies.language.layout.terms import TermFormatter
from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Expr


class StatementFormatter(TermFormatter):
    """Writes bodies and statements."""

    def body(self, body: ast.Body) -> None:
        """Statements on lines of their own, an empty line kept where there was one."""
        last_row = 0
        for expression in body:
            row = expression.span.row
            if last_row and row - last_row > 1:
                self.out.blank()
            self.out.comments_before(row)
            if last_row:
                self.kept = leading_negative(expression.node)
            self.expression(expression)
            last_row = expression.span.end_row
            self.out.comments_on(last_row)
            self.out.end_line()

    def expression(self, expression: Expr) -> None:
        """One statement with its modifiers."""
        self.statement(expression.node)
        row = expression.modifiers[0].span.row if expression.modifiers else 0
        if expression.modifiers:
            row = expression.node.span.end_row
        indented = False
        for modifier in expression.modifiers:
            if modifier.span.row > row:
                self.out.comments_on(row)
                self.out.end_line()
                if not indented:
                    self.out.level += 1
                    indented = True
                row = modifier.span.row
            else:
                self.out.write(" ")
            self.out.write("with ")
            self.term(modifier.target)
            self.out.write(" as ")
            self.term(modifier.value)
            row = max(row, modifier.span.end_row)
        if indented:
            self.out.level -= 1

    def statement(self, node: ast.ExprNode) -> None:
        """A statement without modifiers."""
        out = self.out
        if isinstance(node, ast.Some):
            self.declaration(node)
        elif isinstance(node, ast.SomeIn):
            out.write("some ")
            if node.key is not None:
                self.beside_in(node.key)
                out.write(", ")
            self.beside_in(node.value)
            out.write(" in ")
            self.beside_in(node.domain)
        elif isinstance(node, ast.Every):
            self.every(node)
        elif isinstance(node, ast.Not):
            self.negation(node)
        elif isinstance(node, Call):
            self.call(node, statement=True)
        else:
            self.term(node)

    def declaration(self, node: ast.Some) -> None:
        """`some x, y`, on as many rows as the author took."""
        self.out.write("some ")
        row = node.span.row
        for index, variable in enumerate(node.variables):
            if index:
                self.out.write(",")
            if variable.span.row > row:
                self.out.comments_on(row)
                self.out.end_line()
                self.out.write("\t")
                row = variable.span.row
            elif index:
                self.out.write(" ")
            self.out.write(variable.name)

    def every(self, node: ast.Every) -> None:
        names = [node.value] if node.key is None else [node.key, node.value]
        self.out.write(f"every {', '.join(name.name for name in names)} in ")
        self.beside_in(node.domain)
        rows = {expression.span.row for expression in node.body}
        if rows == {node.span.row} and node.span.end_row == node.span.row:
            self.out.write(" {")
            self.short_block(node.body)
        else:
            self.out.write(" {")
            self.block(node.body, node.domain.span.end_row, node.span.end_row)

    def negation(self, node: ast.Not) -> None:
        self.out.write("not ")
        if node.explicit_body:
            self.out.write("{")
            if node.span.row == node.span.end_row:
                self.short_block(node.body)
            else:
                self.block(node.body, node.span.row, node.span.end_row)
        elif self.strict_not and begins_with_brace(node.body[0].node):
            self.out.write("(")
            self.statement(node.body[0].node)
            self.out.write(")")
        else:
            self.statement(node.body[0].node)

    def block(self, body: ast.Body, row: int, end_row: int) -> None:
        """Statements between braces that are already open; the closing brace is written too."""
        self.out.comments_on(row if body[0].span.row > row else 0)
        self.out.end_line()
        self.out.level += 1
        self.body(body)
        self.out.comments_before(end_row)
        if self.out.lines and not self.out.lines[-1]:
            self.out.lines.pop()
        self.out.level -= 1
        self.out.write("}")

    def short_block(self, body: ast.Body) -> None:
        """Statements between braces on one line; OPA leaves out the last blank behind several."""
        self.out.write(" ")
        self.inline(body)
        self.out.write(" }" if len(body) == 1 else "}")

    def inline(self, body: ast.Body) -> None:
        """Statements on one line."""
        for index, expression in enumerate(body):
            if index:
                self.out.write("; ")
            self.expression(expression)
