"""A process that the supervisor starts: `python -m control_plane.wiring issuer 0`.

Settings come as one line of JSON on standard input, which stays open: its end means that the supervisor is
gone, and this process ends as if it had got SIGTERM. The next server on the data directory waits until it
has, so it isn't given for ever. Standard output says "ready" once it serves, or what doesn't let it start and
won't pass by itself (`told`), such as keys under another passphrase.
"""

import os
import signal
import sys
import threading
import time
from typing import Final

from control_plane.core.errors import FailedPrecondition, GatehouseError
from control_plane.runtime import log, tracing
from control_plane.settings import ServerSettings
from control_plane.wiring import run_issuer, run_management
from control_plane.wiring.told import told

ORPHAN_SECONDS: Final = 20.0
"""For answers that are under way when the supervisor is gone; more than any of our graces."""


def main(kind: str, index: int) -> int:
    """Runs one process to its end; the exit code."""
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return 0  # the supervisor was gone before it had said everything
    settings = ServerSettings.from_json(line)
    log.configure(level=settings.written.log_level, json=settings.written.log_format == "json")
    tracing.export_from(os.environ, f"gatehouse-{kind}")
    threading.Thread(target=_end_with_supervisor, name="supervisor-watch", daemon=True).start()
    try:
        if kind == "issuer":
            run_issuer(settings, index, _say_ready)
        else:
            run_management(settings, _say_ready)
    except GatehouseError as error:
        log.get_logger("process").error("process_failed", process=f"{kind}-{index}", reason=str(error))
        if isinstance(error, FailedPrecondition):
            _say(told(error))
        return 1
    return 0


def _say_ready() -> None:
    _say("ready\n")


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _end_with_supervisor() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    # Hanging, and nobody else would end it. What was answered is durable; the journal is made for this.
    log.get_logger("process").error("orphan_did_not_end", after_seconds=ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
