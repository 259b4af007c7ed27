"""Moves the clock by which OpenSSL judges certificates in one context: real handshakes in simulated time.

Python has no call for it, so the context's own structure is reached through: the pointer to `SSL_CTX` is the
first thing in the object (Modules/_ssl.c, PySSLContext).
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys

_library = ctypes.CDLL(_ssl.__file__)
_library.SSL_CTX_get0_param.restype = ctypes.c_void_p
_library.SSL_CTX_get0_param.argtypes = [ctypes.c_void_p]
_library.X509_VERIFY_PARAM_set_time.restype = None
_library.X509_VERIFY_PARAM_set_time.argtypes = [ctypes.c_void_p, ctypes.c_long]


def set_clock(context: ssl.SSLContext, unix_seconds: int) -> None:
    """From now on certificates are judged as of that moment."""
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    assert sys.implementation.name == "cpython" and pointer
    _library.X509_VERIFY_PARAM_set_time(_library.SSL_CTX_get0_param(pointer), unix_seconds)
