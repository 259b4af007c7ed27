"""Server reflection (grpc.reflection v1 and v1alpha): tools learn which services are here and their shape.

Answers come from the files of the services that are offered and what those import, nothing else of the pool.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor

from control_plane.core.errors import Code
from control_plane.proto.grpc.reflection.v1 import reflection_pb2 as v1
from control_plane.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from control_plane.runtime.transport.call import Call
from control_plane.runtime.transport.service import Service, service


def reflection(services: Iterable[Service]) -> list[Service]:
    """The two reflection services over `services`; they describe themselves as well."""
    files = [v1.DESCRIPTOR, v1alpha.DESCRIPTOR]
    names = [f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")]
    for offered in services:
        files.append(offered.file)
        names.append(offered.name)
    catalogue = _Catalogue(sorted(set(names)), files)
    return [
        service(module.DESCRIPTOR.services_by_name["ServerReflection"], _Reflection(catalogue, module))
        for module in (v1, v1alpha)
    ]


class _Catalogue:
    """Files by name and by the symbols they define."""

    def __init__(self, names: list[str], files: Iterable[FileDescriptor]) -> None:
        self.names = names
        self.by_file: dict[str, FileDescriptor] = {}
        self.by_symbol: dict[str, FileDescriptor] = {}
        for file in files:
            self._add(file)

    def _add(self, file: FileDescriptor) -> None:
        if file.name in self.by_file:
            return
        self.by_file[file.name] = file
        for symbol in _symbols(file):
            self.by_symbol[symbol] = file
        for dependency in file.dependencies:
            self._add(dependency)

    def closure(self, file: FileDescriptor) -> list[bytes]:
        """The file and all that it imports, serialised, the file first."""
        found: dict[str, FileDescriptor] = {}

        def visit(each: FileDescriptor) -> None:
            if each.name not in found:
                found[each.name] = each
                for dependency in each.dependencies:
                    visit(dependency)

        visit(file)
        return [each.serialized_pb for each in found.values()]


def _symbols(file: FileDescriptor) -> Iterator[str]:
    def of_message(message: Descriptor) -> Iterator[str]:
        yield message.full_name
        for field in message.fields:
            yield field.full_name
        for enum in message.enum_types:
            yield enum.full_name
        for nested in message.nested_types:
            yield from of_message(nested)

    for message in file.message_types_by_name.values():
        yield from of_message(message)
    for enum in file.enum_types_by_name.values():
        yield enum.full_name
    for each in file.services_by_name.values():
        yield each.full_name
        for method in each.methods:
            yield method.full_name


class _Reflection:
    """One of the two versions; `module` is its generated module, they are alike but for the package."""

    def __init__(self, catalogue: _Catalogue, module: Any) -> None:
        self._catalogue = catalogue
        self._module = module

    async def server_reflection_info(self, call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            response = self._module.ServerReflectionResponse(
                valid_host=request.host, original_request=request
            )
            self._answer(request, response)
            yield response

    def _answer(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in self._catalogue.names:
                response.list_services_response.service.add(name=name)
            return
        file = None
        if kind == "file_by_filename":
            file = self._catalogue.by_file.get(request.file_by_filename)
        elif kind == "file_containing_symbol":
            file = self._catalogue.by_symbol.get(request.file_containing_symbol)
        if file is not None:
            response.file_descriptor_response.file_descriptor_proto.extend(self._catalogue.closure(file))
            return
        # Extensions are proto2; there are none here, and NOT_FOUND is the answer that tools expect.
        response.error_response.error_code = int(Code.NOT_FOUND)
        response.error_response.error_message = f"{kind or 'an empty request'}: not found here"
