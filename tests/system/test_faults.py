"""Faults from the outside, at real processes: a full disk, damaged files, silent and cut-off peers, crashes.

Each test does to a running server or agent what machines and people do, and then looks at what outsiders
were promised: nothing acknowledged is lost, nothing leaves unrecorded, others are still served, and whoever
reads the log learns what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import empty_pb2
from small_disk import fill

from bench._members import Keys, Member, enrol
from control_plane.core.bundle import Bundle
from control_plane.core.errors import GatehouseError, PermissionDenied
from control_plane.core.spiffe_id import SpiffeId, TrustDomain, server_id
from control_plane.core.svid import X509Svid
from control_plane.identity.journal_reader import read_journals
from control_plane.identity.ledger import X509Record
from control_plane.proto import convert
from control_plane.proto import workloadapi_pb2 as workload
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.runtime.tls import TlsClient
from control_plane.runtime.transport import Channel

pytestmark = pytest.mark.timeout(240)
UID = f"unix:uid:{os.getuid()}"
BAN = "/spire.api.server.agent.v1.Agent/BanAgent"
ENTRY, SVID = "/spire.api.server.entry.v1.Entry/", "/spire.api.server.svid.v1.SVID/"
WATCH = "/gatehouse.node.v1.Node/Watch"
HEADER = (("workload.spiffe.io", "true"),)
SOON_SECONDS = 1.0  # without the time for which the machine had other things to do
SILENT = 1000


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, within two minutes."""

    async def bounded() -> Any:
        async with asyncio.timeout(120):
            return await work

    return asyncio.run(bounded())


@contextlib.contextmanager
def serving(running: ModuleType, folder: Path) -> Iterator[Any]:
    """A server with one issuer."""
    server = running.GatehouseServer(folder, extra=("--issuers", "1"))
    with running.stopping(server):
        yield server.run()


def member(server: Any) -> tuple[Member, Keys, Bundle]:
    """An agent that has attested before, and what it trusts."""
    keys = Keys()
    trust_domain = TrustDomain(server.trust_domain)
    [one] = run(enrol(server.data, trust_domain, 1, keys, name=os.urandom(4).hex()))
    return one, keys, Bundle.parse_pem(trust_domain, server.bundle_file().read_text())


def channel_of(server: Any, who: Member, bundle: Bundle) -> Channel:
    """The agent's connection."""
    client = TlsClient(server_id(bundle.trust_domain), lambda: bundle, lambda: who.identity)
    return Channel.tcp("127.0.0.1", server.port, client)


async def take_svid(channel: Channel, keys: Keys) -> int:
    """One X.509-SVID by entry; its serial number."""
    authorised = await channel.unary(
        ENTRY + "GetAuthorizedEntries",
        entry_pb2.GetAuthorizedEntriesRequest(),
        entry_pb2.GetAuthorizedEntriesResponse,
        timeout=20,
    )
    wanted = [svid_pb2.NewX509SVIDParams(entry_id=authorised.entries[0].id, csr=keys.csr)]
    reply = await channel.unary(
        SVID + "BatchNewX509SVID",
        svid_pb2.BatchNewX509SVIDRequest(params=wanted),
        svid_pb2.BatchNewX509SVIDResponse,
        timeout=20,
    )
    assert reply.results[0].status.code == 0, reply.results[0].status.message
    return X509Svid.from_chain(list(reply.results[0].svid.cert_chain)).serial


def entry_ids(server: Any) -> set[str]:
    """All entries that the server has."""
    return {entry["id"] for entry in server.cli("entry", "show")["entries"]}


def test_a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_space(
    running: ModuleType, small_disk: Path
) -> None:
    with serving(running, small_disk) as server:
        who, keys, bundle = member(server)
        kept = {server.register("before", f"spiffe://{server.trust_domain}/node", UID)}
        serials: set[int] = set()

        async def ask(count: int) -> list[GatehouseError]:
            refused: list[GatehouseError] = []
            async with channel_of(server, who, bundle) as channel:
                for _ in range(count):
                    try:
                        serials.add(await take_svid(channel, keys))
                    except GatehouseError as error:
                        refused.append(error)
                    if len(refused) == 5:
                        break
            return refused

        assert run(ask(3)) == []
        bundle_file = server.folder / "bundle.pem"
        bundle_file.unlink()
        ballast = fill(small_disk)
        refused = run(ask(600))  # the journal has made room for some of them before
        assert refused, "the disk is full and everything was recorded"
        assert all("No space left" in str(error) and "free space" in str(error) for error in refused), refused
        said = []
        for number in range(3):
            parent = f"spiffe://{server.trust_domain}/node"
            identity = f"spiffe://{server.trust_domain}/full-{number}"
            command = [running.BIN / "gatehouse", "entry", "create", "--spiffe-id", identity]
            command += [
                "--parent-id",
                parent,
                "--selector",
                UID,
                "--data-dir",
                server.data,
                "--output",
                "json",
            ]
            finished = subprocess.run(
                [str(part) for part in command], capture_output=True, text=True, timeout=60
            )
            if finished.returncode == 0:
                kept |= {each["entry"]["id"] for each in running.json.loads(finished.stdout)["results"]}
            else:
                said.append(finished.stdout + finished.stderr)
        assert said, "the disk is full and every entry was recorded"
        assert all("disk is full" in words for words in said), said

        ballast.unlink()

        def recovered() -> bool:
            return not run(ask(1))

        running.until(recovered, "issuing to go on without a restart", log=server.log)
        kept.add(server.register("after", f"spiffe://{server.trust_domain}/node", UID))
        assert kept <= entry_ids(server)
        server.kill()
        server.run()
        assert kept <= entry_ids(server)
        ledger = read_journals(server.data / "ledger", on_damage=lambda damage: pytest.fail(str(damage)))
        ledgered = {each.record.serial for each in ledger if isinstance(each.record, X509Record)}
        assert serials <= ledgered


