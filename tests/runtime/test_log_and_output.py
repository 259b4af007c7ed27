"""What leaves a process as text: no secrets, no control characters, one line an event."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from control_plane.core.secret import Secret
from control_plane.runtime import log
from control_plane.runtime.clock import FakeClock, SystemClock
from control_plane.runtime.metrics import Metrics
from control_plane.runtime.output import Form, Output


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    before = structlog.get_config()
    yield io.StringIO()
    structlog.configure(**before)


def test_json_events_are_one_line_and_hide_secrets(stream: io.StringIO) -> None:
    log.configure(level="info", stream=stream)
    logger = log.get_logger("test")
    logger.debug("unseen")
    hostile = 'evil\n{"event": "forged"}\x1b[2J\u2028'
    logger.info(
        "seen",
        text=hostile,
        key=Secret("hunter2"),
        nested={"k": [Secret("hunter2"), hostile]},
        raw=b"\x00" * 40,
    )
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 and "hunter2" not in lines[0]
    event = json.loads(lines[0])
    assert event["event"] == "seen" and event["component"] == "test" and event["key"] == "[secret]"
    assert "\\x0a" in event["text"] and "\x1b" not in event["nested"]["k"][1]
    assert event["raw"].endswith("(40 bytes)") and event["timestamp"].endswith("Z")


@pytest.mark.parametrize("json_form", [True, False])
def test_exceptions_show_no_local_variables(stream: io.StringIO, json_form: bool) -> None:
    log.configure(level="info", json=json_form, stream=stream)
    password = "hunter2-local"
    try:
        raise ValueError("visible reason")
    except ValueError:
        log.get_logger("test").exception("failed", length=len(password))
    assert "visible reason" in stream.getvalue() and "hunter2-local" not in stream.getvalue()


def test_human_events_cannot_command_the_terminal(stream: io.StringIO) -> None:
    log.configure(level="debug", json=False, stream=stream)
    log.get_logger("test").warning("seen", text="a\x1b[2Jb\nforged")
    assert "\x1b" not in stream.getvalue() and len(stream.getvalue().splitlines()) == 1


def printed(form: Form, act: Any) -> str:
    out, err = io.StringIO(), io.StringIO()
    act(Output(form, out=out, err=err))
    return out.getvalue()


ROWS = [{"id": "a\x1b[31m", "banned": False, "selectors": ["unix:uid:0", "unix:gid:0"], "hint": ""}]


def test_output_as_json_is_one_document() -> None:
    assert json.loads(printed(Form.JSON, lambda output: output.table(["id"], ROWS))) == ROWS
    assert json.loads(printed(Form.JSON, lambda output: output.table(["id"], []))) == []
    assert json.loads(printed(Form.JSON, lambda output: output.record(ROWS[0]))) == ROWS[0]
    assert json.loads(printed(Form.JSON, lambda output: output.done("Created.", id="x"))) == {"id": "x"}


def test_output_for_humans() -> None:
    table = printed(Form.HUMAN, lambda output: output.table(["id", "banned", "selectors"], ROWS))
    assert "\x1b" not in table and "a\\x1b[31m" in table and "unix:gid:0" in table and "no" in table
    assert printed(Form.HUMAN, lambda output: output.table(["id"], [], empty="no entries")) == "no entries\n"
    record = printed(
        Form.HUMAN, lambda output: output.record({"entry_id": "e", "hint": "", "names": ["a", "b"]})
    )
    assert record == "entry id  e\nhint      -\nnames     a\n          b\n"


def test_fake_clock_passes_and_jumps() -> None:
    clock = FakeClock(1_000)
    clock.advance(5)
    clock.jump(-600)
    assert (clock.unix(), clock.monotonic(), clock.now().timestamp()) == (405, 5.0, 405.0)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
    assert abs(SystemClock().now().timestamp() - SystemClock().unix()) < 2


def test_metrics_are_rendered() -> None:
    metrics = Metrics()
    metrics.counter("svids_issued", "SVIDs issued", ["kind"]).labels("x509").inc(3)
    metrics.gauge("streams", "open streams").set(2)
    metrics.seconds("signing_seconds", "time to sign").observe(0.002)
    text = metrics.render().decode()
    assert 'gatehouse_svids_issued_total{kind="x509"} 3.0' in text and "gatehouse_streams 2.0" in text
    assert 'gatehouse_signing_seconds_bucket{le="0.0025"} 1.0' in text
