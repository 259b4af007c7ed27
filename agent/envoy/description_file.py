"""Reads a service description from a file: TOML, or YAML by its ending."""

import sys
import tomllib
from pathlib import Path
from typing import Final

from agent.envoy.description import ServiceDescription
from control_plane.core.errors import InvalidInput, NotFound
from control_plane.runtime.files import read_bounded

MAX_BYTES: Final = 256 * 1024
_YAML: Final = (".yaml", ".yml")


def read_description(path: Path) -> ServiceDescription:
    """Reads and checks; `-` is standard input, in TOML. Raises NotFound, InvalidInput."""
    try:
        from_input = str(path) == "-"
        content = sys.stdin.buffer.read(MAX_BYTES + 1) if from_input else read_bounded(path, MAX_BYTES)
    except OSError as error:
        raise NotFound(f"reading the service description {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"reading the service description: more than {MAX_BYTES} bytes on standard input")
    try:
        text = content.decode("utf-8")
        document: object = _yaml(text) if path.suffix in _YAML else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "it is too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f"reading the service description {path}: {why}") from error
    try:
        return ServiceDescription.parse(document)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}", hint=error.hint) from error


def _yaml(text: str) -> object:
    import yaml

    from policies.documents import MAX_DEPTH, nests_deeper

    try:
        if nests_deeper(text, MAX_DEPTH):
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
