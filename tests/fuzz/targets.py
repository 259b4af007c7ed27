"""Fuzz targets: what reads bytes from outside ends in a value or in a GatehouseError, and soon.

Each target is a function `fuzz_NAME(data: bytes) -> None` with seeds in `SEEDS`. `python
tests/fuzz/targets.py [--seconds N] [NAME…]` runs them at length: under atheris, guided by coverage, where
that is installed, else with mutations of the seeds. The default tests run some mutations of each
(test_targets.py). The HTTP/2 target feeds a server connection without a socket; the front end for Rego has a
stricter target of its own in fuzz_rego_parser.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.core.bundle import Bundle, JwtAuthority, X509Authority
from control_plane.core.csr import check_csr
from control_plane.core.errors import GatehouseError
from control_plane.core.jwt_svid import JwtRequest, encode_jwt, parse_and_verify
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.verify_x509 import verify_x509
from control_plane.identity.journal_file import frame as journal_frame
from control_plane.identity.journal_file import marker
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import JwtRecord, X509Intent
from control_plane.runtime.transport import health
from control_plane.runtime.transport.accepted import ServerProtocol
from control_plane.runtime.transport.limits import Limits
from control_plane.runtime.transport.peer import UnixPeer
from control_plane.runtime.transport.session import Dispatch
from control_plane.settings import load_settings
from policies.inventory_file import parse_inventory
from policies.language.diagnostics import Diagnostics
from policies.language.syntax.parser import parse_module

ROOT: Final = Path(__file__).resolve().parents[2]
TD: Final = TrustDomain("example.org")
WEB: Final = SpiffeId.parse("spiffe://example.org/web")
NOW: Final = 1_800_000_000
_KEY: Final = ec.generate_private_key(ec.SECP256R1())
_SPKI: Final = _KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
_CA_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])


def _builder(subject: x509.Name, uri: str, *, ca: bool) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=2)
    builder = x509.CertificateBuilder(_CA_NAME, subject, _KEY.public_key(), 7)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(hours=1))
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    return builder.add_extension(usage, critical=True).add_extension(names, critical=not ca)


def _authority() -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return _builder(_CA_NAME, str(TD.id), ca=True).add_extension(constraints, critical=True)


def _leaf() -> x509.CertificateBuilder:
    """What an authority would make, but for its key: mutations must never be accepted."""
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return _builder(x509.Name([]), str(WEB), ca=False).add_extension(uses, critical=False)


def _signed(builder: x509.CertificateBuilder) -> bytes:
    """By another key each time."""
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


_BUNDLE: Final = Bundle(
    TD, (X509Authority.parse(_signed(_authority())),), (JwtAuthority("one", _SPKI, NOW + 3600),), 1, 300
)
_FOLDER: Final = tempfile.TemporaryDirectory(prefix="gh")
Target = Callable[[bytes], None]


def fuzz_spiffe_id(data: bytes) -> None:
    """What parses is written as it was read."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert str(SpiffeId.parse(text)) == text
    with contextlib.suppress(GatehouseError):
        assert TrustDomain.parse(text).id.trust_domain.name in text


def fuzz_selector(data: bytes) -> None:
    """Likewise."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert str(Selector.parse(text)) == text


def fuzz_csr(data: bytes) -> None:
    """Certificate requests, and the walk over their DER."""
    for require_uri in (False, True):
        with contextlib.suppress(GatehouseError):
            check_csr(data, require_uri=require_uri)


def fuzz_certificate(data: bytes) -> None:
    """A chain of one, as a peer would present it: never accepted, whatever it says."""
    with contextlib.suppress(GatehouseError):
        verify_x509([data], _BUNDLE, NOW)
        raise AssertionError("a chain was accepted that no authority signed")


def fuzz_jwt(data: bytes) -> None:
    """Tokens."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(GatehouseError):
        assert parse_and_verify(text, "them", {TD: _BUNDLE}, NOW).spiffe_id == WEB


def fuzz_bundle(data: bytes) -> None:
    """Bundles as JSON and as PEM; what parses is written to something that parses to the same."""
    with contextlib.suppress(GatehouseError):
        read = Bundle.parse_json(TD, data)
        assert Bundle.parse_json(TD, read.to_json()).same_content(read)
    with contextlib.suppress(GatehouseError):
        Bundle.parse_pem(TD, data)


