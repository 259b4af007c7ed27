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
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110, 5.6.2, in lower case
MAX_WAITING: Final = 4096
MAX_BATCH: Final = 512
EVERY_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 3.0

_log = get_logger("traces")


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go, and what headers the collector wants; they may hold a credential and aren't shown."""

    host: str
    port: int | None
    path: str
    tls: bool
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, endpoint: str, headers: Mapping[str, str]) -> "Collector":
        """Reads a URL, to which `/v1/traces` is added. Raises InvalidInput."""
        try:
            url = urlsplit(endpoint)
            host, port = url.hostname, url.port
        except ValueError:  # brackets that don't close, a port that is no number
            host, port = None, None
        if (
            not host
            or url.scheme not in ("http", "https")
            or not endpoint.isascii()
            or not endpoint.isprintable()
        ):
            raise InvalidInput(
                f"{ENDPOINT} is {shown(endpoint)}, expected the URL of a collector",
                hint="such as http://127.0.0.1:4318 (OTLP over HTTP)",
            )
        return cls(host, port, url.path.rstrip("/") + PATH, url.scheme == "https", headers)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Collector":
        """As the environment says. Raises InvalidInput."""
        pairs = (one.partition("=") for one in environment.get(HEADERS, "").split(",") if one.strip())
        headers = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
        if not all(_HEADER.fullmatch(name) and _is_plain(value) for name, value in headers.items()):
            raise InvalidInput(f"{HEADERS}: expected name=value, separated by commas")
        return cls.parse(environment.get(ENDPOINT, ""), headers)


class Exporter:
    """One for a process. `dropped` counts spans that never arrived."""

    def __init__(self, collector: Collector, service_name: str) -> None:
        self._collector = collector
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
        """To the collector that the environment names. Raises InvalidInput."""
        return cls(Collector.from_environment(environment), service_name)

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
                    _log.warning("traces_not_sent", to=self._collector.host, reason=str(error) or repr(error))
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
        to = self._collector
        if to.tls:
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                to.host, to.port, timeout=ANSWER_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(to.host, to.port, timeout=ANSWER_SECONDS)
        headers = {**to.headers, "content-type": "application/x-protobuf"}
        try:
            connection.request("POST", to.path, body, headers)
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


def _is_plain(value: str) -> bool:
    """Whether it can be a header's value (RFC 9110, 5.5): ASCII without control characters."""
    return value.isascii() and value.isprintable()


def _text(key: str, value: str) -> common_pb2.KeyValue:
    return common_pb2.KeyValue(key=key, value=common_pb2.AnyValue(string_value=value))
