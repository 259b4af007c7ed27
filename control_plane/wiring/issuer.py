"""An issuer process: the node port. It needs neither the management process nor the supervisor to serve."""

import asyncio
import gc
from collections.abc import Callable

from control_plane.runtime import loop
from control_plane.runtime.lifecycle import run_services
from control_plane.settings import ServerSettings
from control_plane.wiring.listener import NodeListener
from control_plane.wiring.metrics import metrics_of, metrics_service
from control_plane.wiring.process import Parts
from control_plane.wiring.vault import vault_services


def run_issuer(settings: ServerSettings, index: int, started: Callable[[], None] | None = None) -> None:
    """Serves until a signal. `index` counts from 0 and names the journal."""
    loop.run(issue(settings, index, started=started))


async def issue(
    settings: ServerSettings,
    index: int,
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[], None] | None = None,
) -> None:
    """The same inside an event loop."""
    parts = Parts(settings, index + 1)
    try:
        await parts.open()
        metrics, observe = metrics_of(parts) if settings.metrics_bind is not None else (None, None)
        # What was loaded stays for the life of the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await run_services(
            {
                "authority": parts,
                "replica": parts.replica,
                "confirmations": parts.confirmations,
                "reports": parts.reports,
                "listener": NodeListener(parts, started, observe),
                **vault_services(parts.vault, parts.authority),
                **metrics_service(parts, metrics, index + 1),
            },
            stop=stop,
        )
    finally:
        await parts.close()
