"""Messages, fields, enums and methods of our .proto files are exactly those of the published table."""

import importlib
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

TABLE = Path(__file__).with_name("spire_wire_table.md").read_text()
SECTIONS = re.findall(r"\*\*([\w/.]+)\.proto\*\* \(package `([\w.]+)`\)\n(.*?)(?=\n\*\*|\Z)", TABLE, re.S)

SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def described_type(field: FieldDescriptor) -> str:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return f"enum {field.enum_type.name}"
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        return SCALARS[field.type]
    message = field.message_type
    if message.GetOptions().map_entry:
        key, value = message.fields
        return f"map<{described_type(key)},{described_type(value)}>"
    package = message.file.package
    local = message.full_name.removeprefix(package + ".")
    if package == "google.protobuf":
        return f"pb.{local}"
    return f"types.{local}" if package == "spire.api.types" else local


def described_field(field: FieldDescriptor) -> str:
    text = described_type(field)
    if field.is_repeated and not text.startswith("map<"):
        text = f"repeated {text}"
    oneof = field.containing_oneof
    return f"{field.number} {field.name}: {text}" + (f" (oneof {oneof.name})" if oneof else "")


def described_message(message: Descriptor, prefix: str = "") -> list[str]:
    name = prefix + message.name
    fields = "; ".join(described_field(field) for field in message.fields) or "empty"
    lines = [f"- `{name}`: {fields}"]
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            lines += described_message(nested, name + ".")
    return lines + [described_enum(enum, name + ".") for enum in message.enum_types]


def described_enum(enum: EnumDescriptor, prefix: str = "") -> str:
    return f"- enum `{prefix}{enum.name}`: " + ", ".join(f"{v.name}={v.number}" for v in enum.values)


def described_methods(file: FileDescriptor) -> list[str]:
    def name(message: Descriptor) -> str:
        text = message.full_name.removeprefix(file.package + ".")
        return text.replace("spire.api.types.", "types.")

    return [
        f"- rpc `/{service.full_name}/{method.name}` ({'stream ' * method.client_streaming}"
        f"{name(method.input_type)}) returns "
        f"({'stream ' * method.server_streaming}{name(method.output_type)})"
        for service in file.services_by_name.values()
        for method in service.methods
    ]


@pytest.mark.parametrize(("path", "package", "body"), SECTIONS, ids=[section[0] for section in SECTIONS])
def test_descriptors_equal_the_published_table(path: str, package: str, body: str) -> None:
    module = importlib.import_module("control_plane.proto." + path.replace("/", ".") + "_pb2")
    file: FileDescriptor = module.DESCRIPTOR
    described = described_methods(file)
    for message in file.message_types_by_name.values():
        described += described_message(message)
    described += [described_enum(enum) for enum in file.enum_types_by_name.values()]
    assert file.package == ("" if package == "none" else package)
    assert sorted(described) == sorted(line for line in body.splitlines() if line.startswith("- "))


def test_the_table_is_whole() -> None:
    assert len(SECTIONS) == 26
