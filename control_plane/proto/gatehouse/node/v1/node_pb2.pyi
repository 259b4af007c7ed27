from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as _entry_pb2
from control_plane.proto.spire.api.types import bundle_pb2 as _bundle_pb2
from control_plane.proto.spire.api.types import entry_pb2 as _entry_pb2_1
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("known_entries", "known_bundle_sequence", "agent_version")
    KNOWN_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_BUNDLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    known_entries: _containers.RepeatedCompositeFieldContainer[_entry_pb2.EntryRevision]
    known_bundle_sequence: int
    agent_version: str
    def __init__(self, known_entries: _Optional[_Iterable[_Union[_entry_pb2.EntryRevision, _Mapping]]] = ..., known_bundle_sequence: _Optional[int] = ..., agent_version: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("full", "upserted", "removed_entry_ids", "bundle", "federated_bundles", "removed_federated", "change_sequence", "priorities")
    class PrioritiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FULL_FIELD_NUMBER: _ClassVar[int]
    UPSERTED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ENTRY_IDS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_BUNDLES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FEDERATED_FIELD_NUMBER: _ClassVar[int]
    CHANGE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    full: bool
    upserted: _containers.RepeatedCompositeFieldContainer[_entry_pb2_1.Entry]
    removed_entry_ids: _containers.RepeatedScalarFieldContainer[str]
    bundle: _bundle_pb2.Bundle
    federated_bundles: _containers.RepeatedCompositeFieldContainer[_bundle_pb2.Bundle]
    removed_federated: _containers.RepeatedScalarFieldContainer[str]
    change_sequence: int
    priorities: _containers.ScalarMap[str, int]
    def __init__(self, full: _Optional[bool] = ..., upserted: _Optional[_Iterable[_Union[_entry_pb2_1.Entry, _Mapping]]] = ..., removed_entry_ids: _Optional[_Iterable[str]] = ..., bundle: _Optional[_Union[_bundle_pb2.Bundle, _Mapping]] = ..., federated_bundles: _Optional[_Iterable[_Union[_bundle_pb2.Bundle, _Mapping]]] = ..., removed_federated: _Optional[_Iterable[str]] = ..., change_sequence: _Optional[int] = ..., priorities: _Optional[_Mapping[str, int]] = ...) -> None: ...