def fuzz_journal(data: bytes) -> None:
    """A segment of a ledger journal after anything that can happen to a disk: damage is told, not raised."""
    folder = Path(_FOLDER.name) / "ledger"
    folder.mkdir(exist_ok=True)
    (folder / "issuer-1-00000000000000000001.journal").write_bytes(data)
    with contextlib.suppress(GatehouseError):
        for _ in read_journals(folder, on_damage=lambda damage: None):
            pass


def fuzz_settings(data: bytes) -> None:
    """The server's TOML file."""
    path = Path(_FOLDER.name) / "settings.toml"
    path.write_bytes(data)
    with contextlib.suppress(GatehouseError):
        load_settings(file=path, environment={}, flags={})


def fuzz_inventory(data: bytes) -> None:
    """An inventory for the policy compiler, YAML."""
    with contextlib.suppress(GatehouseError):
        parse_inventory(data.decode("utf-8", "replace"))


def fuzz_rego(data: bytes) -> None:
    """A policy."""
    with contextlib.suppress(Diagnostics):
        parse_module(data.decode("utf-8", "replace"))


def fuzz_http2(data: bytes) -> None:
    """What a client may send on a connection, cut in two: no exception gets out, and nothing is left over."""
    asyncio.run(_connection(data))


async def _connection(data: bytes) -> None:
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    service = health(lambda: True)
    log = _Log()
    dispatch = Dispatch(dict(service.methods), (), Limits(), None, cast(Any, log))
    lost: list[bool] = []
    protocol = ServerProtocol(
        dispatch, "unix:1", UnixPeer(1, 1, 1, None), set(), 0.0, lambda: lost.append(True)
    )
    transport = _Wire()
    protocol.connection_made(cast(asyncio.Transport, transport))
    middle = len(data) // 2
    for part in (data[:middle], data[middle:]):
        if not transport.closed:
            protocol.data_received(part)
        for _ in range(4):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    for _ in range(6):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert lost and not faults and not log.bugs, (faults, log.bugs)
    assert not left, left


class _Log:
    """Keeps what a server logs as its own mistake."""

    def __init__(self) -> None:
        self.bugs: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        def note(event: str, **details: object) -> None:
            if level in ("exception", "critical"):
                self.bugs.append(f"{event} {details} {sys.exc_info()[1]!r}")

        return note


