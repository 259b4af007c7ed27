"""Sends spans to a collector: OTLP over HTTP with protobuf (OpenTelemetry, "OTLP Specification", OTLP/HTTP).

A thread of its own gathers what the process hands over and sends it every second, and a last time when the
process ends. Nothing waits for a collector: what doesn't fit, or can't be sent, is dropped and counted, and
the log says so once until it works again. Loaded only where the environment names a collector:
OTEL_EXPORTER_OTLP_ENDPOINT, with OTEL_EXPORTER_OTLP_HEADERS for what it wants to hear besides.
"""

import atexit
import http.client
import os
import queue
import ssl
import threading
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from control_plane.core.errors import InvalidInput, shown
from control_plane.runtime.log import get_logger
from control_plane.runtime.otlp_names import scope, scopes
from control_plane.runtime.tracing import ENDPOINT, FinishedSpan

HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
PATH: Final = "/v1/traces"
MAX_WAITING: Final = 4096
MAX_BATCH: Final = 512
EVERY_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 3.0

_log = get_logger("traces")


class Exporter:
    """One for a process. `dropped` counts spans that never arrived."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], service_name: str) -> None:
        self._url = urlsplit(endpoint)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise InvalidInput(
                f"{ENDPOINT} is {shown(endpoint)}, expected the URL of a collector",
                hint="such as http://127.0.0.1:4318 (OTLP over HTTP)",
            )
        self._headers = {**headers, "content-type": "application/x-protobuf"}
        self._resource = [_text("service.name", service_name), _text("process.pid", str(os.getpid()))]
        self._waiting: queue.Queue[FinishedSpan] = queue.Queue(MAX_WAITING)
        self._ending = threading.Event()
        self._failing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], service_name: str) -> "Exporter":
        """As the environment says. Raises InvalidInput."""
        pairs = (one.partition("=") for one in environment.get(HEADERS, "").split(",") if one.strip())
        headers = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
        if not all(f"{name}{value}".isprintable() and name for name, value in headers.items()):
            raise InvalidInput(f"{HEADERS}: expected name=value, separated by commas")
        return cls(environment[ENDPOINT], headers, service_name)

    def take(self, span: FinishedSpan) -> None:
        """Hands a span over; never waits."""
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Sends what is left, within the time for one answer."""
        self._ending.set()
        self._thread.join(ANSWER_SECONDS + EVERY_SECONDS)

    def _run(self) -> None:
        while not self._ending.wait(EVERY_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while batch := self._batch():
            try:
                self._send(_request(batch, self._resource))
                self._failing = False
            except (OSError, http.client.HTTPException) as error:
                self.dropped += len(batch)
                if not self._failing:
                    _log.warning("traces_not_sent", to=self._url.netloc, reason=str(error) or repr(error))
                self._failing = True
                return

    def _batch(self) -> list[FinishedSpan]:
        batch: list[FinishedSpan] = []
        while len(batch) < MAX_BATCH:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _send(self, body: bytes) -> None:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=ANSWER_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", self._url.path.rstrip("/") + PATH, body, self._headers)
            response = connection.getresponse()
            response.read(65536)
            if response.status >= 300:
                raise http.client.HTTPException(f"the collector answered {response.status}")
        finally:
            connection.close()


def _request(batch: list[FinishedSpan], resource: list[common_pb2.KeyValue]) -> bytes:
    request = service.ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.extend(resource)
    scope_spans = scopes(resource_spans).add()
    scope(scope_spans).name = "gatehouse"
    for one in batch:
        span = scope_spans.spans.add(
            trace_id=bytes.fromhex(one.context.trace_id),
            span_id=bytes.fromhex(one.context.span_id),
            parent_span_id=bytes.fromhex(one.parent_id),
            name=one.name,
            kind=trace_pb2.Span.SpanKind.ValueType(int(one.kind)),
            start_time_unix_nano=one.began_ns,
            end_time_unix_nano=one.ended_ns,
        )
        if one.error:
            span.status.code = trace_pb2.Status.STATUS_CODE_ERROR
            span.status.message = one.error
    return request.SerializeToString()


def _text(key: str, value: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=value))
