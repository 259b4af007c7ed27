"""`python -m deploy.demo up | down | tour`: what `make up`, `make down` and `make demo` call."""

from __future__ import annotations

import sys

from deploy.demo import database, place, processes, shown
from deploy.demo.up import DemoFailed, up


def down() -> None:
    """Stops what `up` started, workloads first, and nothing else."""
    stopped = 0
    for process in reversed(processes.load(place.STATE)):
        if processes.stop(process):
            stopped += 1
            shown.step("stopped", f"{process.name} (pid {process.pid})")
    place.STATE.unlink(missing_ok=True)
    database.remove()
    if stopped:
        kept = shown.short_text(str(place.DATA))
        shown.step("done", f"data stays in {kept}; remove that folder to start over")
    else:
        shown.step("done", "nothing of `make up` was running")


def main() -> int:
    """Does what the first argument names; 1 with one clear message if it fails."""
    try:
        match sys.argv[1:]:
            case ["up"]:
                up()
            case ["down"]:
                down()
            case ["tour"]:
                from deploy.demo.tour import tour

                up()
                tour()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except DemoFailed as error:
        print(f"make up: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
