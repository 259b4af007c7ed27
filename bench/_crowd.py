"""Many agents in one process, who come back to their server at one instant; `reconnect` runs some of these.

`python -m bench._crowd DATA_DIR TRUST_DOMAIN PORT NUMBER COUNT`, with NUMBER different for each that runs at
the same time. It makes its agents, prints `ready`, and waits for a line on its standard input; then all
connect. When each has been served, or patience has ended, it prints what it saw (`Outcome`) as a line of
JSON, and holds all streams open until somebody ends it.

An agent over mutual TLS with its own certificate asks for the bundle, its entries and an X.509-SVID, renews
its own certificate, and opens its push stream with the new one. Who is refused waits as an agent does
(`agent.backoff`) and tries again. A real agent has a processor to itself; what it would do before it connects
is done here before the instant, so that the crowd's own slowness doesn't spread it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import ssl
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent.backoff import SERVER
from bench._members import ENTRIES_EACH, SPARE_JOURNAL, Keys, Member, enrol
from control_plane.core.bundle import Bundle
from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import TrustDomain, server_id
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.types import bundle_pb2 as bundle_types
from control_plane.runtime.loop import run
from control_plane.runtime.tls import TlsClient, TlsIdentity
from control_plane.runtime.transport import Channel

PATIENCE_SECONDS = 1200.0
SPIRE = "/spire.api.server."


@dataclass(slots=True)
class Outcome:
    """What a crowd saw. `waited` has the seconds from the instant until each was served, `refusals` the
    failed attempts by what was said, `cpu_seconds` what playing the agents cost."""

    served: int = 0
    banned: int = 0
    cpu_seconds: float = 0.0
    waited: list[float] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)

    def with_others(self, others: list[Outcome]) -> Outcome:
        """This and what other crowds saw, as one."""
        everyone = [self, *others]
        refusals: Counter[str] = Counter()
        for each in everyone:
            refusals.update(each.refusals)
        return Outcome(
            served=sum(each.served for each in everyone),
            banned=sum(each.banned for each in everyone),
            cpu_seconds=sum(each.cpu_seconds for each in everyone),
            waited=sorted(seconds for each in everyone for seconds in each.waited),
            refusals=dict(refusals),
        )


@dataclass(frozen=True, slots=True)
class PreparedTls(TlsClient):
    """A client whose context is ready."""

    ready: ssl.SSLContext = field(kw_only=True)

    def context(self) -> ssl.SSLContext:
        return self.ready


class Crowd:
    """All agents of this process."""

    def __init__(self, port: int, bundle: Bundle, members: list[Member], keys: Keys) -> None:
        self._port = port
        self._bundle = bundle
        self._keys = keys
        self._agents = [(member, self._tls(member)) for member in members]
        self._all_served = asyncio.Event()
        self.outcome = Outcome()

    async def come_back(self, group: asyncio.TaskGroup) -> Outcome:
        """Has all of them connect now, and returns when each was served or patience ended. Their streams
        are held by tasks of `group`, which don't end."""
        began, before = time.monotonic(), _cpu_seconds()
        for member, tls in self._agents:
            group.create_task(self._agent(member, tls, began))
        with contextlib.suppress(TimeoutError):  # the count of those who were served tells it
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._all_served.wait()
        self.outcome.cpu_seconds = _cpu_seconds() - before
        return self.outcome

    async def _agent(self, member: Member, tls: TlsClient, began: float) -> None:
        """One agent, until it has everything; then it holds its stream. What it has it doesn't ask again."""
        attempt, asked = 0, False
        while True:
            try:
                async with AsyncExitStack() as open_until_the_end:
                    if not asked:
                        member, tls = await self._ask(member, tls)
                        asked = True
                    await self._watch(member, tls, open_until_the_end)
                    self.outcome.served += 1
                    self.outcome.waited.append(time.monotonic() - began)
                    if self.outcome.served == len(self._agents):
                        self._all_served.set()
                    await asyncio.Event().wait()
            except GatehouseError as error:
                attempt += 1
                self._note(error)
                await asyncio.sleep(SERVER.delay(attempt, str(member.id)))

    async def _ask(self, member: Member, tls: TlsClient) -> tuple[Member, TlsClient]:
        """Bundle, entries, an SVID, and a renewal; the agent with its new certificate."""
        csr = self._keys.csr
        async with Channel.tcp("127.0.0.1", self._port, tls) as channel:
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
        member = Member(member.id, TlsIdentity(tuple(renewed.svid.cert_chain), self._keys.pem))
        return member, self._tls(member)

    async def _watch(self, member: Member, tls: TlsClient, opened: AsyncExitStack) -> None:
        """Opens the push stream, which stays open with `opened`, and takes its first message."""
        channel = await opened.enter_async_context(Channel.tcp("127.0.0.1", self._port, tls))
        stream = await opened.enter_async_context(
            channel.server_stream(
                "/gatehouse.node.v1.Node/Watch", node_pb2.WatchRequest(), node_pb2.WatchResponse
            )
        )
        first = await stream.receive()
        if first is None or len(first.upserted) < ENTRIES_EACH:
            raise AssertionError(f"{member.id}: the push stream began with {first}")

    def _tls(self, member: Member) -> TlsClient:
        plain = TlsClient(server_id(self._bundle.trust_domain), lambda: self._bundle, lambda: member.identity)
        return PreparedTls(plain.expect, plain.bundle, plain.svid, ready=plain.context())

    def _note(self, error: GatehouseError) -> None:
        words = error.message.partition(": ")[2][:60] or error.message
        name = f"{error.code.name} {words}"
        self.outcome.refusals[name] = self.outcome.refusals.get(name, 0) + 1
        if "banned" in error.message:
            self.outcome.banned += 1


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _but_for_given_up_handshakes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Thousands give up in the turn of the loop in which uvloop hears that they were refused; each has told
    its agent, as Unavailable, and needs no traceback too."""
    if not isinstance(context.get("exception"), ConnectionResetError):
        loop.default_exception_handler(context)


async def _play(data_dir: Path, trust_domain: TrustDomain, port: int, number: int, count: int) -> None:
    keys = Keys()
    members = await enrol(
        data_dir,
        trust_domain,
        count,
        keys,
        name=f"{number}-",
        journal=SPARE_JOURNAL + number,
        entries=number == 0,
    )
    bundle = Bundle.parse_pem(trust_domain, (data_dir / "bundle.pem").read_text())
    crowd = Crowd(port, bundle, members, keys)
    asyncio.get_running_loop().set_exception_handler(_but_for_given_up_handshakes)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with asyncio.TaskGroup() as group:
        print(json.dumps(asdict(await crowd.come_back(group))), flush=True)


if __name__ == "__main__":
    run(
        _play(
            Path(sys.argv[1]),
            TrustDomain.parse(sys.argv[2]),
            int(sys.argv[3]),
            int(sys.argv[4]),
            int(sys.argv[5]),
        )
    )
