"""Hashes and message authentication codes, as lower-case hexadecimal text.

MD5 and SHA-1 are here because policies compare fingerprints made by others; nothing of ours relies on
them. Not here: certificates (`certificates`) and tokens (`tokens`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from policies.language.builtins.encoding import bytes_of
from policies.language.values import Boolean, boolean


def _hash(name: str) -> Callable[[str], str]:
    return lambda text: hashlib.new(name, bytes_of(text), usedforsecurity=False).hexdigest()


def _mac(name: str) -> Callable[[str, str], str]:
    return lambda text, key: hmac.new(bytes_of(key), bytes_of(text), name).hexdigest()


def equal(left: str, right: str) -> Boolean:
    """Whether two codes are equal, in constant time."""
    return boolean(hmac.compare_digest(bytes_of(left), bytes_of(right)))


FUNCTIONS = {
    "crypto.md5": _hash("md5"),
    "crypto.sha1": _hash("sha1"),
    "crypto.sha256": _hash("sha256"),
    "crypto.hmac.md5": _mac("md5"),
    "crypto.hmac.sha1": _mac("sha1"),
    "crypto.hmac.sha256": _mac("sha256"),
    "crypto.hmac.sha512": _mac("sha512"),
    "crypto.hmac.equal": equal,
}
