"""DNS names as they may stand in a certificate's subject alternative names.

ASCII only (international names come as A-labels), labels of 1 to 63 characters, 253 in all, underscores
tolerated because service names use them, and at most one wildcard, which is the whole leftmost label and
has at least two labels to its right. Nothing is looked up or normalised.
"""

import re
from typing import Final

from control_plane.core.errors import InvalidInput, shown

MAX_DNS_NAME_CHARACTERS: Final = 253

_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?"
_NAME = re.compile(rf"(?:\*\.{_LABEL}\.)?{_LABEL}(?:\.{_LABEL})*")


def check_dns_name(name: str) -> str:
    """Gives the name back. Raises InvalidInput when it can't stand in a certificate."""
    if len(name) > MAX_DNS_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"DNS name {shown(name)}: expected labels of letters, digits, - and _, {MAX_DNS_NAME_CHARACTERS} "
            "characters at most, a wildcard only as the whole leftmost label"
        )
    return name
