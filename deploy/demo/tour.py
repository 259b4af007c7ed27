"""`make demo`: a tour of what runs: each command is shown, run, and its answer printed.

It registers a new workload while everything runs, watches it get its identity, rotates the authority under
the running connections, and takes the workload's identity away again.
"""

from __future__ import annotations

import shlex
import subprocess
import time

from deploy.demo import place, shown
from deploy.demo.up import STRANGER, DemoFailed, answer

LINES = 14


def tour() -> None:
    """The whole tour; every step is a command that one could have typed."""
    data = ("--data-dir", str(place.data_dir()))
    selector = f"unix:path:{place.interpreter(STRANGER).resolve()}"
    identity = place.spiffe_id(STRANGER)
    fetch = [str(place.interpreter(STRANGER)), "-m", "agent", "api", "fetch", "x509", *data]

    _say("Who is attested, and which process gets which identity?")
    _run(place.gatehouse("agent", "list", *data))
    _run(place.gatehouse("entry", "show", *data))

    _say("The stranger has no identity. Why?")
    _run(place.gatehouse("explain", "--selector", selector, "--parent-id", place.NODE, *data))
    _say("Register it, and it gets one at once: changes are pushed to the agent.")
    _run(
        place.gatehouse(
            "entry",
            "create",
            "--spiffe-id",
            identity,
            "--parent-id",
            place.NODE,
            "--selector",
            selector,
            *data,
        )
    )
    _timed(fetch)

    _say("Every certificate that ever left is in the ledger.")
    _run(place.gatehouse("ledger", "list", "--limit", "5", *data))

    _say("Prepare the next signing authority: it is in the bundle before it signs.")
    _run(place.gatehouse("authority", "x509", "prepare", *data), accept_failure=True)
    _run(place.gatehouse("authority", "x509", "show", *data))

    _say("Take the stranger's identity away again.")
    found = _entry_id(identity)
    _run(place.gatehouse("entry", "delete", "--entry-id", found, *data))
    _run(fetch, accept_failure=True)


def _entry_id(identity: str) -> str:
    """The ID of the entry that gives an identity."""
    entries = answer("entry", "show", "--spiffe-id", identity)["entries"]
    if not entries:
        raise DemoFailed(f"the entry of {identity} is gone")
    return str(entries[0]["id"])


def _say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def _run(command: list[str], *, accept_failure: bool = False) -> None:
    """Shows and runs one command. Raises `DemoFailed` when it fails and should not."""
    typed = " ".join(shlex.quote(shown.short_text(part)) for part in command)
    print(f"\n$ {typed}", flush=True)
    finished = subprocess.run(
        command, cwd=place.ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    lines = (finished.stdout + finished.stderr).rstrip().splitlines()
    print("\n".join(lines[:LINES] + (["…"] if len(lines) > LINES else [])), flush=True)
    if finished.returncode != 0 and not accept_failure:
        raise DemoFailed(f"`{typed}` ended with {finished.returncode}")


def _timed(command: list[str]) -> None:
    """Runs a command until it succeeds, and says how long that took."""
    started = time.monotonic()
    while (
        subprocess.run(command, cwd=place.ROOT, capture_output=True, timeout=60, check=False).returncode != 0
    ):
        if time.monotonic() - started > 15:
            raise DemoFailed("the new entry did not reach the workload within 15 s")
    _run(command)
    print(f"({time.monotonic() - started:.1f} s after the entry, two starts of Python included)")
