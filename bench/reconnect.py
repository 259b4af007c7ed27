"""10,000 agents come back at once, as after a network split: is everyone served, and what does it weigh?

`python -m bench.reconnect [--agents 10000] [--at-once 500]`: a server as an operator starts it, with its
default rate limits,
in processes of its own. The agents are rows of its registry with certificates of its authority. All come
from one address, which is the worst case for limits (a data centre behind one NAT): each
over mutual TLS with its own certificate asks for the bundle, its entries and an X.509-SVID, renews its own
certificate, and opens its push stream with the new one. All connections stay open until the last agent has
everything. Who is refused waits as an agent does (`agent.backoff`) and tries again. At most `--at-once` of
them are between connecting and being served at any moment: one process plays all agents, and with more its
own slowness would let their time limits run out, where real agents have a processor each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.backoff import SERVER
from bench.report import Result, tell
from control_plane.core.bundle import Bundle
from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError
from control_plane.core.secret import Secret
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, agent_id, server_id
from control_plane.identity.agent_record import AgentRecord
from control_plane.identity.issuance import X509Issue
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types import bundle_pb2 as bundle_types
from control_plane.runtime.loop import raise_file_limit, run
from control_plane.runtime.tls import TlsClient, TlsIdentity
from control_plane.runtime.transport import Channel
from control_plane.settings import load_settings
from control_plane.wiring.process import Parts

LIMIT_MIB = 1024.0
"""What the whole server, all processes, may weigh while 10,000 agents are connected and watch."""
PATIENCE_SECONDS = 1200.0
START_SECONDS = 60.0
TRUST_DOMAIN = TrustDomain("bench.test")
AT_ONCE = 500
ENTRIES_EACH = 3
SPARE_JOURNAL = 900  # an index that no process of the server has
SPIRE = "/spire.api.server."


@dataclass(frozen=True, slots=True)
class Member:
    """One agent of the crowd: its ID, and the certificate that it had before the split."""

    id: SpiffeId
    identity: TlsIdentity


@dataclass(slots=True)
class Outcome:
    """What the crowd saw. `refusals` counts failed attempts by what was said."""

    seconds: float = 0.0
    served: int = 0
    banned: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    last: list[float] = field(default_factory=list)


class Keys:
    """One key pair for the whole crowd: what is measured is the server, not how the agents make keys."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        self.csr = empty.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        self.pem = Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


async def enrol(
    data_dir: Path, trust_domain: TrustDomain, count: int, keys: Keys, *, name: str = ""
) -> list[Member]:
    """Puts agents and what they may issue into a running server's registry, through its ports."""
    flags = {"data_dir": str(data_dir), "trust_domain": trust_domain.name, "bind": "127.0.0.1:0"}
    parts = Parts(load_settings(file=None, environment={}, flags=flags), SPARE_JOURNAL)
    await parts.open()
    try:
        group = frozenset({Selector("crowd", "member")})
        node = SpiffeId.of(trust_domain, "crowd")
        entries = [Entry(id="", spiffe_id=node, parent_id=server_id(trust_domain), selectors=group)]
        entries += [
            Entry(
                id="",
                spiffe_id=SpiffeId.of(trust_domain, "workload", str(number)),
                parent_id=node,
                selectors=frozenset({Selector("unix", f"uid:{number}")}),
            )
            for number in range(ENTRIES_EACH)
        ]
        await parts.store.create_entries([entry.check(trust_domain) for entry in entries], parts.clock.unix())
        members: list[Member] = []
        for start in range(0, count, 500):
            ids = [
                agent_id(trust_domain, "join_token", f"{name}{number}")
                for number in range(start, min(start + 500, count))
            ]
            issued = await parts.issuer.issue_x509([X509Issue(spiffe_id=one, csr=keys.csr) for one in ids])
            records = []
            for svid in issued:
                if isinstance(svid, GatehouseError):
                    raise svid
                members.append(Member(svid.spiffe_id, TlsIdentity(svid.chain, keys.pem)))
                records.append(
                    AgentRecord(
                        id=svid.spiffe_id,
                        attestation_type="join_token",
                        selectors=group,
                        serial=svid.serial,
                        expires_at=svid.not_after,
                        attested_at=parts.clock.unix(),
                    )
                )
            await asyncio.gather(*(parts.store.record_attestation(record) for record in records))
        return members
    finally:
        await parts.close()


