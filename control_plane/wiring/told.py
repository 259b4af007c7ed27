"""How a process that we start says why it can't do its work: one line of JSON, an error of ours.

{"problem": "failed-precondition", "message": "…", "hint": "…"}
"""

import json
from typing import Final

from control_plane.core.errors import Corrupt, FailedPrecondition, GatehouseError, Unavailable

_KINDS: Final = {each.kind: each for each in (Corrupt, FailedPrecondition, Unavailable)}


def told(error: GatehouseError) -> str:
    """The line, with its end."""
    return json.dumps({"problem": error.kind, "message": error.message, "hint": error.hint}) + "\n"


def heard(line: bytes) -> GatehouseError | None:
    """The error in a line; None where it holds none that is known."""
    try:
        problem = json.loads(line)
        return _KINDS[problem["problem"]](problem["message"], hint=problem["hint"])
    except (ValueError, KeyError, TypeError):
        return None
