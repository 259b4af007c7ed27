"""kill -9 at random points, under load: nothing that was acknowledged is lost, and no start needs help.

`GATEHOUSE_CHAOS_KILLS` says how often (a few by default, 40 in CI, 1,000 in `make soak`). Victims are the
supervisor, the management process, issuers and the agent. Load runs all the time: entries are created and
deleted and certificates taken, by an administrator and by a node; what was answered is remembered and looked
for. The estate stays small however long it goes on, so that the thousandth start costs what the first does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.core.bundle import Bundle
from control_plane.core.errors import Code, GatehouseError
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import X509Record
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types import entry_pb2 as entries_pb2
from control_plane.proto.spire.api.types import selector_pb2, spiffeid_pb2
from control_plane.runtime.tls import TlsClient, TlsIdentity
from control_plane.runtime.transport import Channel

KILLS = int(os.environ.get("GATEHOUSE_CHAOS_KILLS", "6"))
SEED = int(os.environ.get("GATEHOUSE_CHAOS_SEED", str(random.SystemRandom().randrange(10**9))))
ENTRIES_KEPT = 100
ENTRY, SVID = "/spire.api.server.entry.v1.Entry/", "/spire.api.server.svid.v1.SVID/"

pytestmark = pytest.mark.timeout(120 + 45 * KILLS)


class Load:
    """What keeps asking, and what it was given."""

    def __init__(self, server: Any, node_id: str, token: str) -> None:
        self.server = server
        self.trust_domain = TrustDomain.parse(server.trust_domain)
        self.bundle = Bundle.parse_pem(self.trust_domain, server.bundle_file().read_text())
        self.node_id = node_id
        self.token = token
        self.entries: dict[str, None] = {}  # acknowledged, oldest first
        self.deleted: set[str] = set()  # acknowledged to be gone
        self.created = 0
        self.serials: set[int] = set()
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forever(self._administer))
                group.create_task(self._forever(self._node))

        try:
            asyncio.run(all_of_them())
        except BaseException as error:  # whatever it is belongs into the test's verdict
            self.errors.append(error)

    async def _forever(self, work: Any) -> None:
        """Again and again until the end; what a killed server says is no failure."""
        while not self._stop.is_set():
            with contextlib.suppress(GatehouseError, OSError):
                await work()
            await asyncio.sleep(0.05)

    async def _administer(self) -> None:
        """Entries one by one, each followed by a minted certificate."""
        async with Channel.unix(self.server.socket) as channel:
            while not self._stop.is_set():
                entry = entries_pb2.Entry(
                    spiffe_id=self._id(f"/chaos/{os.urandom(6).hex()}"),
                    parent_id=self._id(self.node_id.removeprefix(f"spiffe://{self.trust_domain}")),
                    selectors=[selector_pb2.Selector(type="unix", value=f"uid:{100_000 + self.created}")],
                )
                request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
                reply = await channel.unary(
                    ENTRY + "BatchCreateEntry", request, entry_pb2.BatchCreateEntryResponse, timeout=5
                )
                if reply.results[0].status.code == 0:
                    self.entries[reply.results[0].entry.id] = None
                    self.created += 1
                mint = svid_pb2.MintX509SVIDRequest(csr=_request(f"spiffe://{self.trust_domain}/minted")[1])
                minted = await channel.unary(
                    SVID + "MintX509SVID", mint, svid_pb2.MintX509SVIDResponse, timeout=5
                )
                self._received(minted.svid.cert_chain)
                if len(self.entries) > ENTRIES_KEPT:
                    await self._delete(channel, next(iter(self.entries)))
                await asyncio.sleep(0.01)

    async def _delete(self, channel: Channel, entry_id: str) -> None:
        """Deletes an entry, which must be there. Unless that is answered, nothing is known of it any more."""
        del self.entries[entry_id]
        request = entry_pb2.BatchDeleteEntryRequest(ids=[entry_id])
        reply = await channel.unary(
            ENTRY + "BatchDeleteEntry", request, entry_pb2.BatchDeleteEntryResponse, timeout=5
        )
        code = reply.results[0].status.code
        assert code != Code.NOT_FOUND, f"an acknowledged entry was lost: {entry_id} (seed {SEED})"
        if code == Code.OK:
            self.deleted.add(entry_id)

    async def _node(self) -> None:
        """A node that attested once, and asks for certificates in batches."""
        if self.identity is None:
            self.identity = await self._attest()
        tls = TlsClient(server_id(self.trust_domain), lambda: self.bundle, lambda: self.identity)
        async with Channel.tcp("127.0.0.1", self.server.port, tls) as channel:
            authorised = await channel.unary(
                ENTRY + "GetAuthorizedEntries",
                entry_pb2.GetAuthorizedEntriesRequest(),
                entry_pb2.GetAuthorizedEntriesResponse,
                timeout=5,
            )
            wanted = list(authorised.entries)[-5:]
            while wanted and not self._stop.is_set():
                params = [
                    svid_pb2.NewX509SVIDParams(
                        entry_id=each.id,
                        csr=_request(f"spiffe://{self.trust_domain}{each.spiffe_id.path}")[1],
                    )
                    for each in wanted
                ]
                request = svid_pb2.BatchNewX509SVIDRequest(params=params)
                reply = await channel.unary(
                    SVID + "BatchNewX509SVID", request, svid_pb2.BatchNewX509SVIDResponse, timeout=5
                )
                for result in reply.results:
                    self._received(result.svid.cert_chain)
                if not all(result.svid.cert_chain for result in reply.results):
                    return  # some entries have been deleted: ask for those that there are
                await asyncio.sleep(0.01)

    identity: TlsIdentity | None = None

    async def _attest(self) -> TlsIdentity:
        """Presents the join token."""
        key, csr = _request(None)
        data = agent_pb2.AttestAgentRequest.Params(params=agent_pb2.AgentX509SVIDParams(csr=csr))
        data.data.type = "join_token"
        data.data.payload = self.token.encode()
        tls = TlsClient(server_id(self.trust_domain), lambda: self.bundle)
        async with (
            Channel.tcp("127.0.0.1", self.server.port, tls) as channel,
            channel.stream(
                "/spire.api.server.agent.v1.Agent/AttestAgent", agent_pb2.AttestAgentResponse, timeout=5
            ) as call,
        ):
            await call.send(agent_pb2.AttestAgentRequest(params=data))
            answer = await call.receive()
            assert answer is not None
            self._received(answer.result.svid.cert_chain)
            return _identity(tuple(answer.result.svid.cert_chain), key)

    def _received(self, chain: Any) -> None:
        """Remembers a certificate that has left the server."""
        if chain:
            self.serials.add(x509.load_der_x509_certificate(chain[0]).serial_number)

    def _id(self, path: str) -> spiffeid_pb2.SPIFFEID:
        return spiffeid_pb2.SPIFFEID(trust_domain=self.trust_domain.name, path=path)


def _request(identity: str | None) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A fresh key and a certificate request, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if identity is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        builder = builder.add_extension(names, critical=False)
    return key, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _identity(chain: tuple[bytes, ...], key: ec.EllipticCurvePrivateKey) -> TlsIdentity:
    """What the transport takes as a client's certificate and key."""
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return TlsIdentity(chain, Secret(der))


