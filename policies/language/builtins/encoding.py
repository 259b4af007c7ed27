"""Text in other notations: base64, base64url, hexadecimal, URL queries and URIs.

Strings of Rego may hold bytes that are no UTF-8 (base64.decode makes them): such a byte is a lone
surrogate here (`surrogateescape`), counts as one character, and is written as U+FFFD in JSON.
`bytes_of` and `text_of` go both ways without loss. JSON and YAML are in `documents`.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from policies.language.builtins.errors import BuiltinError, OperandError
from policies.language.values import Boolean, Object, Set, Value, boolean, type_name


def bytes_of(text: str) -> bytes:
    """The bytes that a string stands for."""
    return text.encode("utf-8", "surrogateescape")


def text_of(data: bytes) -> str:
    """The string of any bytes."""
    return data.decode("utf-8", "surrogateescape")


def encode_base64(text: str) -> str:
    return base64.b64encode(bytes_of(text)).decode()


_STANDARD = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_URL_SAFE = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")


def base64_bytes(text: str) -> bytes:
    """The bytes of padded standard base64; line ends inside are ignored. BuiltinError otherwise."""
    compact = text.replace("\r", "").replace("\n", "")
    if not _STANDARD.fullmatch(compact):
        valid = re.match(r"(?:[A-Za-z0-9+/]{4})*", compact)
        raise BuiltinError(f"illegal base64 data at input byte {valid.end() if valid else 0}")
    return binascii.a2b_base64(compact)


def base64url_bytes(text: str) -> bytes:
    """The bytes of URL-safe base64, padded or not."""
    if not text.endswith("="):
        if len(text) % 4 == 1:
            raise BuiltinError("illegal base64url string")
        text += "=" * (-len(text) % 4)  # line breaks count here, and are no part of the data below
    compact = text.replace("\r", "").replace("\n", "")
    if not _URL_SAFE.fullmatch(compact):
        valid = re.match(r"[A-Za-z0-9_-]*", compact)
        raise BuiltinError(f"illegal base64 data at input byte {valid.end() if valid else 0}")
    return base64.urlsafe_b64decode(compact)


def decode_base64(text: str) -> str:
    return text_of(base64_bytes(text))


def is_base64(text: str) -> Boolean:
    try:
        base64_bytes(text)
    except BuiltinError:
        return boolean(False)
    return boolean(True)


def encode_base64url(text: str) -> str:
    return base64.urlsafe_b64encode(bytes_of(text)).decode()


def encode_base64url_no_pad(text: str) -> str:
    return encode_base64url(text).rstrip("=")


def decode_base64url(text: str) -> str:
    return text_of(base64url_bytes(text))


def encode_hex(text: str) -> str:
    return bytes_of(text).hex()


_HEX = re.compile(r"[0-9a-fA-F]*")


def decode_hex(text: str) -> str:
    valid = _HEX.match(text)
    end = valid.end() if valid else 0
    if end < len(text):
        raise BuiltinError(f"encoding/hex: invalid byte: U+{ord(text[end]):04X} '{text[end]}'")
    if len(text) % 2:
        raise BuiltinError("encoding/hex: odd length hex string")
    return text_of(bytes.fromhex(text))


# --- URL queries -----------------------------------------------------------------------------------

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)


def encode_query(text: str) -> str:
    """The text as a query component: a blank becomes `+`."""
    return "".join(
        chr(byte) if byte in _UNRESERVED else "+" if byte == 0x20 else f"%{byte:02X}"
        for byte in bytes_of(text)
    )


def decode_query(text: str) -> str:
    """The text of a query component; BuiltinError for a bad escape."""
    wrong = _ESCAPE.search(text)
    if wrong:
        raise BuiltinError(f'invalid URL escape "{wrong[0]}"')
    return text_of(unquote_to_bytes(bytes_of(text.replace("+", " "))))


def encode_query_object(source: Object) -> str:
    """`a=1&b=2` from an object of strings, or of arrays or sets of strings."""
    parts = []
    for key, item in source.ordered_items():
        if not isinstance(key, str):
            raise OperandError("operand 1 must be object with string keys")
        parts += [f"{encode_query(key)}={encode_query(text)}" for text in _query_values(item)]
    return "&".join(parts)


def _query_values(item: Value) -> list[str]:
    if isinstance(item, str):
        return [item]
    values = item.ordered_members() if isinstance(item, Set) else item if isinstance(item, tuple) else None
    if values is None or not all(isinstance(value, str) for value in values):
        raise OperandError(
            f"operand 1 values must be string, array[string], or set[string] but got {type_name(item)}"
        )
    return [value for value in values if isinstance(value, str)]


def decode_query_object(text: str) -> Object:
    """An object with the array of values of each name."""
    found: dict[str, list[str]] = {}
    for part in text.split("&"):
        if not part:
            continue
        if ";" in part:
            raise BuiltinError("invalid semicolon separator in query")
        name, _, value = part.partition("=")
        found.setdefault(decode_query(name), []).append(decode_query(value))
    return Object({name: tuple(values) for name, values in found.items()})


# --- URIs (Go net/url) -----------------------------------------------------------------------------

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOST_PORT = re.compile(r"(?:[^:\[\]]*|\[[^\[\]]*\])(?::[0-9]*)?")
_HOST_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:\[\]<>\"%\x80-\U0010ffff]*")


def uri_parse(text: str) -> Object:
    """The parts of a URI that are there: scheme, hostname, port, path, raw_path, raw_query, fragment."""
    return Object({name: part for name, part in _uri_parts(text).items() if part})


def uri_is_valid(text: str) -> Boolean:
    if not text:
        return boolean(False)
    try:
        _uri_parts(text)
    except BuiltinError:
        return boolean(False)
    return boolean(True)


def _unescaped(text: str, whole: str) -> str:
    wrong = _ESCAPE.search(text)
    if wrong:
        raise BuiltinError(f'parse "{whole}": invalid URL escape "{wrong[0]}"')
    return text_of(unquote_to_bytes(bytes_of(text)))


def _uri_parts(text: str) -> dict[str, str]:
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise BuiltinError("net/url: invalid control character in URL")
    rest, _, fragment = text.partition("#")
    parts: dict[str, str] = {"fragment": _unescaped(fragment, text)}
    scheme = _SCHEME.match(rest)
    if scheme:
        parts["scheme"] = scheme[1].lower()
        rest = rest[scheme.end() :]
    elif rest.startswith(":"):
        raise BuiltinError(f'parse "{text}": missing protocol scheme')
    rest, question, query = rest.partition("?")
    if question:
        parts["raw_query"] = query
    if not rest.startswith("/"):
        if scheme:
            return parts  # opaque: mailto:…
        if ":" in rest.partition("/")[0]:
            raise BuiltinError(f'parse "{text}": first path segment in URL cannot contain colon')
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
        _add_authority(parts, authority, text)
    parts["path"] = _unescaped(rest, text)
    parts["raw_path"] = rest
    return parts


def _add_authority(parts: dict[str, str], authority: str, whole: str) -> None:
    host = authority.rpartition("@")[2]
    if "%" in host:
        raise BuiltinError(f'parse "{whole}": invalid URL escape in host name')
    if not _HOST_CHARACTERS.fullmatch(host):
        raise BuiltinError(f'parse "{whole}": invalid character in host name')
    if not _HOST_PORT.fullmatch(host):
        raise BuiltinError(f'parse "{whole}": invalid port after host')
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    parts["hostname"] = _unescaped(name, whole)
    parts["port"] = port


FUNCTIONS = {
    "base64.encode": encode_base64,
    "base64.decode": decode_base64,
    "base64.is_valid": is_base64,
    "base64url.encode": encode_base64url,
    "base64url.encode_no_pad": encode_base64url_no_pad,
    "base64url.decode": decode_base64url,
    "hex.encode": encode_hex,
    "hex.decode": decode_hex,
    "urlquery.encode": encode_query,
    "urlquery.decode": decode_query,
    "urlquery.encode_object": encode_query_object,
    "urlquery.decode_object": decode_query_object,
    "uri.parse": uri_parse,
    "uri.is_valid": uri_is_valid,
}
