"""What a statement begins with once it is written, and what its beginning would be taken for.

The tree knows no parentheses, so the formatter asks here where they matter: for `x | y` behind the brace of a
rule, for a negative number at the beginning of a line, for a brace behind `if` or `not`.
"""

from typing import Final

from policies.language.syntax import ast
from policies.language.syntax.ast import Call, Ref

SYMBOLS: Final = {
    "equal": "==", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "or": "|", "and": "&",
    "plus": "+", "minus": "-", "mul": "*", "div": "/", "rem": "%", "assign": ":=", "eq": "=",
}  # fmt: skip
"""The operators between two operands, by the names of their functions."""
COMPARISONS: Final = frozenset(("equal", "neq", "lt", "lte", "gt", "gte"))
ASSIGNABLE: Final = frozenset(SYMBOLS) - {"assign", "eq"}
"""The operators that are functions too: `plus(x, y, z)` is written `z = x + y`."""
MEMBERSHIP: Final = "internal.member_2"
KEYED_MEMBERSHIP: Final = "internal.member_3"
_MEMBERSHIPS: Final = (MEMBERSHIP, KEYED_MEMBERSHIP)
_BARE_BEGINNING: Final = COMPARISONS | {"assign", "eq"}


def leading_union(statement: ast.ExprNode) -> Call | None:
    """The `x | y` that begins a statement; behind the brace of a rule it would begin a comprehension."""
    if isinstance(statement, Call) and statement.name in ASSIGNABLE and len(statement.arguments) == 3:
        statement = statement.arguments[2]
    while isinstance(statement, Call) and len(statement.arguments) == 2:
        if statement.name == "or":
            return statement
        if statement.name not in _BARE_BEGINNING:
            return None
        statement = statement.arguments[0]
    return None


def leading_negative(statement: ast.ExprNode) -> ast.Number | None:
    """The negative number that begins a statement; on a line of its own it would go with the line above."""
    first = _first(statement)
    return first if isinstance(first, ast.Number) and first.text.startswith("-") else None


def begins_with_brace(statement: ast.ExprNode) -> bool:
    """Whether a statement begins with `{`."""
    first = _first(statement)
    if isinstance(first, ast.Set):
        return bool(first.items)
    return isinstance(first, ast.Object | ast.SetComprehension | ast.ObjectComprehension)


def stays_behind_if(body: ast.Body, row: int) -> bool:
    """Whether a body is one statement in the row of its head, and not one that would be read as braces."""
    if len(body) > 1 or body[0].span.row != row:
        return False
    statement = body[0].node  # `if {x}` and `if {1 + 2: x}` begin with the brace of a body
    if isinstance(statement, ast.Object) and statement.entries:
        return not isinstance(statement.entries[0][0], Call)
    if isinstance(statement, ast.ObjectComprehension):
        return not isinstance(statement.key, Call)
    return not (isinstance(statement, ast.Set) and statement.items)


def _first(statement: ast.ExprNode) -> ast.ExprNode:
    """The operand that is written first: of `x.y + 1` it is `x`."""
    while True:
        if isinstance(statement, Ref):
            statement = statement.head
        elif isinstance(statement, Call) and statement.name in SYMBOLS and len(statement.arguments) in (2, 3):
            statement = statement.arguments[0 if len(statement.arguments) == 2 else 2]
        elif isinstance(statement, Call) and statement.name in _MEMBERSHIPS and statement.arguments:
            statement = statement.arguments[0]
        else:
            return statement