@pytest.fixture
def place(running: ModuleType) -> Iterator[Path]:
    with running.short_folder() as folder:
        yield folder


def test_nothing_acknowledged_is_lost(running: ModuleType, place: Path) -> None:
    dice = random.Random(SEED)
    print(f"seed {SEED}, {KILLS} kills")
    server = running.GatehouseServer(place, extra=("--issuers", "2"))
    agent = running.GatehouseAgent(place)
    with running.stopping(server, agent):
        server.run()
        node = f"spiffe://{server.trust_domain}/node/chaos"
        tokens = [server.cli("token", "generate", "--spiffe-id", node)["token"] for _ in range(2)]
        agent.run(f"127.0.0.1:{server.port}", server.trust_domain, server.bundle_file(), tokens[0])
        with Load(server, node, tokens[1]) as load:
            running.until(lambda: load.entries and load.serials, "the load to get going", log=server.log)
            for number in range(KILLS):
                time.sleep(dice.uniform(0.05, 1.0))
                victim = _kill(dice, server, agent)
                _recovered(running, server, agent, load, f"kill {number + 1} ({victim}, seed {SEED})")
                if number % 50 == 49:
                    print(
                        f"{number + 1} kills, {load.created} entries, {len(load.deleted)} of them deleted, "
                        f"{len(load.serials)} certificates"
                    )
        assert not load.errors
        _verify(server, load)
        server.stop()
        server.run()  # and once more in peace: what lies on the disk is what was promised
        _verify(server, load)
        print(
            f"{len(load.entries)} entries and {len(load.serials)} certificates, all there; "
            f"{len(load.deleted)} deleted entries, all gone"
        )


def _kill(dice: random.Random, server: Any, agent: Any) -> str:
    """Kills one process; says which. A dead supervisor or agent is started again, as an init would."""
    family = server.family()
    victim = dice.choice(["supervisor", "child", "child", "child", "agent"])
    if victim == "supervisor":
        server.kill()
    elif victim == "agent":
        agent.kill()
    else:
        pid = dice.choice(family[1:])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return victim


def _recovered(running: ModuleType, server: Any, agent: Any, load: Load, what: str) -> None:
    """Waits until everything works again, with no other help than starting what an init would start."""
    if not server.is_alive:
        server.run()
    if not agent.is_alive:
        agent.run(f"127.0.0.1:{server.port}", server.trust_domain, server.bundle_file())
    before = load.created, len(load.serials)

    def progress() -> bool:
        assert not load.errors, load.errors
        return load.created > before[0] and len(load.serials) > before[1] + 5

    running.until(progress, f"work to go on after {what}", seconds=90, log=server.log)


def _verify(server: Any, load: Load) -> None:
    """Every acknowledged entry is there and every deleted one gone; every certificate that was received is in
    the ledger."""
    present = {entry["id"] for entry in server.cli("entry", "show")["entries"]}
    lost = load.entries.keys() - present
    assert not lost, f"lost entries: {sorted(lost)[:5]} (seed {SEED})"
    back = load.deleted & present
    assert not back, f"deleted entries that came back: {sorted(back)[:5]} (seed {SEED})"
    ledgered = {
        each.record.serial
        for each in read_journals(server.data / "ledger", on_damage=lambda damage: None)
        if isinstance(each.record, X509Record)
    }
    missing = load.serials - ledgered
    assert not missing, (
        f"certificates that left unledgered: {[hex(each) for each in missing][:5]} (seed {SEED})"
    )
