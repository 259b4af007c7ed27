"""The fields of OTLP that have had two names: what was an "instrumentation library" is a "scope" since 0.16.

Two packages install OTLP's generated modules at the same paths: `opentelemetry-proto`, and `xds-protos` with
older ones. Whichever is installed last stays, and installers promise no order. Numbers and types are the same
in both, so what changed its name is found by its number; every other field is used by name.
"""

from typing import Any

from google.protobuf.message import Message

_SCOPES = 2  # of ResourceSpans and of ResourceMetrics
_SCOPE = 1  # of what is repeated there


def scopes(resource: Message) -> Any:
    """The repeated `scope_spans` of a ResourceSpans, `scope_metrics` of a ResourceMetrics."""
    return _field(resource, _SCOPES)


def scope(one: Message) -> Any:
    """The `scope` of a ScopeSpans or ScopeMetrics."""
    return _field(one, _SCOPE)


def _field(message: Message, number: int) -> Any:
    return getattr(message, message.DESCRIPTOR.fields_by_number[number].name)