class Crowd:
    """All agents, in this process."""

    def __init__(
        self, port: int, bundle: Bundle, members: list[Member], keys: Keys, at_once: int = AT_ONCE
    ) -> None:
        self._port = port
        self._bundle = bundle
        self._members = members
        self._keys = keys
        self._trust_domain = bundle.trust_domain
        self._all_served = asyncio.Event()
        self._turns = asyncio.Semaphore(at_once)
        self.outcome = Outcome()

    async def come_back(self) -> Outcome:
        """Has all of them connect now; ends when each was served, or patience does."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                for member in self._members:
                    group.create_task(self._agent(member, began))
        except TimeoutError:
            pass  # the count of those who were served tells it
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _agent(self, member: Member, began: float) -> None:
        """One agent, until it has everything; then it holds its stream until all do."""
        held, attempt = member, 0
        while True:
            try:
                async with AsyncExitStack() as open_until_all_are:
                    async with self._turns:
                        held = await self._ask(held)
                        await self._watch(held, open_until_all_are)
                    self.outcome.served += 1
                    self.outcome.last.append(time.monotonic() - began)
                    if self.outcome.served == len(self._members):
                        self._all_served.set()
                    await self._all_served.wait()
                    return
            except GatehouseError as error:
                attempt += 1
                self._note(error)
                await asyncio.sleep(SERVER.delay(attempt, str(member.id)))

    async def _ask(self, held: Member) -> Member:
        """Bundle, entries, an SVID, and a renewal; the agent with its new certificate."""
        csr = self._keys.csr
        async with self._channel(held) as channel:
            await channel.unary(
                SPIRE + "bundle.v1.Bundle/GetBundle", bundle_pb2.GetBundleRequest(), bundle_types.Bundle
            )
            authorised = await channel.unary(
                SPIRE + "entry.v1.Entry/GetAuthorizedEntries",
                entry_pb2.GetAuthorizedEntriesRequest(),
                entry_pb2.GetAuthorizedEntriesResponse,
            )
            wanted = [svid_pb2.NewX509SVIDParams(entry_id=authorised.entries[0].id, csr=csr)]
            reply = await channel.unary(
                SPIRE + "svid.v1.SVID/BatchNewX509SVID",
                svid_pb2.BatchNewX509SVIDRequest(params=wanted),
                svid_pb2.BatchNewX509SVIDResponse,
            )
            if reply.results[0].status.code:
                raise AssertionError(reply.results[0].status.message)
            renewed = await channel.unary(
                SPIRE + "agent.v1.Agent/RenewAgent",
                agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=csr)),
                agent_pb2.RenewAgentResponse,
            )
        return Member(held.id, TlsIdentity(tuple(renewed.svid.cert_chain), self._keys.pem))

    async def _watch(self, held: Member, opened: AsyncExitStack) -> None:
        """Opens the push stream, which stays open with `opened`, and takes its first message."""
        channel = await opened.enter_async_context(self._channel(held))
        stream = await opened.enter_async_context(
            channel.server_stream(
                "/gatehouse.node.v1.Node/Watch", node_pb2.WatchRequest(), node_pb2.WatchResponse
            )
        )
        first = await stream.receive()
        if first is None or len(first.upserted) < ENTRIES_EACH:
            raise AssertionError(f"{held.id}: the push stream began with {first}")

    def _channel(self, held: Member) -> Channel:
        client = TlsClient(server_id(self._trust_domain), lambda: self._bundle, lambda: held.identity)
        return Channel.tcp("127.0.0.1", self._port, client)

    def _note(self, error: GatehouseError) -> None:
        words = error.message.partition(": ")[2][:60] or error.message
        self.outcome.refusals[f"{error.code.name} {words}"] += 1
        if "banned" in error.message:
            self.outcome.banned += 1


class Scales:
    """The greatest weight of the server's processes together, looked at four times a second."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self.before_mib = self._now()
        self.peak_mib = self.before_mib
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks a last time."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            self.peak_mib = max(self.peak_mib, self._now())

    def _now(self) -> float:
        pages = 0
        for pid in self._pids:
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue  # ended; the one that replaced it is found by whoever asks why agents weren't served
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


async def measure(
    data_dir: Path, port: int, pid: int, trust_domain: TrustDomain, count: int, at_once: int = AT_ONCE
) -> tuple[Outcome, Scales]:
    """Enrols a crowd at a running server and lets it come back."""
    keys = Keys()
    members = await enrol(data_dir, trust_domain, count, keys)
    bundle = Bundle.parse_pem(trust_domain, (data_dir / "bundle.pem").read_text())
    await asyncio.sleep(1)  # the issuers take in what was written
    scales = Scales(family(pid))
    try:
        return await Crowd(port, bundle, members, keys, at_once).come_back(), scales
    finally:
        scales.stop()


@contextlib.contextmanager
def server_in(folder: Path) -> Iterator[tuple[Path, int]]:
    """A server of its own, with its defaults: its data directory and process."""
    data = folder / "server"
    flags = ["--data-dir", str(data), "--trust-domain", TRUST_DOMAIN.name, "--bind", "127.0.0.1:0"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "control_plane", "server", "run", *flags], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ((data / "server.json").exists() and (data / "bundle.pem").exists()):
            if process.poll() is not None or time.monotonic() > deadline:
                told = (folder / "server.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the server doesn't serve:\n{told}")
            time.sleep(0.1)
        yield data, process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Runs it all and tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    arguments = parser.parse_args()
    count = arguments.agents
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="gh") as folder, server_in(Path(folder)) as (data, pid):
        address = json.loads((data / "server.json").read_text())["address"]
        port = int(address.rpartition(":")[2])
        outcome, scales = run(measure(data, port, pid, TRUST_DOMAIN, count, arguments.at_once))
    for words, times in outcome.refusals.most_common(8):
        print(f"  {times} attempts ended with: {words}")
    print(
        f"  {outcome.seconds:.1f} s until all were served, {outcome.banned} banned, server "
        f"{scales.before_mib:.0f} MiB before, {scales.peak_mib:.0f} MiB at its peak"
    )
    tell(
        Result(
            name=f"{count} agents reconnect at once: served, in {outcome.seconds:.0f} s",
            value=f"{outcome.served} agents",
            peer=f"all {count}",
            ratio=outcome.served / count,
            goal=1.0,
            more_is_better=True,
        )
    )
    tell(
        Result(
            name=f"memory of the server, all processes, with {count} agents watching",
            value=f"{scales.peak_mib:.0f} MiB",
            peer=f"a limit of {LIMIT_MIB:.0f} MiB",
            ratio=scales.peak_mib / LIMIT_MIB,
            goal=1.0,
        )
    )


if __name__ == "__main__":
    main()
