from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as _entry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchCreateEntryRequest(_message.Message):
    __slots__ = ("request", "priorities")
    class PrioritiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    request: _entry_pb2.BatchCreateEntryRequest
    priorities: _containers.ScalarMap[int, int]
    def __init__(self, request: _Optional[_Union[_entry_pb2.BatchCreateEntryRequest, _Mapping]] = ..., priorities: _Optional[_Mapping[int, int]] = ...) -> None: ...

class BatchUpdateEntryRequest(_message.Message):
    __slots__ = ("request", "priorities")
    class PrioritiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    request: _entry_pb2.BatchUpdateEntryRequest
    priorities: _containers.ScalarMap[int, int]
    def __init__(self, request: _Optional[_Union[_entry_pb2.BatchUpdateEntryRequest, _Mapping]] = ..., priorities: _Optional[_Mapping[int, int]] = ...) -> None: ...

class GetPrioritiesRequest(_message.Message):
    __slots__ = ("entry_ids",)
    ENTRY_IDS_FIELD_NUMBER: _ClassVar[int]
    entry_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entry_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetPrioritiesResponse(_message.Message):
    __slots__ = ("priorities",)
    class PrioritiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    priorities: _containers.ScalarMap[str, int]
    def __init__(self, priorities: _Optional[_Mapping[str, int]] = ...) -> None: ...
