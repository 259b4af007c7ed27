"""Requests to SPIRE's server API, good and bad ones, drawn from a seed: the same for every server.

IDs of entries are the caller's, from a small set, so that requests meet what earlier ones left. What two
servers are known to answer differently isn't drawn; `tests/interop/test_side_by_side.py` names it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, TypeVar

from foreign_caller import Request

from control_plane.proto.google.protobuf.empty_pb2 import Empty
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2 as agent
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2 as bundle
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2 as entry
from control_plane.proto.spire.api.types import agent_pb2, bundle_pb2, entry_pb2, jointoken_pb2
from control_plane.proto.spire.api.types.selector_pb2 import Selector
from control_plane.proto.spire.api.types.spiffeid_pb2 import SPIFFEID

AGENT = "/spire.api.server.agent.v1.Agent/"
BUNDLE = "/spire.api.server.bundle.v1.Bundle/"
ENTRY = "/spire.api.server.entry.v1.Entry/"

_PATHS = ["/a", "/b", "/ns/x/sa/y", "/A", "/a.b", "/a_b", "/...", "/spirex"]
_PARENTS = ["/spire/server", "/spire/agent/join_token/t", "/spire", "/a", "/node"]
_BAD_PATHS = [
    "",
    "/",
    "a",
    "/a/",
    "/a//b",
    "/a/./b",
    "/a/../b",
    "/a%20",
    "/ä",
    "/a b",
    "/a?b",
    "/a#b",
    "/a\n",
]
_RESERVED = ["/spire", "/spire/x", "/spire/server", "/spire/agent", "/spire/agent/join_token/x"]
_BAD_DOMAINS = ["", "other.test", "INTEROP.test", "interop.test:80", "u@interop.test", "inter op", "ä.test"]
_SELECTORS = [
    ("unix", "uid:1"),
    ("unix", "gid:5"),
    ("unix", "path:/a b"),
    ("k8s", "ns:x"),
    ("x", " "),
    ("ä", "ö"),
]
_BAD_SELECTORS = [("", ""), ("unix", ""), ("", "uid:1"), ("a:b", "c")]
_ENTRY_IDS = ["e1", "e2", "e3", "e4", "e5", "e6", "a.b", "a_b", "A-1", "i" * 255]
_BAD_ENTRY_IDS = ["e 1", "é", "i" * 256, "a/b", "e\n", "\t"]
_DNS_NAMES = ["a", "a.test", "*.a.test", "A.test", "a_b", "a" * 63, "1.2.3.4", "xn--4ca", "_sip.a"]
_BAD_DNS_NAMES = ["", "*", "a..b", "-a", "a-", ".a", "a.", "ä", "*a.test", "a.*.test", "*.*.a", "a" * 64]
_HINTS = ["h", "internal", " ", "h" * 1024, "ä" * 512]
_BAD_HINTS = ["h" * 1025, "ä" * 513]
_NAMED = ["fed.test", "spiffe://fed.test"]
_FOREIGN = ["fed.test", "f1.test", "f2.test", "spiffe://f2.test"]
_BAD_FOREIGN = ["", "FED.test", "a b", "interop.test", "f1.test:80"]
_MODES = bundle.BatchDeleteFederatedBundleRequest.Mode

T = TypeVar("T")


class Drawing:
    """Draws requests one after the other. `certificates` are authorities for bundles (DER)."""

    def __init__(self, seed: int, certificates: list[bytes]) -> None:
        self._random = random.Random(seed)
        self._certificates = certificates

    def requests(self, count: int) -> Iterator[Request]:
        """So many requests."""
        kinds = [self._create] * 4 + [self._update] * 3 + [self._list] * 4 + [self._count] * 2
        kinds += [self._delete, self._get, self._set_bundle, self._set_bundle, self._bundles, self._agents]
        for _ in range(count):
            yield self._one(kinds)()

    def _one(self, choices: list[T]) -> T:
        return self._random.choice(choices)

    def _either(self, good: list[T], bad: list[T], badly: float = 0.06) -> T:
        return self._one(bad if self._random.random() < badly else good)

    def _often(self, probability: float) -> bool:
        return self._random.random() < probability

    def _spiffe_id(self, paths: list[str]) -> SPIFFEID:
        domain = self._either(["interop.test"], _BAD_DOMAINS, 0.03)
        return SPIFFEID(trust_domain=domain, path=self._either(paths, _BAD_PATHS, 0.08))

    def _selectors(self, most: int) -> list[Selector]:
        drawn = {self._either(_SELECTORS, _BAD_SELECTORS) for _ in range(self._random.randint(1, most))}
        return [Selector(type=type_, value=value) for type_, value in sorted(drawn)]

    def _entry(self) -> entry_pb2.Entry:
        drawn = entry_pb2.Entry(id=self._either(_ENTRY_IDS, _BAD_ENTRY_IDS))
        if self._often(0.96):
            drawn.spiffe_id.CopyFrom(self._spiffe_id(self._either([_PATHS], [_RESERVED], 0.04)))
        if self._often(0.96):
            drawn.parent_id.CopyFrom(self._spiffe_id(_PARENTS))
        if self._often(0.96):
            drawn.selectors.extend(self._selectors(3))
        if self._often(0.3):
            drawn.x509_svid_ttl = self._either([0, 60, 3600, 2**31 - 1], [-1, -(2**31)])
        if self._often(0.3):
            drawn.jwt_svid_ttl = self._either([0, 60, 3600, 2**31 - 1], [-1, -(2**31)])
        if self._often(0.2):
            drawn.federates_with.append(self._either(_NAMED, ["", "FED.test", "a b", "fed.test:80"]))
        if self._often(0.3):
            drawn.dns_names.extend(sorted({self._either(_DNS_NAMES, _BAD_DNS_NAMES, 0.1) for _ in range(2)}))
        if self._often(0.2):
            drawn.hint = self._either(_HINTS, _BAD_HINTS)
        drawn.admin, drawn.downstream = self._often(0.2), self._often(0.2)
        drawn.expires_at = self._one([0, 0, 2**40])
        drawn.revision_number, drawn.created_at = self._one([0, 5, -1]), self._one([0, 5, -1])
        if self._often(0.2):
            drawn.additional_attributes.disable_x509_svid_prefetch = self._often(0.5)
            drawn.additional_attributes.jwt_svid_include_jti = self._often(0.5)
        return drawn

    def _mask(self, request: Any, field: str, probability: float) -> None:
        if self._often(probability):
            mask = getattr(request, field)
            mask.SetInParent()
            for each in mask.DESCRIPTOR.fields:
                setattr(mask, each.name, self._often(0.5))

    def _create(self) -> Request:
        request = entry.BatchCreateEntryRequest(
            entries=[self._entry() for _ in range(self._one([0, 1, 1, 1, 3]))]
        )
        for each in request.entries:
            each.store_svid = self._often(0.15)
        self._mask(request, "output_mask", 0.2)
        return Request(ENTRY + "BatchCreateEntry", request, entry.BatchCreateEntryResponse)

    def _update(self) -> Request:
        request = entry.BatchUpdateEntryRequest(
            entries=[self._entry() for _ in range(self._one([0, 1, 1, 1, 3]))]
        )
        self._mask(request, "input_mask", 0.7)
        self._mask(request, "output_mask", 0.2)
        if request.HasField("input_mask"):
            # Alone they are checked against the stored entry here and not at all there.
            request.input_mask.selectors = request.input_mask.additional_attributes = False
        return Request(ENTRY + "BatchUpdateEntry", request, entry.BatchUpdateEntryResponse)

    def _delete(self) -> Request:
        ids = [self._either(_ENTRY_IDS, ["", "nobody"], 0.2) for _ in range(self._one([0, 1, 2]))]
        request = entry.BatchDeleteEntryRequest(ids=ids)
        return Request(ENTRY + "BatchDeleteEntry", request, entry.BatchDeleteEntryResponse)

    def _get(self) -> Request:
        request = entry.GetEntryRequest(id=self._either(_ENTRY_IDS, ["", "nobody"], 0.1))
        self._mask(request, "output_mask", 0.3)
        return Request(ENTRY + "GetEntry", request, entry_pb2.Entry)

    def _filter(self, filter_: Any) -> None:
        filter_.SetInParent()
        if self._often(0.25):
            filter_.by_spiffe_id.CopyFrom(self._spiffe_id(self._either([_PATHS], [_RESERVED])))
        if self._often(0.25):
            filter_.by_parent_id.CopyFrom(self._spiffe_id(_PARENTS))
        if self._often(0.4):
            filter_.by_selectors.match = self._random.randrange(4)
            filter_.by_selectors.selectors.extend(self._selectors(4) if self._often(0.95) else [])
        if self._often(0.2):
            filter_.by_federates_with.match = self._random.randrange(4)
            filter_.by_federates_with.trust_domains.append(
                self._either([*_NAMED, "unknown.test"], ["", "A b"])
            )
        if self._often(0.2):
            filter_.by_hint.value = self._one(["", "h", "internal", "none"])
        if self._often(0.3):
            filter_.by_downstream.value = self._often(0.5)

    def _list(self) -> Request:
        request = entry.ListEntriesRequest()
        self._filter(request.filter)
        self._mask(request, "output_mask", 0.3)
        return Request(ENTRY + "ListEntries", request, entry.ListEntriesResponse)

    def _count(self) -> Request:
        request = entry.CountEntriesRequest()
        self._filter(request.filter)
        return Request(ENTRY + "CountEntries", request, entry.CountEntriesResponse)

    def _bundle(self) -> bundle_pb2.Bundle:
        """Never one of `fed.test`, which entries need."""
        drawn = bundle_pb2.Bundle(trust_domain=self._either(_FOREIGN[1:], _BAD_FOREIGN, 0.15))
        for each in range(self._random.randrange(3)):
            asn1 = self._either([self._certificates[each]], [b"junk", self._certificates[each] + b"\0"])
            drawn.x509_authorities.add(asn1=asn1)
        drawn.refresh_hint, drawn.sequence_number = self._one([0, 60, 2**40]), self._one([0, 7, 2**63])
        return drawn

    def _set_bundle(self) -> Request:
        which = self._one(["Create", "Set", "Update"])
        request = getattr(bundle, f"Batch{which}FederatedBundleRequest")(bundle=[self._bundle()])
        if which == "Update":
            self._mask(request, "input_mask", 0.7)
        self._mask(request, "output_mask", 0.3)
        reply = getattr(bundle, f"Batch{which}FederatedBundleResponse")
        return Request(f"{BUNDLE}Batch{which}FederatedBundle", request, reply)

    def _bundles(self) -> Request:
        which = self._random.randrange(4)
        if which == 0:
            return Request(BUNDLE + "CountBundles", bundle.CountBundlesRequest(), bundle.CountBundlesResponse)
        if which == 1:
            listed = bundle.ListFederatedBundlesRequest()
            self._mask(listed, "output_mask", 0.5)
            return Request(BUNDLE + "ListFederatedBundles", listed, bundle.ListFederatedBundlesResponse)
        name = self._either(_FOREIGN, [*_BAD_FOREIGN, "unknown.test"], 0.3)
        if which == 2:
            one = bundle.GetFederatedBundleRequest(trust_domain=name)
            self._mask(one, "output_mask", 0.3)
            return Request(BUNDLE + "GetFederatedBundle", one, bundle_pb2.Bundle)
        # Entries may need `fed.test`, so that only RESTRICT keeps it; the others are nobody's.
        mode = _MODES.Value("RESTRICT") if "fed" in name else self._one(_MODES.values())
        request = bundle.BatchDeleteFederatedBundleRequest(trust_domains=[name])
        request.mode = mode  # type: ignore[assignment]  # a number on the wire
        return Request(
            BUNDLE + "BatchDeleteFederatedBundle", request, bundle.BatchDeleteFederatedBundleResponse
        )

    def _agents(self) -> Request:
        which = self._random.randrange(5)
        if which == 0:
            domain = self._either(["interop.test"], _BAD_DOMAINS, 0.2)
            request = agent.CreateJoinTokenRequest(ttl=self._either([60], [0, -1], 0.2))
            request.agent_id.CopyFrom(
                SPIFFEID(trust_domain=domain, path=self._one([*_BAD_PATHS, *_RESERVED]))
            )
            return Request(AGENT + "CreateJoinToken", request, jointoken_pb2.JoinToken)
        if which == 1:
            counted = agent.CountAgentsRequest()
            counted.filter.by_attestation_type = self._one(["", "join_token", "nobody"])
            return Request(AGENT + "CountAgents", counted, agent.CountAgentsResponse)
        spiffe_id = self._spiffe_id([*_RESERVED, *_PATHS])
        if which == 2:
            return Request(AGENT + "GetAgent", agent.GetAgentRequest(id=spiffe_id), agent_pb2.Agent)
        if which == 3:
            return Request(AGENT + "DeleteAgent", agent.DeleteAgentRequest(id=spiffe_id), Empty)
        return Request(AGENT + "BanAgent", agent.BanAgentRequest(id=spiffe_id), Empty)
