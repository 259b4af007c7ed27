"""The small stand-ins for asyncio's Event and grpclib's Buffer behave like what they stand for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from h2.events import RemoteSettingsChanged
from h2.exceptions import InvalidSettingsValueError
from h2.settings import SettingCodes, Settings
from hypothesis import given
from hypothesis import strategies as st

from control_plane.runtime.transport.engine import new_engine
from control_plane.runtime.transport.lean import ReceiveBuffer, Signal
from control_plane.runtime.transport.limits import Limits

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@given(
    st.lists(st.binary(max_size=50), max_size=12),
    st.lists(st.integers(1, 60), max_size=12),
    st.lists(st.booleans(), max_size=30),
)
def test_reading_is_independent_of_the_cutting(
    pieces: list[bytes], sizes: list[int], order: list[bool]
) -> None:
    acknowledged: list[int] = []
    buffer = ReceiveBuffer(acknowledged.append)
    read: list[bytes] = []

    async def reader() -> None:
        for size in [*sizes, 10_000]:
            read.append(await buffer.read(size))
            if order and order.pop():
                await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.ensure_future(reader())
        for piece in pieces:
            if order and order.pop():
                await asyncio.sleep(0)
            buffer.add(piece, len(piece) + 1)
        buffer.eof()
        await asyncio.wait_for(task, 5)
        assert await buffer.read(1) == b""

    asyncio.run(main())
    whole = b"".join(pieces)
    expected = []
    for size in [*sizes, 10_000]:
        expected.append(whole[:size])
        whole = whole[size:]
    assert read == expected
    assert sum(acknowledged) + buffer.unacked_size() == sum(len(piece) + 1 for piece in pieces)


def test_nothing_is_acknowledged_before_it_is_wanted(run: Run) -> None:
    async def main() -> None:
        acknowledged: list[int] = []
        buffer = ReceiveBuffer(acknowledged.append)
        buffer.add(b"x" * 1000, 1000)
        assert await buffer.read(10) == b"x" * 10
        assert acknowledged == []
        waiting = asyncio.ensure_future(buffer.read(2000))
        await asyncio.sleep(0)
        assert acknowledged == [1000]
        buffer.add(b"y" * 1010, 1010)
        assert len(await waiting) == 2000
        assert acknowledged == [1000, 1010]

    run(main())


def test_a_signal_wakes_all_and_survives_cancelled_waiters(run: Run) -> None:
    async def main() -> None:
        signal = Signal()
        waiters = [asyncio.ensure_future(signal.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        assert not signal.is_set()
        signal.set()
        await asyncio.wait_for(asyncio.gather(*waiters[1:]), 1)
        await signal.wait()
        signal.clear()
        again = asyncio.ensure_future(signal.wait())
        await asyncio.sleep(0.01)
        assert not again.done()
        signal.set()
        await asyncio.wait_for(again, 1)

    run(main())


def test_settings_behave_as_those_of_the_library() -> None:
    """The slim ones reach into the library's class; this fails when it changes."""
    limits = Limits(max_concurrent_streams=7, max_header_bytes=1234, stream_window_bytes=70_000)
    ours = new_engine(limits, client=False).local_settings
    theirs = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: 7,
            SettingCodes.MAX_HEADER_LIST_SIZE: 1234,
            SettingCodes.INITIAL_WINDOW_SIZE: 70_000,
        },
    )
    assert dict(ours) == dict(theirs)
    for settings in (ours, theirs):
        settings[SettingCodes.MAX_FRAME_SIZE] = 20_000
        settings[SettingCodes.MAX_FRAME_SIZE] = 30_000
    assert ours.max_frame_size == theirs.max_frame_size == 16_384
    changed = [
        {code: (change.original_value, change.new_value) for code, change in settings.acknowledge().items()}
        for settings in (ours, theirs)
    ]
    assert changed[0] == changed[1] == {SettingCodes.MAX_FRAME_SIZE: (16_384, 20_000)}


def test_settings_of_one_connection_are_not_those_of_another() -> None:
    """All begin with the same objects."""
    limits = Limits(max_concurrent_streams=7)
    one, other = new_engine(limits, client=False), new_engine(limits, client=False)
    before = dict(other.local_settings), dict(other.remote_settings)
    for settings in (one.local_settings, one.remote_settings):
        settings[SettingCodes.MAX_FRAME_SIZE] = 20_000
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 8
        settings.acknowledge()
        assert (settings.max_frame_size, settings.max_concurrent_streams) == (20_000, 8)
    assert (dict(other.local_settings), dict(other.remote_settings)) == before
    third = new_engine(limits, client=False)
    assert (dict(third.local_settings), dict(third.remote_settings)) == before


def test_a_bad_value_leaves_no_setting_behind() -> None:
    settings = new_engine(Limits(), client=False).remote_settings
    before = dict(settings)
    for code, value in ((SettingCodes.MAX_HEADER_LIST_SIZE, -1), (SettingCodes.MAX_FRAME_SIZE, 1)):
        with pytest.raises(InvalidSettingsValueError):
            settings[code] = value
    assert dict(settings) == before
    assert settings.acknowledge() == {}


def test_settings_that_nobody_knows_are_not_kept() -> None:
    """RFC 9113, section 6.5.2: ignored. The library keeps them: 43 MiB for 20 frames of 16 KiB."""
    engine = new_engine(Limits(), client=False)
    body = b"".join((code << 32 | 7).to_bytes(6, "big") for code in range(100, 2_800))
    settings_frame = len(body).to_bytes(3, "big") + b"\x04" + bytes(5) + body
    events = engine.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame)
    assert [type(event) for event in events] == [RemoteSettingsChanged]
    assert len(engine.remote_settings) <= len(SettingCodes)
    assert engine.data_to_send().endswith(bytes((0, 0, 0, 4, 1, 0, 0, 0, 0)))  # acknowledged all the same
