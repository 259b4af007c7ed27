"""What the agent weighs at rest, and what each idle Workload API stream adds to it.

`python -m bench.agent_streams [--streams 5000]`: a real server and a real agent with ten entries. The agent's
resident memory at rest is held to 60 MiB; then that many FetchX509SVID streams are opened, each on a
connection of its own and attested, and the growth per stream is held to 40 KiB.
"""

from __future__ import annotations

import asyncio
import time

from bench import _agent_lab
from bench.report import Result, command_line, tell
from control_plane.runtime.loop import raise_file_limit
from control_plane.runtime.transport import Channel

STREAM_LIMIT_KIB = 40.0
REST_LIMIT_MIB = 60.0


async def register(path: str) -> None:
    """Ten entries; the streams' process matches one."""
    async with Channel.unix(path) as channel:
        entries = [
            _agent_lab.new_entry(f"/other/{number}", f"unix:uid:{90_000 + number}") for number in range(9)
        ]
        await _agent_lab.create(
            channel, [*entries, _agent_lab.new_entry("/bench", _agent_lab.uid_selector())]
        )


def main() -> None:
    """Measures and tells."""
    parser = command_line(__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    count = parser.parse_args().streams
    raise_file_limit()
    with _agent_lab.lab() as lab:
        asyncio.run(register(lab.server_socket))
        _agent_lab.wait_for_identity(lab.socket, b"/bench")
        warm = [_agent_lab.open_stream(lab.socket) for _ in range(20)]
        _agent_lab.wait_for(warm, b"/bench")
        time.sleep(3)
        rest = lab.agent_memory_kib()
        began = time.perf_counter()
        streams = []
        for start in range(0, count, 500):
            share = [_agent_lab.open_stream(lab.socket) for _ in range(min(500, count - start))]
            _agent_lab.wait_for(share, b"/bench")
            streams += share
        seconds = time.perf_counter() - began
        time.sleep(2)
        kib = (lab.agent_memory_kib() - rest) / count
        for each in (*warm, *streams):
            each.close()
    tell(
        Result(
            "agent at rest",
            f"{rest / 1024:.1f} MiB",
            f"a limit of {REST_LIMIT_MIB:.0f} MiB (spire-agent 1.15.3: 57 to 60)",
            rest / 1024 / REST_LIMIT_MIB,
            1.0,
        )
    )
    tell(
        Result(
            "agent memory per idle stream",
            f"{kib:.1f} KiB ({count} streams, opened in {seconds:.1f} s)",
            f"a limit of {STREAM_LIMIT_KIB:.0f} KiB",
            kib / STREAM_LIMIT_KIB,
            1.0,
        )
    )


if __name__ == "__main__":
    main()
