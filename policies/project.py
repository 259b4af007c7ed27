"""A policy project: Rego modules, their tests and their data, as one value with one digest.

A project is a set of files by relative name. `*_test.rego` are tests and never part of what is compiled.
`data.json` and `data.yaml` stand at the place in `data` that their folder names, as in OPA's bundles.
Reading folders is the rim's business (`gatehouse policy`); the library that ships is added there too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from control_plane.core.errors import InvalidInput, shown
from policies.documents import read_document, read_json
from policies.files import DATA_FILES, digest_of, is_test
from policies.language.builtins.registry import BUILTINS
from policies.language.checks.check import Checked, check_modules, parse_modules
from policies.language.compiler.compile import compile_modules
from policies.language.compiler.compiled import CompiledModules
from policies.language.syntax.ast import Module


@dataclass(frozen=True)
class Project:
    """Parsed sources. `digest` names the version: it changes with every byte of every file but the tests."""

    modules: tuple[Module, ...]
    tests: tuple[Module, ...]
    data: Mapping[str, object]
    digest: str

    @staticmethod
    def of(files: Mapping[str, str]) -> Project:
        """Reads every file. Raises Diagnostics for Rego, InvalidInput for data or an empty project."""
        rego = {name: text for name, text in sorted(files.items()) if name.endswith(".rego")}
        if not rego:
            raise InvalidInput(
                "reading the policy: there is no .rego file in it",
                hint="`gatehouse policy init` makes a project to start from",
            )
        parsed = dict(zip(rego, parse_modules(rego), strict=True))
        data: dict[str, object] = {}
        for name, text in sorted(files.items()):
            if posixpath.basename(name) in DATA_FILES:
                _mount(data, name, text)
        return Project(
            tuple(module for name, module in parsed.items() if not is_test(name)),
            tuple(module for name, module in parsed.items() if is_test(name)),
            data,
            digest_of(files),
        )

    def checked(self) -> Checked:
        """The policy with all checks of `gatehouse policy check`. Raises Diagnostics."""
        return check_modules(self.modules, BUILTINS)

    def compiled(self, *, with_tests: bool = False) -> CompiledModules:
        """The policy, with its tests where they are to run. Raises Diagnostics."""
        return compile_modules([*self.modules, *(self.tests if with_tests else ())], BUILTINS)


def without_tests(files: Mapping[str, str]) -> dict[str, str]:
    """The files that are compiled, for who doesn't run tests; the digest of the project stays the same."""
    return {name: text for name, text in files.items() if not is_test(name)}


def _mount(data: dict[str, object], name: str, text: str) -> None:
    read = read_json if name.endswith(".json") else read_document
    document = read(text, name)
    if not isinstance(document, dict):
        raise InvalidInput(f"reading {name}: {shown(document)} came, an object is expected")
    place = data
    for step in filter(None, posixpath.dirname(name).split("/")):
        inner = place.setdefault(step, {})
        if not isinstance(inner, dict):
            raise InvalidInput(f"reading {name}: `{step}` holds a value in another data file")
        place = inner
    for key, value in document.items():
        if key in place:
            raise InvalidInput(f"reading {name}: `{key}` stands in another data file too", hint="keep one")
        place[key] = value
