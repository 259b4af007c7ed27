"""One `with` modifier: which document or function it replaces, and the world with the change made."""

from __future__ import annotations

from policies.language.concrete.terms import Evaluate
from policies.language.concrete.world import Mock, Result, World, replaced_at
from policies.language.values import Value


class Change:
    """One `with` modifier."""

    __slots__ = ("_mocked", "_path", "_replacement", "_root", "value_of")

    def __init__(
        self,
        value_of: Evaluate,
        *,
        root: str = "",
        path: tuple[Value, ...] = (),
        mocked: str = "",
        replacement: str = "",
    ) -> None:
        self.value_of = value_of
        self._root, self._path, self._mocked, self._replacement = root, path, mocked, replacement

    def apply(self, world: World, value: Result) -> World:
        """The world with the change made."""
        if self._mocked:
            mock = Mock(function=self._replacement) if self._replacement else Mock(value=value)
            return World(
                world.run, world.input, world.data, {**world.mocks, self._mocked: mock}, world.hidden
            )
        if self._root == "input":
            changed = replaced_at(world.input, self._path, value)  # type: ignore[arg-type]
            return World(world.run, changed, world.data, world.mocks, world.hidden)
        data = replaced_at(world.data, self._path, value)  # type: ignore[arg-type]
        hidden = (*world.hidden, self._path)
        return World(world.run, world.input, data, world.mocks, hidden)  # type: ignore[arg-type]
