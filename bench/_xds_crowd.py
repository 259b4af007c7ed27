"""Many clients that follow a service's policy over ADS, each on a connection of its own, in one process.

Run as `python -m bench._xds_crowd SOCKET COUNT SERVICE` where SERVICE is a description as JSON. Says `ready`
when all have the policy. For each line on the standard input it answers how many clients were sent something
since the line before, and when the last of them had it, by the monotonic clock. Raw sockets: a client costs
next to nothing.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import threading
import time

from envoy.service.discovery.v3 import discovery_pb2

from agent.envoy.names import EXTENSION, METADATA_KEY, POLICY, QUARANTINE
from bench._agent_lab import open_stream, wait_for
from bench.transport_streams import http2_request
from control_plane.runtime.loop import raise_file_limit

STREAM = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


def request_of(service: object) -> bytes:
    """The beginning of a connection that asks for the policy of a service and nothing else."""
    message = discovery_pb2.DiscoveryRequest(type_url=EXTENSION, resource_names=[POLICY, QUARANTINE])
    message.node.id = "crowd"
    message.node.metadata.update({METADATA_KEY: {"service": service}})
    return http2_request(STREAM, message.SerializeToString(), flags=0)


def main() -> None:
    """The crowd, until its input ends."""
    path, count, service = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    raise_file_limit()
    request = request_of(service)
    poll = selectors.DefaultSelector()
    streams = [open_stream(path, request) for _ in range(count)]
    wait_for(streams, POLICY.encode())
    for stream in streams:
        stream.setblocking(False)
        poll.register(stream, selectors.EVENT_READ)
    told: dict[int, float] = {}
    lock = threading.Lock()

    def receive() -> None:
        while True:
            for key, _ in poll.select():
                assert isinstance(key.fileobj, socket.socket)
                if not key.fileobj.recv(1 << 18):
                    poll.unregister(key.fileobj)
                with lock:
                    told[key.fd] = time.monotonic()

    threading.Thread(target=receive, daemon=True).start()
    print("ready", flush=True)
    for _ in sys.stdin:
        with lock:
            print(json.dumps({"told": len(told), "last": max(told.values(), default=0.0)}), flush=True)
            told.clear()


if __name__ == "__main__":
    main()
