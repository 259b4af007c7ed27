"""Policies that no person writes: every construct inside every other, line ends and comments anywhere.

Most parse. `odd_text` draws one from a source of randomness, so that a number makes it again.
"""

from collections.abc import Callable
from random import Random
from typing import Final

_OPERATORS: Final = ["|", "&", "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", " in "]
_LEAVES: Final = [
    "x", "y", "input.a", "data.p.q", "1", "-1", "1.50", '"s"', "`r`", "true", "null", "[]", "{}", "set()",
    'input["if"]', "x.y[_]", "f(x)",
]  # fmt: skip
_HEADS: Final = [
    "p", "p[x]", "f(x)", "p.q contains x", "default p := 1", "f([x, y], _)", "p := $", "p contains $",
    "p.q[x] := $", "f(x) := $",
]  # fmt: skip
_IMPORTS: Final = ["", "import future.keywords.not\n", "import data.x as y\nimport data.b # k\n"]
_GAPS: Final = ["", "", "", "", "", "", "\n", "\n", " ", "\n\n", "# c\n", "\n# d\n", "\n #METADATA\n"]
_ABOVE: Final = [
    "",
    "",
    "",
    "# METADATA\n# title: a\n",
    "# METADATA\n# title: b\n #[\n",
    "\n# METADATA\n# scope: document\n",
]
_BELOW: Final = ["", "", "", "# z\n", "\n\n# METADATA\n# scope: subpackages\n\n# [\n\n# z\n"]


def odd_text(random: Random) -> str:
    """The text of a module."""
    rules = [_Author(random).rule(random.randrange(4)) for _ in range(random.choice([1, 1, 2]))]
    above = random.choice(_IMPORTS) + random.choice(_ABOVE)
    return "package p\n" + above + "\n".join(rules) + "\n" + random.choice(_BELOW)


class _Author:
    """Writes rules, statements and terms of at most a depth."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.choice = random.choice

    def rule(self, depth: int) -> str:
        head = self.choice(_HEADS).replace("$", self.term(depth))
        text = head
        if self.random.random() < 0.85 and not head.startswith("default"):
            text += self.choice([" if ", "\nif ", " if\n"])
            text += self.choice([self.braced(depth), self.statement(depth)])
            while self.random.random() < 0.2:
                text += self.choice([" ", "\n", "\n\n"]) + self.braced(depth)
            while self.random.random() < 0.25:
                value = self.choice(["", " := " + self.term(depth - 1)])
                body = self.choice(["", " if " + self.braced(depth), " if " + self.statement(depth)])
                text += self.choice([" ", "\n", "\n\n", "\n# e\n"]) + "else" + value + body
        return text

    def braced(self, depth: int) -> str:
        return "{" + self.gap() + self.body(depth) + self.gap() + "}"

    def body(self, depth: int) -> str:
        between = self.choice(["; ", "\n", ";\n", "\n\n", " # k\n"])
        return between.join(self.statement(depth) for _ in range(self.choice([1, 1, 1, 2, 3])))

    def statement(self, depth: int) -> str:
        term, kind = self.term(depth), self.random.randrange(12)
        text = term
        if kind < 2:
            text = f"some {self.choice(['x', 'x, y'])}" + (f" in {term}" if kind else "")
        elif kind == 2:
            text = f"every {self.choice(['x', 'k, v'])} in {term} {self.braced(depth - 1)}"
        elif kind == 3:
            text = f"not {term}"
        elif kind < 7:
            target = ["x :=", f"{self.term(depth)} =", f"[{self.term(depth - 1)}, y] :="][kind - 4]
            text = f"{target} {term}"
        while self.random.random() < 0.12:
            target = self.choice(["input", "input.x", "data.a", "f"])
            text += f" with {target} as {self.term(depth - 1)}"
        return text

    def term(self, depth: int) -> str:
        if depth <= 0:
            return self.choice(_LEAVES)
        kind = self.random.randrange(12)
        if kind < 4:
            text = f"{self.term(depth - 1)} {self.choice(_OPERATORS)} {self.term(depth - 1)}"
            return f"({text})" if self.random.random() < 0.6 else text
        if kind < 7:
            opening, closing = self.choice(["[]", "{}", "()"])
            head = self.choice([self.term, self.entry]) if opening == "{" else self.term
            text = opening + self.gap() + head(depth - 1) + self.gap()
            if opening != "(" and self.random.random() < 0.5:
                text += "|" + self.gap() + self.body(depth - 1) + self.gap()
            return text + closing
        if kind == 7:
            return "[" + self.several(self.term, depth) + "]"
        if kind == 8:
            return "{" + self.several(self.choice([self.term, self.entry]), depth) + "}"
        if kind == 9:
            return self.choice(["f(", "g.h(", "count("]) + self.several(self.term, depth) + ")"
        if kind == 10:
            return self.choice(["x", "input", "data.a", "[1]", "{x}", "f(x)"]) + f"[{self.term(depth - 1)}]"
        if self.random.random() < 0.5:
            return f'$"a{{{self.term(depth - 1)}}}b"'
        return f"({self.term(depth - 1)}, {self.term(depth - 1)} in {self.term(depth - 1)})"

    def several(self, part: Callable[[int], str], depth: int) -> str:
        parts = [part(depth - 1) for _ in range(self.random.randrange(4))]
        return self.gap() + ("," + self.gap()).join(parts) + self.gap()

    def entry(self, depth: int) -> str:
        return f"{self.term(depth)}: {self.term(depth)}"

    def gap(self) -> str:
        """What stands between two tokens."""
        return self.choice(_GAPS)
