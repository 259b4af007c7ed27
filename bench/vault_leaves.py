"""Leaves that a real Vault signs, ours beside a bare client of the same server; the standby; the hand-over.

The bare client posts the same requests over as many kept connections, one thread each, and does nothing with
the answers. Ours checks the CSR, writes the ledger, asks through hvac with bounds on time and size, holds
each leaf against its order and verifies its signature. Both take wall-clock time, in turn: the server is the
limit, and shares the machine with its client. The standby is held against the embedded authority in CPU time.

Needs `make peers` for Vault.
"""

import asyncio
import http.client
import importlib.util
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.report import Result, command_line, skip, tell
from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.make import Maker
from control_plane.authority.ports import Authority
from control_plane.authority.schedule import Lifetimes, Origin
from control_plane.authority.state import AuthorityState, Kind
from control_plane.authority.steps import activate, prepare
from control_plane.authority.vault import Switch, VaultAuthority
from control_plane.authority.vault_make import VaultMaker
from control_plane.clients.vault.opening import open_pki, open_vault
from control_plane.clients.vault.pki import csr_pem
from control_plane.clients.vault.roles import role_fields
from control_plane.core.errors import GatehouseError
from control_plane.core.lifetime import standby_ttl_seconds
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.identity.issuance import IssuanceSettings, Issuer, X509Issue
from control_plane.identity.journal import Journal
from control_plane.runtime import loop
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.vault_settings import VaultSettings

ROOT: Final = Path(__file__).resolve().parent.parent
DOMAIN: Final = TrustDomain("bench.test")
DAY: Final = 86_400
CONNECTIONS: Final = 8
BATCH: Final = 200
ROUNDS: Final = 8
RATE_GOAL: Final = 0.4  # of the bare client's rate; a request through hvac alone costs 0.9 ms of CPU
STANDBY_GOAL: Final = 1.1
HAND_OVER_SECONDS: Final = 1.0


def main() -> None:
    """Prints three lines; says why not where there is no Vault."""
    command_line(__doc__).parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "fakes"))
    program = _module("interop/peers.py").find("vault")
    if program is None:
        skip("leaves through Vault", "`make peers` builds vault")
        return
    with _module("fakes/real_vault.py").RealVault(program) as server:
        loop.run(_measure(server))


async def _measure(server: Any) -> None:
    api = server.api
    mount = _module("fakes/real_vault.py").Server("vault", api).make_pki()
    api.write(f"{mount}/roles/gatehouse", **role_fields(DOMAIN, ttl_seconds=DAY))
    settings = VaultSettings(
        address=server.url, token=Secret("root"), pki_mount=mount, max_requests=CONNECTIONS
    )
    ids = [SpiffeId.of(DOMAIN, "ns", "shop", "sa", f"service-{number}") for number in range(BATCH)]
    items = [X509Issue(spiffe_id=one, csr=_csr()) for one in ids]
    door = open_vault(settings, random=lambda: 0.5)
    with tempfile.TemporaryDirectory(prefix="gh") as folder, ThreadPoolExecutor(CONNECTIONS) as threads:
        journal = Journal(Path(folder), 0, SystemClock())
        await journal.start()
        try:
            keys = MemoryKeyManager(os.urandom)
            state = await _state(open_pki(door, settings), keys)
            authority = VaultAuthority(
                keys,
                open_pki(door, settings),
                SystemClock(),
                permits=CONNECTIONS,
                rehearse=_nothing,
                record=_nothing_to_record,
            )
            authority.reload(state)
            issuer = _issuer(authority, journal)
            bare, ours = [], []
            port = server.port
            for _ in range(ROUNDS):
                bare.append(_seconds_bare(threads, port, f"/v1/{mount}/issuer/default/sign/gatehouse", items))
                ours.append(await _seconds(issuer, items))
            _tell_rate(min(bare), min(ours))
            server.seal()
            began = time.monotonic()
            (first,) = await issuer.issue_x509(items[:1])
            hand_over = time.monotonic() - began
            assert not isinstance(first, GatehouseError) and len(first.chain) == 2
            limit = f"a limit of {HAND_OVER_SECONDS:g} s"
            ratio = hand_over / HAND_OVER_SECONDS
            tell(Result("first leaf after Vault was sealed", f"{hand_over * 1000:.0f} ms", limit, ratio, 1.0))
            await _tell_standby(issuer, _issuer(await _embedded(keys), journal), items)
        finally:
            await journal.close()
            door.close()


