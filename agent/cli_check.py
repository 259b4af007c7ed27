"""`gatehouse-agent check config`: whether a file can be used, before an agent is started with it.

Settings alone: files that they name are looked at by the agent's start, on the machine where they lie.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from agent.settings import AgentSettings, WrittenSettings, default_data_dir
from control_plane.runtime import settings
from control_plane.runtime.addresses import check_socket_path
from control_plane.runtime.output import Form, Output


def check_config(file: Path, flags: Mapping[str, str | None], form: Form) -> None:
    """Prints what an agent would run with, started with these flags. Raises InvalidInput that names every
    problem."""
    written = settings.load(WrittenSettings, file=file, flags=flags)
    parsed = AgentSettings.parse(written, default_data_dir(os.environ))
    for path in (parsed.socket_path, parsed.admin_socket_path):
        check_socket_path(path)
    output = Output(form)
    output.record(
        {
            "file": str(file),
            "trust_domain": parsed.trust_domain.name,
            "data_dir": str(parsed.data_dir),
            "server": f"{parsed.server_host}:{parsed.server_port}",
            "attests_by": _method(parsed),
            "trusts_at_first": str(parsed.trust_bundle) if parsed.trust_bundle else _without_bundle(parsed),
            "socket": str(parsed.socket_path),
            "admin_socket": str(parsed.admin_socket_path),
        }
    )


def _method(parsed: AgentSettings) -> str:
    if parsed.x509pop is not None:
        return "x509pop"
    return "join_token" if parsed.join_token is not None else "what its cache holds"


def _without_bundle(parsed: AgentSettings) -> str:
    return "DANGER: whatever answers" if parsed.insecure_bootstrap else "what its cache holds"