def test_an_unusable_database_is_refused_by_name_and_left_as_it_is(
    running: ModuleType, short_dir: Path
) -> None:
    with serving(running, short_dir) as server:
        server.register("web", f"spiffe://{server.trust_domain}/node", UID)
    database = server.data / "registry.db"
    whole = database.read_bytes()
    flags = ["--data-dir", server.data, "--trust-domain", server.trust_domain, "--bind", "127.0.0.1:0"]
    command = [str(part) for part in (running.BIN / "gatehouse", "server", "run", *flags)]
    for broken, advice in (
        (b"\x5a" * len(whole), "restore it from a backup"),
        (whole[: len(whole) // 2], "restore it from a backup"),
        (None, "check owner"),
    ):
        for suffix in ("", "-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        if broken is None:
            database.mkdir()
        else:
            database.write_bytes(broken)
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
        said = finished.stdout + finished.stderr
        assert finished.returncode in (1, 4), said
        assert "registry.db" in said and advice in said and "Traceback" not in said, said
        assert broken is None or database.read_bytes() == broken


def test_a_damaged_ledger_is_told_and_kept(running: ModuleType, short_dir: Path) -> None:
    with serving(running, short_dir) as server:
        who, keys, bundle = member(server)

        async def some() -> None:
            async with channel_of(server, who, bundle) as channel:
                for _ in range(3):
                    await take_svid(channel, keys)

        run(some())
    [segment] = sorted((server.data / "ledger").glob("issuer-1-*.journal"))
    damaged = bytearray(segment.read_bytes())
    damaged[100] ^= 0xFF
    segment.write_bytes(damaged)
    server.run()
    with running.stopping(server):
        run(some())  # it issues, into what lies behind the damage
        told = server.log.read_text()
        assert "ledger_damaged" in told and segment.name in told
        assert segment.read_bytes()[: len(damaged)] == damaged


def silent(target: Any, count: int, family: socket.AddressFamily) -> list[socket.socket]:
    """Connections that never send a byte."""
    opened = []
    for _ in range(count):
        each = socket.socket(family)
        each.settimeout(30)
        each.connect(target)
        opened.append(each)
    return opened


def test_silence_keeps_nobody_from_being_served_and_a_ban_reaches_the_workloads(
    running: ModuleType, short_dir: Path
) -> None:
    with serving(running, short_dir) as server:
        agent = running.GatehouseAgent(short_dir)
        with running.stopping(agent):
            agent.run(
                f"127.0.0.1:{server.port}", server.trust_domain, server.bundle_file(), node_token(server)
            )
            server.register("web", f"spiffe://{server.trust_domain}/node", UID)
            who, keys, bundle = member(server)
            before = server.resident_mib() + agent.resident_mib()
            held = silent(("127.0.0.1", server.port), SILENT, socket.AF_INET)
            held += silent(str(agent.data / "agent.sock"), SILENT, socket.AF_UNIX)

            async def both() -> None:
                async with channel_of(server, who, bundle) as channel:
                    await take_svid(channel, keys)
                async with workload_stream(agent) as (_, first):
                    assert first.svids

            running.until(lambda: has_identity(agent), "the workload's identity")
            run(both())
            grown = server.resident_mib() + agent.resident_mib() - before
            assert grown < 2 * SILENT * 0.1, f"{grown:.0f} MiB for {2 * SILENT} silent connections"
            for each in held:
                each.close()
            joined = [each["spiffe_id"] for each in server.cli("agent", "list")["agents"]]
            joined.remove(str(who.id))

            ban = agent_pb2.BanAgentRequest(id=convert.spiffe_id_to_message(SpiffeId.parse(joined[0])))

            def held_up() -> float:
                pids = [os.getpid(), *server.family(), *agent.family()]
                return float(sum(running.held_up_seconds(pid) for pid in pids))

            async def banned() -> float:
                async with workload_stream(agent) as (call, _), Channel.unix(server.socket) as admin:
                    began = time.monotonic() - held_up()
                    await admin.unary(BAN, ban, empty_pb2.Empty)
                    with pytest.raises(PermissionDenied):
                        async with asyncio.timeout(30):
                            while await call.receive() is not None:
                                pass
                    return time.monotonic() - held_up() - began

            assert run(banned()) < SOON_SECONDS


def node_token(server: Any) -> str:
    """A join token of the node that the tests register below."""
    return str(
        server.cli("token", "generate", "--spiffe-id", f"spiffe://{server.trust_domain}/node")["token"]
    )


@contextlib.asynccontextmanager
async def workload_stream(agent: Any) -> Any:
    """An open FetchX509SVID and its first message."""
    async with (
        Channel.unix(agent.data / "agent.sock") as channel,
        channel.server_stream(
            "/SpiffeWorkloadAPI/FetchX509SVID",
            workload.X509SVIDRequest(),
            workload.X509SVIDResponse,
            metadata=HEADER,
        ) as call,
    ):
        async with asyncio.timeout(20):
            first = await call.receive()
        assert first is not None
        yield call, first


def has_identity(agent: Any) -> bool:
    """Whether this process gets an identity."""

    async def ask() -> bool:
        try:
            async with workload_stream(agent) as (_, first):
                return bool(first.svids)
        except GatehouseError:
            return False

    return bool(run(ask()))


def test_an_agent_serves_from_its_cache_while_the_server_is_away(
    running: ModuleType, short_dir: Path
) -> None:
    server = running.GatehouseServer(short_dir, extra=("--issuers", "1"))
    agent = running.GatehouseAgent(short_dir)
    with running.stopping(server, agent):
        server.run()
        bundle = server.bundle_file()
        agent.run(f"127.0.0.1:{server.port}", server.trust_domain, bundle, node_token(server))
        server.register("web", f"spiffe://{server.trust_domain}/node", UID)
        running.until(lambda: has_identity(agent), "the workload's identity", log=agent.log)
        cache = agent.data / "agent-workloads.cache"
        running.until(cache.exists, "the cache to be written")
        time.sleep(3)  # what changed settles for two seconds before it is written
        server.kill()
        agent.kill()
        agent.run(f"127.0.0.1:{server.port}", server.trust_domain, bundle)
        assert has_identity(agent)
        server.run()
        server.register("later", f"spiffe://{server.trust_domain}/node", UID)

        async def both() -> bool:
            async with workload_stream(agent) as (_, first):
                return len(first.svids) == 2

        running.until(lambda: run(both()), "the agent to hear from the server again", log=agent.log)


def test_killed_children_come_back_and_a_killed_supervisor_leaves_no_orphans(
    running: ModuleType, short_dir: Path
) -> None:
    with serving(running, short_dir) as server:
        who, keys, bundle = member(server)

        async def one() -> int:
            async with channel_of(server, who, bundle) as channel:
                return await take_svid(channel, keys)

        def served() -> bool:
            with contextlib.suppress(GatehouseError):
                return bool(run(one()))
            return False

        for name in ("management", "issuer"):
            os.kill(child(server, name), signal.SIGKILL)
            if name == "management":
                assert served(), "an issuer needs no management process"
            running.until(served, f"service after the {name} process was killed", log=server.log)
        running.until(
            lambda: server.cli("agent", "list", check=False) is not None, "the admin socket", log=server.log
        )
        children = server.family()[1:]
        assert len(children) == 2
        stuck = child(server, "issuer")
        os.kill(stuck, signal.SIGSTOP)
        server.kill()
        others = [pid for pid in children if pid != stuck]
        running.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "orphans to end")
        before = server.log.stat().st_size
        server.launch()
        waiting = "waiting_for_former_processes"
        running.until(lambda: waiting in server.log.read_text()[before:], waiting, log=server.log)
        os.kill(stuck, signal.SIGCONT)
        server.await_healthy()
        assert not Path(f"/proc/{stuck}").exists()
        assert "process_failed" not in server.log.read_text()[before:], "the journal was free at once"
        assert served()
        run(stopped_beside_a_stream(server, channel_of(server, who, bundle)))
        told = running.lines(server.log.read_text())[-2:]
        assert [line["event"] for line in told] == ["server_stopping", "server_stopped"]
        assert (told[1]["reason"], told[1]["clean"]) == ("SIGTERM", True)


async def stopped_beside_a_stream(server: Any, channel: Channel) -> None:
    """Stops the server while an agent's stream is open, which is ended and not waited for."""
    async with (
        channel,
        channel.server_stream(WATCH, node_pb2.WatchRequest(), node_pb2.WatchResponse) as watch,
    ):
        assert (await watch.receive()).full
        os.kill(server.pid, signal.SIGTERM)
        while await watch.receive() is not None:
            pass
        assert await asyncio.to_thread(server.wait) == 0


def child(server: Any, name: str) -> int:
    """The process of a name."""
    for pid in server.family()[1:]:
        if name in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
            return int(pid)
    raise AssertionError(f"no process {name} in {server.family()}")