def _tell_rate(bare: float, ours: float) -> None:
    name = f"leaves a second through Vault, {CONNECTIONS} connections"
    beside = f"a bare client's {BATCH / bare:,.0f}"
    tell(Result(name, f"{BATCH / ours:,.0f}", beside, bare / ours, RATE_GOAL, more_is_better=True))


async def _tell_standby(standby: Issuer, embedded: Issuer, items: list[X509Issue]) -> None:
    theirs, ours = [], []
    for _ in range(10 * ROUNDS):
        theirs.append(await _cpu_seconds(embedded, items))
        ours.append(await _cpu_seconds(standby, items))
    ratio = median(ours) / median(theirs)
    value = f"{median(ours) / BATCH * 1e6:.0f} µs CPU"
    beside = f"the embedded authority's {median(theirs) / BATCH * 1e6:.0f} µs"
    tell(Result("one leaf by the standby, ledger included", value, beside, ratio, STANDBY_GOAL))


async def _state(pki: Any, keys: MemoryKeyManager) -> AuthorityState:
    lifetimes = Lifetimes(issuing_ttl_seconds=standby_ttl_seconds(DAY), origin=Origin.VAULT_LEAF)
    local = Maker(keys, DOMAIN, lifetimes, random_bytes=os.urandom)
    clock = SystemClock()
    maker = VaultMaker(pki, keys, local, DOMAIN, lifetimes, clock, random_bytes=os.urandom)
    return _active(await maker.x509(clock.unix()), await maker.jwt(clock.unix()), clock.unix())


async def _embedded(keys: MemoryKeyManager) -> EmbeddedAuthority:
    maker, now = Maker(keys, DOMAIN, Lifetimes(), random_bytes=os.urandom), SystemClock().unix()
    return EmbeddedAuthority(keys, _active(await maker.x509(now), await maker.jwt(now), now))


def _active(x509_slot: Any, jwt: Any, now: int) -> AuthorityState:
    state = prepare(prepare(AuthorityState(DOMAIN), x509_slot, now), jwt, now)
    state = activate(state, Kind.X509, x509_slot.authority_id, now)
    return activate(state, Kind.JWT, jwt.authority_id, now)


def _issuer(authority: Authority, journal: Journal) -> Issuer:
    return Issuer(authority, journal, IssuanceSettings(DOMAIN), SystemClock(), random_bytes=os.urandom)


async def _seconds(issuer: Issuer, items: list[X509Issue]) -> float:
    began = time.monotonic()
    for outcome in await issuer.issue_x509(items):
        if isinstance(outcome, GatehouseError):
            raise outcome
    return time.monotonic() - began


async def _cpu_seconds(issuer: Issuer, items: list[X509Issue]) -> float:
    began = time.process_time()
    await issuer.issue_x509(items)
    return time.process_time() - began


def _seconds_bare(threads: ThreadPoolExecutor, port: int, path: str, items: list[X509Issue]) -> float:
    """Posts all of them, over one kept connection a thread."""
    bodies = [
        json.dumps({"csr": csr_pem(one.csr), "uri_sans": str(one.spiffe_id), "ttl": "24h"}) for one in items
    ]

    def post(share: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for body in share:
            connection.request("POST", path, body, {"X-Vault-Token": "root"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()

    began = time.monotonic()
    list(threads.map(post, [bodies[index::CONNECTIONS] for index in range(CONNECTIONS)]))
    return time.monotonic() - began


def _csr() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def _nothing(signer: object) -> None:
    await asyncio.sleep(0)


async def _nothing_to_record(switch: Switch) -> None:
    await asyncio.sleep(0)


def _module(path: str) -> ModuleType:
    """A file below `tests/`, which is no package."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


if __name__ == "__main__":
    main()
