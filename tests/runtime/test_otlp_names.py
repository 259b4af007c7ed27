"""Both generations of OTLP's generated modules give the same bytes, whichever package was installed last."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from control_plane.runtime.otlp_names import scope, scopes

GENERATIONS = [("instrumentation_library_spans", "instrumentation_library"), ("scope_spans", "scope")]


def resource_spans(scopes_name: str, scope_name: str) -> Any:
    """An empty ResourceSpans of a generation, of the fields that carry a scope."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="trace.proto", package="p", syntax="proto3")
    named = file.message_type.add(name="Scope")
    named.field.add(name="name", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    several = file.message_type.add(name="ScopeSpans")
    several.field.add(
        name=scope_name, number=1, type=kind.TYPE_MESSAGE, type_name=".p.Scope", label=kind.LABEL_OPTIONAL
    )
    resource = file.message_type.add(name="ResourceSpans")
    resource.field.add(
        name=scopes_name,
        number=2,
        type=kind.TYPE_MESSAGE,
        type_name=".p.ScopeSpans",
        label=kind.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.ResourceSpans"))()


@pytest.mark.parametrize("names", GENERATIONS)
def test_either_generation_carries_the_scope(names: tuple[str, str]) -> None:
    written = resource_spans(*names)
    scope(scopes(written).add()).name = "gatehouse"
    assert written.SerializeToString() == bytes.fromhex("120d 0a0b 0a09") + b"gatehouse"
    installed = trace_pb2.ResourceSpans.FromString(written.SerializeToString())
    assert [scope(one).name for one in scopes(installed)] == ["gatehouse"]


def test_metrics_have_the_same_numbers() -> None:
    resource = metrics_pb2.ResourceMetrics()
    scope(scopes(resource).add()).name = "envoy"
    assert trace_pb2.ResourceSpans.FromString(resource.SerializeToString()).SerializeToString() == (
        resource.SerializeToString()
    )
    assert scope(scopes(resource)[0]).name == "envoy"
