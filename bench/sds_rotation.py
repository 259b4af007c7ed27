"""From "the entry has changed" to "every Envoy has its new certificate", over many SDS streams.

`python -m bench.sds_rotation [--streams 2000] [--rounds 10]`: a real server and a real agent, and that many
StreamSecrets streams for `default`, each on a connection of its own, attested, as one Envoy each would open
them. In each round the entry gets another DNS name, so that its SVID is signed anew and pushed to all; the
clock runs from before the call until the last stream has it. Told is the slowest round beside five seconds.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import statistics
import time

from envoy.service.discovery.v3 import discovery_pb2

from bench import _agent_lab
from bench.report import Result, command_line, tell
from bench.transport_streams import http2_request
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.runtime.loop import raise_file_limit
from control_plane.runtime.transport import Channel

LIMIT_SECONDS = 5.0
ROUND_SECONDS = 60.0
STREAM = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def receive(poll: selectors.BaseSelector, count: int, began: float) -> float:
    """Seconds until each stream had the end of a certificate's PEM text, and of its key."""
    waiting = {key.fd: b"" for key in poll.get_map().values()}
    assert len(waiting) == count
    while waiting:
        if time.perf_counter() - began > ROUND_SECONDS:
            raise RuntimeError(f"{len(waiting)} of {count} streams got nothing in {ROUND_SECONDS:.0f} s")
        for key, _ in poll.select(1.0):
            stream = key.fileobj
            assert isinstance(stream, socket.socket)
            data = waiting.get(key.fd, b"") + stream.recv(1 << 18)
            if b"-----END PRIVATE KEY-----" in data and b"-----END CERTIFICATE-----" in data:
                waiting.pop(key.fd, None)
            elif key.fd in waiting:
                waiting[key.fd] = data
    return time.perf_counter() - began


async def measure(lab: _agent_lab.Lab, streams: int, rounds: int) -> list[float]:
    """The time of each round."""
    times: list[float] = []
    message = discovery_pb2.DiscoveryRequest(type_url=SECRET, resource_names=["default"])
    request = http2_request(STREAM, message.SerializeToString(), flags=0)
    async with Channel.unix(lab.server_socket) as channel:
        entry = _agent_lab.new_entry("/bench", _agent_lab.uid_selector())
        (entry.id,) = await _agent_lab.create(channel, [entry])
        await asyncio.to_thread(_agent_lab.wait_for_identity, lab.socket, b"/bench")
        with selectors.DefaultSelector() as poll:
            opened = []
            for start in range(0, streams, 250):
                share = [
                    _agent_lab.open_stream(lab.socket, request) for _ in range(min(250, streams - start))
                ]
                await asyncio.to_thread(_agent_lab.wait_for, share, b"-----END PRIVATE KEY-----")
                opened += share
            for stream in opened:
                stream.setblocking(False)
                poll.register(stream, selectors.EVENT_READ)
            for number in range(rounds):
                entry.dns_names[:] = [f"r{number}.bench.test"]
                began = time.perf_counter()
                reading = asyncio.create_task(asyncio.to_thread(receive, poll, streams, began))
                response = await channel.unary(
                    _agent_lab.ENTRY + "BatchUpdateEntry",
                    entry_pb2.BatchUpdateEntryRequest(entries=[entry]),
                    entry_pb2.BatchUpdateEntryResponse,
                    timeout=60,
                )
                assert response.results[0].status.code == 0, response.results[0].status.message
                times.append(await reading)
                await asyncio.sleep(0.5)
        for stream in opened:
            stream.close()
    return times


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    raise_file_limit()
    with _agent_lab.lab() as lab:
        times = asyncio.run(measure(lab, arguments.streams, arguments.rounds))
    print(f"rounds: median {statistics.median(times):.2f} s, slowest {max(times):.2f} s")
    tell(
        Result(
            f"{arguments.streams} SDS streams rotated",
            f"{max(times):.2f} s (the slowest of {arguments.rounds} rounds)",
            f"a limit of {LIMIT_SECONDS:.0f} s",
            max(times) / LIMIT_SECONDS,
            1.0,
        )
    )


if __name__ == "__main__":
    main()
