"""From "entry created" to "SVID in the workload's hands", with many entries and many open streams.

`python -m bench.agent_propagation [--entries 10000] [--streams 1000] [--rounds 40]`: a real server and a real
agent. In each round an entry is registered that all streams match; the clock runs from before the call until
each stream has read the message with the new identity. So a round is one signature and `--streams` messages.
Told is the 99th percentile over all streams and rounds, beside one second and beside SPIRE's mean of 4.8 s
(spire-server and spire-agent 1.15.3 on two cores like these).
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import statistics
import time

from bench import _agent_lab
from bench.report import Result, command_line, tell
from control_plane.runtime.loop import raise_file_limit
from control_plane.runtime.transport import Channel

LIMIT_SECONDS = 1.0
SPIRE_MEAN_SECONDS = 4.8
ROUND_SECONDS = 30.0


def receive(poll: selectors.BaseSelector, count: int, text: bytes, began: float) -> list[float]:
    """Seconds until each stream had the text."""
    times: list[float] = []
    seen: set[int] = set()
    tails: dict[int, bytes] = {}
    while len(times) < count:
        if time.perf_counter() - began > ROUND_SECONDS:
            raise RuntimeError(f"only {len(times)} of {count} streams heard of it in {ROUND_SECONDS:.0f} s")
        for key, _ in poll.select(1.0):
            stream = key.fileobj
            assert isinstance(stream, socket.socket)
            data = tails.get(key.fd, b"") + stream.recv(1 << 18)
            tails[key.fd] = data[-len(text) :]
            if key.fd not in seen and text in data:
                seen.add(key.fd)
                times.append(time.perf_counter() - began)
    return times


async def measure(
    lab: _agent_lab.Lab, entries: int, streams: int, rounds: int
) -> tuple[list[float], list[float]]:
    """All times, and those of the first stream of each round."""
    everything: list[float] = []
    first: list[float] = []
    async with Channel.unix(lab.server_socket) as channel:
        others = (
            _agent_lab.new_entry(f"/other/{number}", f"unix:uid:{90_000 + number}")
            for number in range(entries)
        )
        await _agent_lab.create(channel, others)
        await _agent_lab.create(channel, [_agent_lab.new_entry("/bench", _agent_lab.uid_selector())])
        await asyncio.to_thread(_agent_lab.wait_for_identity, lab.socket, b"/bench")
        opened = [_agent_lab.open_stream(lab.socket) for _ in range(streams)]
        await asyncio.to_thread(_agent_lab.wait_for, opened, b"/bench")
        await asyncio.sleep(5)  # the agent prefetches; that is not what is measured
        with selectors.DefaultSelector() as poll:
            for stream in opened:
                stream.setblocking(False)
                poll.register(stream, selectors.EVENT_READ)
            for number in range(rounds):
                path = f"/round/{number:04}/x"
                began = time.perf_counter()
                reading = asyncio.create_task(asyncio.to_thread(receive, poll, streams, path.encode(), began))
                ids = await _agent_lab.create(
                    channel, [_agent_lab.new_entry(path, _agent_lab.uid_selector())]
                )
                times = await reading
                everything += times
                first.append(min(times))
                await _agent_lab.delete(channel, ids)
                await asyncio.sleep(0.5)
        for stream in opened:
            stream.close()
    return everything, first


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    raise_file_limit()
    with _agent_lab.lab() as lab:
        everything, first = asyncio.run(measure(lab, arguments.entries, arguments.streams, arguments.rounds))
    everything.sort()
    p99 = everything[int(len(everything) * 0.99)]
    mean = statistics.fmean(everything)
    what = f"{arguments.entries} entries, {arguments.streams} streams, {len(everything)} deliveries"
    print(
        f"first stream: median {statistics.median(first) * 1000:.0f} ms; all streams: median "
        f"{statistics.median(everything) * 1000:.0f} ms, mean {mean * 1000:.0f} ms, "
        f"slowest {everything[-1] * 1000:.0f} ms"
    )
    tell(
        Result(
            "entry created to SVID delivered, p99",
            f"{p99:.3f} s ({what})",
            f"a limit of {LIMIT_SECONDS:.0f} s",
            p99 / LIMIT_SECONDS,
            1.0,
        )
    )
    tell(
        Result(
            "entry created to SVID delivered, mean",
            f"{mean:.3f} s",
            f"SPIRE 1.15.3: {SPIRE_MEAN_SECONDS} s",
            mean / SPIRE_MEAN_SECONDS,
            0.25,
        )
    )


if __name__ == "__main__":
    main()
