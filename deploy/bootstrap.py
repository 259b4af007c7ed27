"""Makes `.venv` what a lock file says, and makes the lock files.

Runs on the system's own Python with nothing installed. A stamp in the virtual environment records the
digest of the lock it was made from, so that a second run takes milliseconds; a stamp of `dev` also
serves `demo` and `run`, which are subsets. It deliberately does not look for a Python: the Makefile does.

Usage: bootstrap.py run | demo | dev | lock
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "gatehouse-stamp"
LEVELS = ("run", "demo", "dev")
"""Each level's lock holds everything of the one before it."""

QUIET_PIP = ["--quiet", "--disable-pip-version-check", "--no-input"]


def lock_of(level: str) -> Path:
    """The lock file of a level."""
    return ROOT / "requirements" / f"{level}.lock"


def digest_of(level: str) -> str:
    """What the stamp of a level must say: the lock, the project file and the interpreter's version."""
    digest = hashlib.sha256()
    for path in (lock_of(level), ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    digest.update(f"{sys.version_info[:2]} {ROOT}".encode())
    return f"{level} {digest.hexdigest()}"


def is_ready(level: str) -> bool:
    """Whether the environment was made from this level's lock or from a larger one's, as they are now."""
    if not PYTHON.exists() or not STAMP.exists():
        return False
    made = STAMP.read_text(encoding="utf-8").strip()
    return made in {digest_of(larger) for larger in LEVELS[LEVELS.index(level) :]}


def call(*command: str | Path) -> None:
    """Runs a command in the project's folder; what it prints is shown, a failure ends the set-up."""
    finished = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if finished.returncode != 0:
        name = " ".join(str(part) for part in command[:4])
        raise SystemExit(f"set-up: `{name} …` ended with {finished.returncode}; see the lines above")


def set_up(level: str) -> None:
    """Creates or completes `.venv` for a level."""
    if is_ready(level):
        return
    started = time.monotonic()
    if not PYTHON.exists():
        say(f"creating .venv with Python {sys.version.split()[0]}")
        call(sys.executable, "-m", "venv", VENV)
    STAMP.unlink(missing_ok=True)  # a crash from here on leaves no stamp, so the next run starts over
    count = sum(1 for line in lock_of(level).read_text(encoding="utf-8").splitlines() if "==" in line)
    say(f"installing {count} locked packages (requirements/{level}.lock)")
    pip = (PYTHON, "-m", "pip", "install", *QUIET_PIP)
    call(*pip, "--require-hashes", "-r", lock_of(level))
    say("installing gatehouse itself, editable")
    call(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")
    STAMP.write_text(digest_of(level) + "\n", encoding="utf-8")
    say(f"ready after {time.monotonic() - started:.0f} s")


def lock() -> None:
    """Resolves all locks anew: universal (any platform, 3.11 and later), hashed, without index addresses."""
    extras: dict[str, list[str]] = {"run": [], "demo": ["--extra", "demo"], "dev": ["--extra", "dev"]}
    for level in LEVELS:
        say(f"resolving requirements/{level}.lock")
        call(
            VENV / "bin" / "uv", "pip", "compile", "pyproject.toml", *extras[level],
            "requirements/build.in", "--output-file", lock_of(level), "--universal",
            "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate",
            "--no-emit-index-url", "--quiet",
        )  # fmt: skip


def say(line: str) -> None:
    """One line of progress."""
    print(f"set-up: {line}", flush=True)


def main() -> None:
    """Does the one thing that the first argument names."""
    os.chdir(ROOT)
    match sys.argv[1:]:
        case ["lock"]:
            lock()
        case [level] if level in LEVELS:
            set_up(level)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
