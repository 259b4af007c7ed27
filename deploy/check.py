"""`make check`: everything about the tree that can be said without running the product.

Each check prints one line; what a failing one said follows it. All run, also after a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MAKE_TARGET = re.compile(r"`make ([a-z-]+)")
WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
COMMAND = re.compile(rf"^(?:\$ )?(?:\.venv/bin/)?(gatehouse(?:-agent)?)((?: {WORD})+)", re.MULTILINE)
# A mount of Vault has a `root` of its own, which is no home.
FORBIDDEN = re.compile(
    r"\x2fwork/(?:main|shared)|\x2froot/(?!sign-intermediate|generate/|rotate/)|\x2ftmp/gh"
)


def commands() -> dict[str, list[str]]:
    """Name → command line of each check that is a program."""
    python = str(BIN / "python")
    checks = {
        "format": [str(BIN / "ruff"), "format", "--check", "--quiet", "."],
        "lint": [str(BIN / "ruff"), "check", "--quiet", "."],
        "types": [str(BIN / "mypy"), "--no-error-summary"],
        "layers": [str(BIN / "lint-imports"), "--no-logo"],
        "wire contracts": [python, "control_plane/proto/generate.py", "--check"],
        "conformance": [python, "docs/generate.py", "--check"],
    }
    opa = _opa()
    if opa:
        checks["rego format"] = [opa, "fmt", "--fail", "--list", "rego"]
        checks["rego check"] = [opa, "check", "--strict", "rego"]
        checks["rego tests"] = [opa, "test", "rego"]
    return checks


def _opa() -> str | None:
    """The `opa` that `make peers` built, or one on PATH."""
    listed = subprocess.run(
        [str(BIN / "python"), "tests/interop/peers.py", "list", "opa"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    path = listed.stdout.rpartition(": ")[2].strip()
    return path if Path(path).is_file() else shutil.which("opa")


def documents() -> Iterator[str]:
    """What is wrong in our documents: links that lead nowhere, targets and commands that do not exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT)
        for link in LINK.findall(text):
            if "://" not in link and not (page.parent / link.partition("#")[0]).exists():
                yield f"{name}: link to {link}, which does not exist"
        for target in MAKE_TARGET.findall(text):
            if target not in targets:
                yield f"{name}: `make {target}` is not in the Makefile"
        for program, words in COMMAND.findall(text):
            if not _exists(program, words.split()):
                yield f"{name}: `{program}{words}` is not a command"


def _exists(program: str, words: list[str]) -> bool:
    """Whether a command with these words is there: the longest part that has a `--help`."""
    # Trailing words may be arguments; what must exist is the group and its command.
    for length in range(len(words), 0, -1):
        finished = subprocess.run(
            [str(BIN / program), *words[:length], "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode == 0:
            return length >= min(2, len(words))
    return False


def paths() -> Iterator[str]:
    """Files that name folders of one particular machine."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".txt", ".sh", ".go", ".rego", ".yaml", "")
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            if FORBIDDEN.search(text):
                yield f"{name}: names a folder of one machine: {FORBIDDEN.search(text)}"


def main() -> int:
    """Runs all checks, or those named; 1 if any fails, 2 if one isn't there."""
    wanted = sys.argv[1:]
    failed: list[str] = []
    programs, functions = commands(), {"documents": documents, "paths": paths}
    if unknown := set(wanted) - {*programs, *functions}:
        print(f"check: no {', '.join(sorted(unknown))}; there are {', '.join([*programs, *functions])}")
        return 2
    for name, command in programs.items():
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        finished = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, env=_environment()
        )
        _report(
            name,
            finished.returncode == 0,
            time.monotonic() - started,
            finished.stdout + finished.stderr,
            failed,
        )
    for name, problems in functions.items():
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        found = list(problems())
        _report(name, not found, time.monotonic() - started, "\n".join(found), failed)
    print(f"check: {', '.join(failed)} failed" if failed else "check: all is well")
    return 1 if failed else 0


def _environment() -> dict[str, str]:
    """Tools look up their helpers on PATH."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}


def _report(name: str, succeeded: bool, seconds: float, output: str, failed: list[str]) -> None:
    print(f"{'ok  ' if succeeded else 'FAIL'}  {name:<16} {seconds:5.1f} s", flush=True)
    if not succeeded:
        failed.append(name)
        print(output.rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
