"""One Envoy takes over from another of the same service: Envoy's hot restart, with its numbers chosen here.

The new process gets the listening sockets from the old one, which then takes nothing new, finishes what runs
and is ended. The two find each other by a base ID that has to be the same for both and another one for every
other Envoy of the machine: it follows from the folder in which the service's Envoy is run. The epoch counts
the processes; the admin interface tells it. An Envoy that can be taken over from ends when the process that
started it does (it asks Linux for a signal): it is for supervisors that stay.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from agent.envoy.address import Address
from agent.envoy.stopping import ask
from control_plane.core.errors import FailedPrecondition, Unavailable

FINISH_SECONDS: Final = 10  # for what runs in the old process; has to be longer than the drain time
BASE_IDS: Final = 400_000_000  # Envoy multiplies them by ten, in 32 bits

NEVER: Final = "disabled"  # what Envoy's /hot_restart_version says of one that was started alone

_GENERATION: Final = re.compile(r"^server\.hot_restart_generation: ([0-9]{1,6})\r?$", re.MULTILINE)


async def next_epoch(admin: Address, *, take_over: bool) -> int:
    """The epoch of the Envoy that is to be started: 0, or that of the running one and one more.

    Raises FailedPrecondition where one runs and nothing is, or can be, taken over.
    """
    try:
        version = await ask(admin, "GET", "/hot_restart_version")
        told = _GENERATION.search(await ask(admin, "GET", "/stats?filter=^server.hot_restart_generation$"))
    except Unavailable:
        return 0
    if not take_over:
        raise FailedPrecondition(
            f"starting Envoy: one answers at {admin} already", hint="--hot-restart takes over from it"
        )
    if NEVER in version or told is None:
        raise FailedPrecondition(
            f"starting Envoy: the one at {admin} can't be taken over from, it was started without"
            " --hot-restart",
            hint="stop it first: gatehouse-agent envoy stop",
        )
    return int(told[1])


def flags(folder: Path, service: str, epoch: int) -> tuple[str, ...]:
    """How Envoy has to be started to take over, or to be taken over from, besides `bootstrap.FLAGS`."""
    place = hashlib.sha256(os.fsencode(folder / service)).digest()
    base_id = 1 + int.from_bytes(place[:4]) % BASE_IDS
    numbers = {"--base-id": base_id, "--restart-epoch": epoch, "--parent-shutdown-time-s": FINISH_SECONDS}
    return tuple(word for name, number in numbers.items() for word in (name, str(number)))
