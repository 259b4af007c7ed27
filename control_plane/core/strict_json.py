"""JSON as security formats need it: one meaning for each text.

Python's parser keeps the last of two members with the same name, accepts NaN and reads any size. A signature
or a bundle must not mean one thing to us and another to the next reader, so all three
are refused; so are other encodings than UTF-8 and half characters.
"""

import json

from control_plane.core.errors import InvalidInput, shown


def load_object(text: str | bytes, what: str, max_bytes: int) -> dict[str, object]:
    """Parses JSON text whose top is an object; a name twice, at any depth, is refused with InvalidInput."""
    if len(text) > max_bytes:
        raise InvalidInput(f"{what}: {len(text)} bytes of JSON, {max_bytes} allowed")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        document = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what}: not readable as JSON: {shown(str(error))}") from error
    if "\\ud" in text.lower() and not _is_unicode(document):
        raise InvalidInput(f"{what}: the JSON holds half a character (an unpaired surrogate)")
    if not isinstance(document, dict):
        raise InvalidInput(f"{what}: the JSON is {shown(document)}, expected an object")
    return document


def _is_unicode(document: object) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the member name {shown(twice)} comes twice")
    return members


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")
