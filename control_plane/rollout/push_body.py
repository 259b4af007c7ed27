"""What comes with a push, as JSON: read, checked, and handed over in a form that costs the receiver little.

Reading JSON holds the interpreter up, for seconds with many million small values. A large body is therefore
read by a process of its own, `python -m control_plane.rollout.push_body` (`push_reader` starts it): standard
input is the body, standard output what `write_push` makes of it. The Rego isn't looked at here.
"""

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from control_plane.core.errors import Corrupt, GatehouseError, InvalidInput, ResourceExhausted, shown
from control_plane.rollout.version import MAX_REASON_CHARACTERS, PolicySource

MAX_WAIT_SECONDS: Final = 300
DEFAULT_WAIT_SECONDS: Final = 60.0
MAX_MEMORY_BYTES: Final = 4 << 30
MAX_CPU_SECONDS: Final = 60
_MEMBERS: Final = ("files", "inventory", "reason", "wait_seconds")


@dataclass(frozen=True, slots=True)
class PushBody:
    """Source, why, and for how long the proof is waited for before the answer."""

    source: PolicySource
    reason: str
    wait_seconds: float = DEFAULT_WAIT_SECONDS


def parse_push(body: bytes) -> PushBody:
    """Reads `{"files": {path: text}, "inventory": text, "reason": text, "wait_seconds": number}`.

    Raises InvalidInput, and ResourceExhausted for a policy that is too large.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"body: isn't JSON ({_cause(error)})") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"body: expected an object, {type(found).__name__} came")
    if unknown := found.keys() - _MEMBERS:
        raise InvalidInput(f"body: {shown(min(unknown))} isn't known, expected {', '.join(_MEMBERS)}")
    files, wait = found.get("files"), found.get("wait_seconds", DEFAULT_WAIT_SECONDS)
    if not isinstance(files, dict):
        raise InvalidInput("files: expected an object of texts by relative file name")
    for path, text in files.items():
        if not isinstance(text, str):
            raise InvalidInput(f"files: {shown(path)}: expected a text, {type(text).__name__} came")
    number = isinstance(wait, int | float) and not isinstance(wait, bool)
    if not number or not 0 <= wait <= MAX_WAIT_SECONDS:
        raise InvalidInput(f"wait_seconds: {shown(wait)}, expected 0 to {MAX_WAIT_SECONDS}")
    inventory, reason = _text(found, "inventory"), _text(found, "reason")
    if len(reason) > MAX_REASON_CHARACTERS:
        raise InvalidInput(f"reason: {len(reason)} characters, at most {MAX_REASON_CHARACTERS} are taken")
    try:
        reason.encode()
        return PushBody(PolicySource.of(files, inventory), reason, float(wait))
    except UnicodeEncodeError as error:
        raise InvalidInput("files, inventory, reason: a text has half of a surrogate pair") from error


def write_push(push: PushBody) -> bytes:
    """One line of JSON with names and sizes, then the texts in UTF-8, the inventory last."""
    texts = {path: text.encode() for path, text in push.source.files.items()}
    inventory = push.source.inventory.encode()
    head = {
        "reason": push.reason,
        "wait_seconds": push.wait_seconds,
        "files": [[path, len(text)] for path, text in texts.items()],
        "inventory": len(inventory),
    }
    return b"".join([json.dumps(head).encode("ascii"), b"\n", *texts.values(), inventory])


def read_push(written: bytes) -> PushBody:
    """Reads what `write_push` wrote. Raises Corrupt, and what the reader told of the body."""
    line, _, texts = written.partition(b"\n")
    try:
        head = json.loads(line)
        if "problem" in head:
            kind = ResourceExhausted if head["problem"] == ResourceExhausted.kind else InvalidInput
            raise kind(head["message"], hint=head["hint"])
        files: dict[str, str] = {}
        position = 0
        for path, size in head["files"]:
            files[path] = texts[position : position + size].decode()
            position += size
        if len(texts) != position + head["inventory"]:
            raise ValueError(f"{len(texts)} bytes")
        source = PolicySource(files, texts[position:].decode())
        return PushBody(source, head["reason"], head["wait_seconds"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"reading a pushed policy: what its reader wrote can't be read ({error})") from error


def _text(found: Mapping[str, Any], name: str) -> str:
    text = found.get(name)
    if not isinstance(text, str):
        raise InvalidInput(
            f"{name}: expected a text, {'nothing' if text is None else type(text).__name__} came"
        )
    return text


def _cause(error: Exception) -> str:
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)[:100]


def main() -> None:
    """The child process."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    try:
        told = write_push(parse_push(sys.stdin.buffer.read()))
    except GatehouseError as error:
        problem = {"problem": error.kind, "message": error.message, "hint": error.hint}
        told = json.dumps(problem).encode("ascii") + b"\n"
    sys.stdout.buffer.write(told)


if __name__ == "__main__":
    main()