class _Wire(asyncio.Transport):
    """A transport that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _requests() -> list[bytes]:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(WEB)), x509.DNSName("w.test")])
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    named = empty.add_extension(names, critical=False)
    keys = (_KEY, ec.generate_private_key(ec.SECP384R1()))
    return [
        one.sign(key, hashes.SHA256()).public_bytes(Encoding.DER) for one in (empty, named) for key in keys
    ]


def _tokens() -> list[bytes]:
    request = JwtRequest(WEB, ("them",), NOW, NOW + 300, "")
    token = encode_jwt(
        request, "one", _KEY.public_key(), lambda data: _KEY.sign(data, ec.ECDSA(hashes.SHA256()))
    )
    return [token.token.encode()]


def _segment() -> bytes:
    data = b""
    intent = X509Intent(NOW, WEB, 7, b"d" * 32, "a" * 40)
    token = JwtRecord(NOW, WEB, ("them",), NOW + 300, "one", "", "e", "", "", b"d" * 32)
    for sequence in (1, 3):
        data += marker(len(data), sequence, NOW)
        data += journal_frame(sequence, intent.encode()) + journal_frame(sequence + 1, token.encode())
    return data


def _http2() -> list[bytes]:
    def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    def call(stream: int, method: bytes) -> bytes:
        fields = b"\x83\x86" + literal(b":path", b"/grpc.health.v1.Health/" + method)
        fields += literal(b":authority", b"localhost") + literal(b"content-type", b"application/grpc")
        fields += literal(b"te", b"trailers") + literal(b"grpc-timeout", b"5S")
        return frame(1, fields, 4, stream) + frame(0, b"\0\0\0\0\0", 1, stream)

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4) + frame(4, flags=1)
    window = frame(8, b"\0\0\xff\xff") + frame(6, b"12345678")
    reset = frame(3, b"\0\0\0\x08", stream=3)
    return [
        preface + call(1, b"Check") + window,
        preface + call(1, b"Watch") + call(3, b"List") + reset + frame(7, b"\0" * 8),
        preface + window + call(1, b"Nothing"),
    ]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "spiffe_id": lambda: [b"spiffe://example.org/ns/a/sa/b-c_d.e", b"example.org"],
    "selector": lambda: [b"unix:uid:1000", b"k8s:pod-label:app:web"],
    "csr": _requests,
    "certificate": lambda: [_signed(_leaf()), _signed(_authority()), *_requests()],
    "jwt": _tokens,
    "bundle": lambda: [
        _BUNDLE.to_json().encode(),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
    "journal": lambda: [_segment()],
    "settings": lambda: [
        b'data_dir = "d"\ntrust_domain = "example.org"\nbind = "[::1]:0"\nissuers = 2\nadmin_ids = '
        b'["spiffe://example.org/a"]\n[rate_limits]\nsigning_per_second = 1.5\n'
        b"[authority]\nca_ttl_seconds = 604800\n"
    ],
    "inventory": lambda: [(ROOT / "deploy/demo/inventory.yaml").read_bytes()],
    "rego": lambda: [path.read_bytes()[:3000] for path in sorted((ROOT / "rego").rglob("*.rego"))[:6]],
    "http2": _http2,
}
TARGETS: Final[dict[str, Target]] = {name: globals()[f"fuzz_{name}"] for name in SEEDS}
_WORDS: Final = (
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x80", b"\x7f", b"\n", b"..", b"//", b"%2e", b":", b".", b"="),
    *(
        b"{",
        b"[",
        b'"',
        b"'",
        b"null",
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 40,
        b"\xed\xa0\x80",
        b"\\ud800",
        b"&a *a",
    ),
    *(b"inf", b"nan", b"1979-05-27", b"true", b"\x30\x80", b"\x02\x01", b"!!python/object", b"\xc2\xa0"),
)


def mutations(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` inputs from `seeds`, the seeds first; the same for the same `seed`."""
    yield from seeds
    dice = random.Random(seed)
    for _ in range(count - len(seeds)):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 2, 3, 8))):
            at = dice.randrange(len(data) + 1)
            end = min(len(data), at + dice.choice((0, 0, 1, 1, 2, 4, 16, 100)))
            what = dice.randrange(6)
            if what == 0 and data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            elif what == 1:
                data[at:end] = b""
            elif what == 2:
                data[at:end] = dice.choice(_WORDS)
            elif what == 3:
                data[at:end] = dice.randbytes(end - at + 1)
            elif what == 4:
                data[at:at] = data[at:end] * dice.choice((1, 2, 30))
            else:
                other = dice.choice(seeds)
                data[at:] = other[dice.randrange(len(other) + 1) :]
        yield bytes(data[:65_536])


def _at_length(name: str, seconds: float) -> int:
    """One target with mutations only, for some time; how many inputs that were."""
    began, count, seed = time.monotonic(), 0, random.SystemRandom().randrange(2**32)
    seeds = SEEDS[name]()
    while time.monotonic() - began < seconds:
        for data in mutations(seeds, 1000, seed):
            try:
                TARGETS[name](data)
            except Exception:
                print(f"{name}: round {seed}, input {data!r}", flush=True)
                raise
        count, seed = count + 1000, seed + 1
    return count


def main() -> int:
    """Each target in turn; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Runs fuzz targets at length.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS])
    arguments = parser.parse_args()
    try:
        import atheris  # type: ignore[import-untyped]  # no wheel for every platform, no types
    except ImportError:
        print("without atheris: mutations of seeds, not guided by coverage")
        for name in arguments.names or TARGETS:
            print(f"{name}: {_at_length(name, arguments.seconds)} inputs", flush=True)
        return 0
    if len(arguments.names) != 1:  # atheris ends its process: one for each target
        command = [sys.executable, __file__, "--seconds", str(arguments.seconds)]
        return max(subprocess.run([*command, name], check=False).returncode for name in TARGETS)
    name = arguments.names[0]
    with tempfile.TemporaryDirectory(prefix="gh") as corpus:
        for number, data in enumerate(SEEDS[name]()):
            (Path(corpus) / str(number)).write_bytes(data)
        atheris.instrument_all()
        atheris.Setup([__file__, corpus, f"-max_total_time={int(arguments.seconds)}"], TARGETS[name])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
