"""Prepares the database in a process of its own, before any other opens it.

The supervisor has it done: it lives for as long as the server and does little, and would else weigh twice as
much, by what only the database and its migrations need. What is refused there is told here (`told`).
"""

import asyncio
import sys
from pathlib import Path

from control_plane.core.errors import Corrupt, FailedPrecondition, Unavailable
from control_plane.wiring.told import heard, told


async def prepare_apart(database: Path, inherited: int) -> None:
    """Prepares the database; `inherited` is the descriptor that says that processes of this server run.

    Raises what `sql.database.prepare` raises, and Unavailable if the process ends without a word; what it
    wrote to standard error is then there to be read.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "control_plane.wiring.preparation",
            str(database),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(inherited,),
            start_new_session=True,  # Ctrl-C is for us; a migration is finished or undone whole
        )
    except OSError as refusal:
        raise Unavailable(
            f"preparing the database {database.name}: starting a process for it: {refusal.strerror}",
            hint="see what the system allows: ulimit -n, ulimit -u, free memory",
        ) from refusal
    said, _ = await child.communicate()
    if child.returncode:
        raise heard(said) or Unavailable(
            f"preparing the database {database.name}: the process that does it ended with {child.returncode}",
            hint="standard error has what it said last; try again",
        )


def main(database: Path) -> int:
    """The process; its exit code."""
    from control_plane.sql.database import prepare  # what this process is for

    try:
        prepare(database)
    except (Corrupt, FailedPrecondition, Unavailable) as error:
        sys.stdout.write(told(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
