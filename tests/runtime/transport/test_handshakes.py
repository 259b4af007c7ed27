"""Many who connect at once: handshakes one after the other, and no waiting for who is silent or slow."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any

from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.entry_pb2 import Entry
from control_plane.runtime.tls import TlsClient
from control_plane.runtime.transport import Channel, Limits, Server
from control_plane.runtime.transport.turnstile import STARTS_PER_TURN, Turnstile

Run = Callable[[Coroutine[Any, Any, Any]], Any]
GET = entry_pb2.DESCRIPTOR.services_by_name["Entry"].methods_by_name["GetEntry"]
AGENT = "spiffe://example.org/spire/agent/join_token/a"
CROWD = 240
# So that no limit of time ends what is looked at, however busy the machine is.
QUIET = Limits(handshake_timeout_seconds=50.0, handshake_wait_seconds=50.0)


class Visitor:
    """A TLS client by hand: its first flight is sent before the server has a chance to look."""

    def __init__(self, port: int, tls: TlsClient, host: str = "127.0.0.1") -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.context().wrap_bio(self._incoming, self._outgoing)
        self.socket = socket.socket()
        self.socket.bind((host, 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._step()
        self.hello = self._outgoing.read()
        self.answered = False
        self.served = False

    def _step(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def finish(self) -> None:
        """Does its part at once, until the server's first frame says that it is through."""
        loop = asyncio.get_running_loop()
        while True:
            received = await loop.sock_recv(self.socket, 65536)
            assert received, "the server closed the connection"
            self.answered = True
            self._incoming.write(received)
            if not self._step():
                continue
            await loop.sock_sendall(self.socket, self._outgoing.read())
            try:
                self.served = bool(self._tls.read(1))
                return
            except ssl.SSLWantReadError:
                continue


async def reached(port: int, tls: TlsClient) -> Entry:
    async with Channel.tcp("127.0.0.1", port, tls) as channel:
        return await channel.unary(GET, entry_pb2.GetEntryRequest(id="a"), Entry, timeout=15)


async def connections(server: Server, count: int) -> None:
    """Returns when the server counts so many connections."""
    async with asyncio.timeout(20):
        while server.connections != count:  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.01)


def test_a_crowd_is_let_in_one_after_the_other_and_not_all_halfway(
    run: Run, services: Any, authority: Any
) -> None:
    """If all handshakes went on together, each would take as long as all of them."""
    tls = authority.client(AGENT)

    async def main() -> None:
        server = Server(services, limits=QUIET)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        crowd = [Visitor(port, tls) for _ in range(CROWD)]
        for visitor in crowd:
            visitor.socket.sendall(visitor.hello)
        arrivals = [asyncio.ensure_future(visitor.finish()) for visitor in crowd]
        most = 0
        while not all(visitor.served for visitor in crowd):
            halfway = sum(visitor.answered and not visitor.served for visitor in crowd)
            most = max(most, halfway)
            await asyncio.sleep(0)
        await asyncio.gather(*arrivals)
        assert most <= 6 * STARTS_PER_TURN, f"{most} of {CROWD} were halfway at one moment"
        for visitor in crowd:
            visitor.socket.close()
        await server.close(0.1)

    run(main())


def test_who_is_silent_or_stalls_keeps_nobody_waiting(run: Run, services: Any, authority: Any) -> None:
    """From the same address even: nobody holds a place that another needs."""
    tls = authority.client(AGENT)

    async def main() -> None:
        server = Server(services, limits=QUIET)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        stalling = [Visitor(port, tls) for _ in range(CROWD)]
        for number, visitor in enumerate(stalling):
            # A third says nothing, a third a single byte, a third all of its hello and nothing after it.
            visitor.socket.sendall(visitor.hello[: (0, 1, None)[number % 3]])
        async with asyncio.timeout(30):
            for _ in range(5):
                await reached(port, tls)
        assert server.connections >= CROWD
        for visitor in stalling:
            visitor.socket.close()
        await server.close(0.1)

    run(main())


def test_a_stalled_handshake_ends_at_its_own_limit(run: Run, services: Any, authority: Any) -> None:
    tls = authority.client(AGENT)

    async def main() -> None:
        server = Server(services, limits=Limits(handshake_timeout_seconds=0.5))
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        stalling = [Visitor(port, tls) for _ in range(30)]
        for number, visitor in enumerate(stalling):
            visitor.socket.sendall(visitor.hello[: (1, None)[number % 2]])
        await connections(server, len(stalling))
        await connections(server, 0)
        assert (await reached(port, tls)).id == "a"
        for visitor in stalling:
            visitor.socket.close()
        await server.close(0.1)

    run(main())


def test_whoever_hangs_up_before_a_byte_is_forgotten(run: Run, services: Any, authority: Any) -> None:
    """As the checks of a load balancer do, all day long."""

    async def main() -> None:
        server = Server(services, limits=QUIET)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        for _ in range(20):
            socket.create_connection(("127.0.0.1", port)).close()
        assert (await reached(port, authority.client(AGENT))).id == "a"
        await connections(server, 0)
        await server.close(0.1)

    run(main())


def test_a_server_that_closes_lets_those_go_who_wait(run: Run, services: Any, authority: Any) -> None:
    async def main() -> None:
        server = Server(services, limits=QUIET)
        port = await server.listen_tcp("127.0.0.1", 0, authority.server_source())
        silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
        await connections(server, len(silent))
        await server.close(0.1)
        for each in silent:
            assert await asyncio.to_thread(each.recv, 1) == b""
            each.close()
        assert server.connections == 0

    run(main())


def test_a_flood_from_one_address_makes_others_wait_for_one_turn(run: Run) -> None:
    async def main() -> None:
        turnstile, order = Turnstile(wait_seconds=30), []

        async def pass_from(source: str) -> None:
            await turnstile.turn(source)
            order.append(source)

        flood = [asyncio.ensure_future(pass_from("flood")) for _ in range(1000)]
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(pass_from(f"other-{number}")) for number in range(3)]
        await asyncio.gather(*flood, *others)
        assert max(order.index(f"other-{number}") for number in range(3)) < 5 * STARTS_PER_TURN
        assert len(order) == 1003

    run(main())


def test_a_turn_that_does_not_come_in_time_is_refused(run: Run) -> None:
    """A turn of the loop that takes long is one in which the server has much to do."""

    async def main() -> None:
        turnstile = Turnstile(wait_seconds=0.2)

        async def begin() -> None:
            await turnstile.turn("here")
            time.sleep(0.02)  # noqa: ASYNC251 -- stands for the work of a handshake

        ends = await asyncio.gather(*(begin() for _ in range(100)), return_exceptions=True)
        late = [end for end in ends if isinstance(end, TimeoutError)]
        assert 0 < len(late) < 100 and set(map(type, ends)) == {TimeoutError, type(None)}
        await turnstile.turn("here")  # what is over leaves nothing behind

    run(main())
