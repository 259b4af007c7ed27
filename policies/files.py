"""The files of a policy project by their names: what is a test, what is data, and one digest for all.

Apart from `project` so that who only carries policies about needn't load the language.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

LIBRARY_FILES: Final = "gatehouse/lib/"
"""How the names of the library's files begin, which comes along with every project."""

DATA_FILES: Final = ("data.json", "data.yaml", "data.yml")


def is_test(name: str) -> bool:
    """Whether a file holds tests."""
    return name.endswith("_test.rego")


def digest_of(files: Mapping[str, str]) -> str:
    """`sha256:…`: changes with every byte of every file but the tests."""
    # Lengths stand before the texts, so that no two sets of files run together to the same bytes.
    digest = hashlib.sha256()
    for name, text in sorted(files.items()):
        if is_test(name):
            continue
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{digest.hexdigest()}"
