"""Which Gatehouse this is, as its package says."""

import sys
from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version, such as `0.1.0`; `unknown` where the source runs without being installed. Reads files."""
    try:
        return version("gatehouse")
    except PackageNotFoundError:
        return "unknown"


def tell_version(wanted: bool) -> None:
    """What a command line does for `--version`: prints it and ends."""
    if wanted:
        sys.stdout.write(f"gatehouse {installed_version()}\n")
        sys.exit(0)
