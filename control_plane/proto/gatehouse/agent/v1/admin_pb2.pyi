from control_plane.proto.spire.api.types import selector_pb2 as _selector_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListIdentitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIdentitiesResponse(_message.Message):
    __slots__ = ("identities",)
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    identities: _containers.RepeatedCompositeFieldContainer[Identity]
    def __init__(self, identities: _Optional[_Iterable[_Union[Identity, _Mapping]]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "selectors", "expires_at", "renews_at", "serial", "subscribers")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    RENEWS_AT_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBERS_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    selectors: _containers.RepeatedCompositeFieldContainer[_selector_pb2.Selector]
    expires_at: int
    renews_at: int
    serial: str
    subscribers: int
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., selectors: _Optional[_Iterable[_Union[_selector_pb2.Selector, _Mapping]]] = ..., expires_at: _Optional[int] = ..., renews_at: _Optional[int] = ..., serial: _Optional[str] = ..., subscribers: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("pid", "selectors")
    PID_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    selectors: _containers.RepeatedCompositeFieldContainer[_selector_pb2.Selector]
    def __init__(self, pid: _Optional[int] = ..., selectors: _Optional[_Iterable[_Union[_selector_pb2.Selector, _Mapping]]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("attested", "matches", "near", "last_sync_at", "last_sync_error", "agent_id", "attestation_errors", "process_ended")
    ATTESTED_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    LAST_SYNC_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_SYNC_ERROR_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_ERRORS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ENDED_FIELD_NUMBER: _ClassVar[int]
    attested: _containers.RepeatedCompositeFieldContainer[_selector_pb2.Selector]
    matches: _containers.RepeatedCompositeFieldContainer[EntryMatch]
    near: _containers.RepeatedCompositeFieldContainer[NearMiss]
    last_sync_at: int
    last_sync_error: str
    agent_id: str
    attestation_errors: _containers.RepeatedScalarFieldContainer[str]
    process_ended: bool
    def __init__(self, attested: _Optional[_Iterable[_Union[_selector_pb2.Selector, _Mapping]]] = ..., matches: _Optional[_Iterable[_Union[EntryMatch, _Mapping]]] = ..., near: _Optional[_Iterable[_Union[NearMiss, _Mapping]]] = ..., last_sync_at: _Optional[int] = ..., last_sync_error: _Optional[str] = ..., agent_id: _Optional[str] = ..., attestation_errors: _Optional[_Iterable[str]] = ..., process_ended: _Optional[bool] = ...) -> None: ...

class EntryMatch(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "svid_expires_at", "renews_at", "is_default", "hint")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SVID_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    RENEWS_AT_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    svid_expires_at: int
    renews_at: int
    is_default: bool
    hint: str
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., svid_expires_at: _Optional[int] = ..., renews_at: _Optional[int] = ..., is_default: _Optional[bool] = ..., hint: _Optional[str] = ...) -> None: ...

class NearMiss(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "missing")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    missing: _containers.RepeatedCompositeFieldContainer[_selector_pb2.Selector]
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., missing: _Optional[_Iterable[_Union[_selector_pb2.Selector, _Mapping]]] = ...) -> None: ...

class ShowPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShowPolicyResponse(_message.Message):
    __slots__ = ("sequence", "version", "digest", "issued_at", "settled", "error", "quarantined", "workloads")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    version: int
    digest: str
    issued_at: int
    settled: bool
    error: str
    quarantined: _containers.RepeatedScalarFieldContainer[str]
    workloads: _containers.RepeatedCompositeFieldContainer[EnforcedWorkload]
    def __init__(self, sequence: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., issued_at: _Optional[int] = ..., settled: _Optional[bool] = ..., error: _Optional[str] = ..., quarantined: _Optional[_Iterable[str]] = ..., workloads: _Optional[_Iterable[_Union[EnforcedWorkload, _Mapping]]] = ...) -> None: ...

class EnforcedWorkload(_message.Message):
    __slots__ = ("workload", "spiffe_id", "judged_by_agent", "rules")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    JUDGED_BY_AGENT_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    workload: str
    spiffe_id: str
    judged_by_agent: bool
    rules: _containers.RepeatedCompositeFieldContainer[RuleLines]
    def __init__(self, workload: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., judged_by_agent: _Optional[bool] = ..., rules: _Optional[_Iterable[_Union[RuleLines, _Mapping]]] = ...) -> None: ...

class RuleLines(_message.Message):
    __slots__ = ("rule", "lines")
    RULE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    rule: str
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rule: _Optional[str] = ..., lines: _Optional[_Iterable[str]] = ...) -> None: ...
