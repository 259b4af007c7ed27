from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetQuarantinedRequest(_message.Message):
    __slots__ = ("spiffe_ids",)
    SPIFFE_IDS_FIELD_NUMBER: _ClassVar[int]
    spiffe_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spiffe_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetQuarantinedResponse(_message.Message):
    __slots__ = ("quarantined",)
    class QuarantinedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Quarantined
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Quarantined, _Mapping]] = ...) -> None: ...
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    quarantined: _containers.MessageMap[str, Quarantined]
    def __init__(self, quarantined: _Optional[_Mapping[str, Quarantined]] = ...) -> None: ...

class Quarantined(_message.Message):
    __slots__ = ("reason", "by", "quarantined_at")
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_AT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    by: str
    quarantined_at: int
    def __init__(self, reason: _Optional[str] = ..., by: _Optional[str] = ..., quarantined_at: _Optional[int] = ...) -> None: ...
