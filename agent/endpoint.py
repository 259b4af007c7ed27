"""Where a workload finds its Workload API: the address in `SPIFFE_ENDPOINT_SOCKET`.

SPIFFE_Workload_Endpoint.md section 4: `unix:` with an absolute path, and neither authority nor query nor
fragment. TCP endpoints exist in the specification; this client doesn't speak to them.
"""

from pathlib import Path
from typing import Final

from control_plane.core.errors import InvalidInput, shown

VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"


def parse_endpoint(text: str) -> Path:
    """Reads `unix:/run/agent.sock` or `unix:///run/agent.sock`. Raises InvalidInput for anything else."""
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]  # an empty authority; a path must follow at once, else a host was named
    if not text.startswith("unix:") or not path.startswith("/") or path.startswith("//"):
        raise InvalidInput(
            f"{VARIABLE} is {shown(text)}: expected unix: and an absolute path",
            hint="such as unix:///run/gatehouse/agent.sock",
        )
    if "?" in path or "#" in path or not path.isprintable():
        raise InvalidInput(f"{VARIABLE} is {shown(text)}: a query, a fragment or control characters")
    return Path(path)
