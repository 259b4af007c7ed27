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
    __slots__ = ("known_entries", "known_bundle_sequence", "agent_version", "known_policy_sequence", "known_quarantine_revision")
    KNOWN_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_BUNDLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_POLICY_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_QUARANTINE_REVISION_FIELD_NUMBER: _ClassVar[int]
    known_entries: _containers.RepeatedCompositeFieldContainer[_entry_pb2.EntryRevision]
    known_bundle_sequence: int
    agent_version: str
    known_policy_sequence: int
    known_quarantine_revision: int
    def __init__(self, known_entries: _Optional[_Iterable[_Union[_entry_pb2.EntryRevision, _Mapping]]] = ..., known_bundle_sequence: _Optional[int] = ..., agent_version: _Optional[str] = ..., known_policy_sequence: _Optional[int] = ..., known_quarantine_revision: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("full", "upserted", "removed_entry_ids", "bundle", "federated_bundles", "removed_federated", "change_sequence", "priorities", "policy", "policy_keys", "quarantine", "decisions_wanted", "renew_early", "policy_traceparent", "more", "change_log")
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
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_KEYS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_WANTED_FIELD_NUMBER: _ClassVar[int]
    RENEW_EARLY_FIELD_NUMBER: _ClassVar[int]
    POLICY_TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_LOG_FIELD_NUMBER: _ClassVar[int]
    full: bool
    upserted: _containers.RepeatedCompositeFieldContainer[_entry_pb2_1.Entry]
    removed_entry_ids: _containers.RepeatedScalarFieldContainer[str]
    bundle: _bundle_pb2.Bundle
    federated_bundles: _containers.RepeatedCompositeFieldContainer[_bundle_pb2.Bundle]
    removed_federated: _containers.RepeatedScalarFieldContainer[str]
    change_sequence: int
    priorities: _containers.ScalarMap[str, int]
    policy: SignedPolicy
    policy_keys: _containers.RepeatedCompositeFieldContainer[PolicyKey]
    quarantine: Quarantine
    decisions_wanted: DecisionsWanted
    renew_early: RenewEarly
    policy_traceparent: str
    more: bool
    change_log: str
    def __init__(self, full: _Optional[bool] = ..., upserted: _Optional[_Iterable[_Union[_entry_pb2_1.Entry, _Mapping]]] = ..., removed_entry_ids: _Optional[_Iterable[str]] = ..., bundle: _Optional[_Union[_bundle_pb2.Bundle, _Mapping]] = ..., federated_bundles: _Optional[_Iterable[_Union[_bundle_pb2.Bundle, _Mapping]]] = ..., removed_federated: _Optional[_Iterable[str]] = ..., change_sequence: _Optional[int] = ..., priorities: _Optional[_Mapping[str, int]] = ..., policy: _Optional[_Union[SignedPolicy, _Mapping]] = ..., policy_keys: _Optional[_Iterable[_Union[PolicyKey, _Mapping]]] = ..., quarantine: _Optional[_Union[Quarantine, _Mapping]] = ..., decisions_wanted: _Optional[_Union[DecisionsWanted, _Mapping]] = ..., renew_early: _Optional[_Union[RenewEarly, _Mapping]] = ..., policy_traceparent: _Optional[str] = ..., more: _Optional[bool] = ..., change_log: _Optional[str] = ...) -> None: ...

class RenewEarly(_message.Message):
    __slots__ = ("issuer_key_ids", "within_seconds")
    ISSUER_KEY_IDS_FIELD_NUMBER: _ClassVar[int]
    WITHIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    issuer_key_ids: _containers.RepeatedScalarFieldContainer[bytes]
    within_seconds: int
    def __init__(self, issuer_key_ids: _Optional[_Iterable[bytes]] = ..., within_seconds: _Optional[int] = ...) -> None: ...

class DecisionsWanted(_message.Message):
    __slots__ = ("canary", "interval_seconds")
    CANARY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    canary: int
    interval_seconds: int
    def __init__(self, canary: _Optional[int] = ..., interval_seconds: _Optional[int] = ...) -> None: ...

class ReportDecisionsRequest(_message.Message):
    __slots__ = ("canary", "sequence", "workloads", "before")
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    canary: int
    sequence: int
    workloads: _containers.RepeatedCompositeFieldContainer[DecisionCount]
    before: DecisionCount
    def __init__(self, canary: _Optional[int] = ..., sequence: _Optional[int] = ..., workloads: _Optional[_Iterable[_Union[DecisionCount, _Mapping]]] = ..., before: _Optional[_Union[DecisionCount, _Mapping]] = ...) -> None: ...

class ReportDecisionsResponse(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: bool
    def __init__(self, taken: _Optional[bool] = ...) -> None: ...

class DecisionCount(_message.Message):
    __slots__ = ("spiffe_id", "requests", "denied")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DENIED_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    requests: int
    denied: int
    def __init__(self, spiffe_id: _Optional[str] = ..., requests: _Optional[int] = ..., denied: _Optional[int] = ...) -> None: ...

class SignedPolicy(_message.Message):
    __slots__ = ("payload", "signature", "key_id")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    key_id: str
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., key_id: _Optional[str] = ...) -> None: ...

class PolicyBundle(_message.Message):
    __slots__ = ("trust_domain", "sequence", "version", "digest", "issued_at", "files", "inventory")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    sequence: int
    version: int
    digest: str
    issued_at: int
    files: _containers.RepeatedCompositeFieldContainer[PolicyFile]
    inventory: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., sequence: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., issued_at: _Optional[int] = ..., files: _Optional[_Iterable[_Union[PolicyFile, _Mapping]]] = ..., inventory: _Optional[bytes] = ...) -> None: ...

class PolicyFile(_message.Message):
    __slots__ = ("path", "content")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    content: bytes
    def __init__(self, path: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class PolicyKey(_message.Message):
    __slots__ = ("key_id", "public_key")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    public_key: bytes
    def __init__(self, key_id: _Optional[str] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class Quarantine(_message.Message):
    __slots__ = ("revision", "spiffe_ids", "traceparent")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_IDS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    spiffe_ids: _containers.RepeatedScalarFieldContainer[str]
    traceparent: str
    def __init__(self, revision: _Optional[int] = ..., spiffe_ids: _Optional[_Iterable[str]] = ..., traceparent: _Optional[str] = ...) -> None: ...
