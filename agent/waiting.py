"""Waiting for the first of several events, with a bound: what every loop of the agent does between steps."""

import asyncio


async def wait_any(*events: asyncio.Event, timeout_seconds: float | None = None) -> None:
    """Returns when one of the events is set or the time has run out; which of them, the caller looks."""
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
