"""One fuzz target in this process: under atheris, guided by coverage, else with mutations of its seeds.

What a run leaves in its folder: `corpus/` (inputs that reached something new), `found/` (inputs that
crashed, hung or were slow; they are tried first the next time) and `progress.json`. Inputs are counted over
runs for as long as the code that the target loads stays the same; after a change the count begins again, the
corpus stays.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from fuzz_mutations import mutations

from control_plane.runtime.log import configure

Target = Callable[[bytes], bool]
"""True if the input was accepted, so that it reached what lies behind the parser's refusals."""

HANG_SECONDS: Final = 20  # of CPU time: other programs that run meanwhile are nobody's fault
STUCK_SECONDS: Final = 600  # by the clock, for what waits or doesn't come back from C
SLOW_SECONDS: Final = 1.0
MAX_SIZE: Final = 4096
FIRST: Final = 5000
ROUND: Final = 1000
SAVE_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 30.0
ROOT: Final = Path(__file__).resolve().parents[2]


class Hung(BaseException):
    """One input takes too long; nothing that is tested catches this."""


@dataclass(slots=True)
class Progress:
    """How far a target has come; `cpu_seconds` and `slowest_seconds` are CPU time under instrumentation."""

    code: str
    inputs: int = 0
    accepted: int = 0
    cpu_seconds: float = 0.0
    slowest_seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path, code: str) -> Progress:
        """What was done with this code; nothing, if that is another."""
        try:
            kept = cls(**json.loads((folder / "progress.json").read_text()))
        except (OSError, ValueError, TypeError):
            return cls(code)
        return kept if kept.code == code else cls(code)

    def write(self, folder: Path) -> None:
        """Keeps it."""
        (folder / "progress.json").write_text(json.dumps(asdict(self)))

    def __str__(self) -> str:
        return (
            f"{self.inputs:,} inputs ({self.accepted:,} accepted), {self.cpu_seconds:.0f} s of CPU time,"
            f" slowest {self.slowest_seconds:.2f} s"
        )


class Counted:
    """A target that counts its inputs, tells now and then, and keeps those that are slow."""

    def __init__(self, name: str, target: Target, folder: Path, progress: Progress, goal: int) -> None:
        self.name, self._target, self._folder = name, target, folder
        self._goal = goal
        self._cpu_before = progress.cpu_seconds - time.process_time()
        self._save_at = self._report_at = time.monotonic()
        self.progress = progress
        signal.signal(signal.SIGVTALRM, _hung)

    def __call__(self, data: bytes) -> None:
        """One input."""
        progress = self.progress
        began = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
        try:
            progress.accepted += self._target(data)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        ended = time.process_time()
        progress.inputs += 1
        if ended - began > progress.slowest_seconds:
            progress.slowest_seconds = ended - began
            if progress.slowest_seconds > SLOW_SECONDS:
                self.keep("slowest", data)
        if progress.inputs == self._goal or (progress.inputs % 64 == 0 and time.monotonic() >= self._save_at):
            self._tell(ended)

    def keep(self, name: str, data: bytes) -> None:
        """Writes an input down, to be looked at and tried again."""
        (self._folder / "found" / name).write_bytes(data)

    def _tell(self, cpu: float) -> None:
        now = time.monotonic()
        self.progress.cpu_seconds = self._cpu_before + cpu
        self.progress.write(self._folder)
        self._save_at = now + SAVE_SECONDS
        if now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            print(f"     {self.name}: {self.progress}, of {self._goal:,}", flush=True)


def run(
    name: str,
    load: Callable[[str], tuple[Target, list[bytes]]],
    goal: int,
    seconds: float,
    folder: Path,
    seed: int,
) -> int:
    """Runs until `goal` inputs are counted or the time is over. Under atheris, which ends the process.

    The inputs follow from `seed`, which isn't 0, and under atheris from what they reach.
    """
    for part in ("corpus", "found"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    try:
        import atheris  # no wheel for every platform and Python
    except ImportError:
        return _mutated(name, *load(name), goal, seconds, folder, seed)
    with atheris.instrument_imports(include=["policies", "control_plane", "agent"]):
        target, seeds = load(name)
    configure(level="error")
    counted = Counted(name, target, folder, Progress.read(folder, _code()), goal)
    left = goal - counted.progress.inputs
    if left <= 0:
        return 0
    for number, data in enumerate(seeds):
        (folder / "corpus" / f"seed-{number}").write_bytes(data)
    # atheris grows inputs byte by byte; what takes thousands of bytes at once is tried by mutations first.
    left -= _mutate(counted, mutations(seeds, min(FIRST, left), seed))
    if left <= 0:
        return 0
    limits = [f"-runs={left}", f"-max_total_time={int(seconds)}", f"-timeout={STUCK_SECONDS}"]
    limits += [f"-report_slow_units={STUCK_SECONDS}", f"-seed={seed}"]
    quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={folder}/found/"]
    folders = [str(folder / "corpus"), str(folder / "found")]
    atheris.Setup([name, *folders, f"-max_len={MAX_SIZE}", *limits, *quiet], counted)
    atheris.Fuzz()
    return 0


def _mutated(
    name: str, target: Target, seeds: list[bytes], goal: int, seconds: float, folder: Path, seed: int
) -> int:
    counted = Counted(name, target, folder, Progress.read(folder, _code()), goal)
    began = time.monotonic()
    while counted.progress.inputs < goal and time.monotonic() - began < seconds:
        _mutate(counted, mutations(seeds, min(ROUND, goal - counted.progress.inputs), seed))
        seed += 1
    return 0


def _mutate(counted: Counted, inputs: Iterable[bytes]) -> int:
    """Tries inputs, and keeps the one that crashes or hangs; how many there were."""
    tried = 0
    for data in inputs:
        try:
            counted(data)
        except BaseException:
            counted.keep(f"crash-{hashlib.sha256(data).hexdigest()}", data)
            print(f"{counted.name}: input {data!r}", flush=True)
            raise
        tried += 1
    return tried


def _hung(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Hung(f"one input took more than {HANG_SECONDS} s of CPU time")


def _code() -> str:
    """A digest of all our modules that are loaded."""
    files = {str(getattr(module, "__file__", None)) for module in tuple(sys.modules.values())}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.startswith(f"{ROOT}/") and "/.venv/" not in file):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
