"""`gatehouse-agent run`: from flags, environment and file to a running agent."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.settings import ENVIRONMENT_PREFIX, AgentSettings, WrittenSettings, default_data_dir
from agent.wiring import run_agent
from control_plane.runtime import log, loop, settings, tracing


def run_from_flags(flags: Mapping[str, Any], config: Path | None, environment: Mapping[str, str]) -> None:
    """Runs until a signal. Raises GatehouseError if the settings are wrong or the agent can't go on."""
    written = settings.load(
        WrittenSettings,
        file=config,
        environment=environment,
        prefix=ENVIRONMENT_PREFIX,
        flags={name: value for name, value in flags.items() if value is not None},
    )
    parsed = AgentSettings.parse(written, default_data_dir(environment))
    log.configure(level=parsed.log_level, json=parsed.log_json)
    tracing.export_from(environment, "gatehouse-agent")
    loop.run(_run(parsed))


async def _run(parsed: AgentSettings) -> None:
    await run_agent(parsed, asyncio.Event())
