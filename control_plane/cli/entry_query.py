"""Which entries `entry show` and `entry count` ask for: their flags, and the filter of the server's API."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated

import typer

from control_plane.cli import wire
from control_plane.proto.google.protobuf.wrappers_pb2 import BoolValue, StringValue
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.types.federateswith_pb2 import FederatesWithMatch
from control_plane.proto.spire.api.types.selector_pb2 import SelectorMatch


class Match(enum.StrEnum):
    """How what an entry has compares with what is given."""

    SUPERSET = "superset"
    SUBSET = "subset"
    EXACT = "exact"
    ANY = "any"


MatchSelectorsFlag = Annotated[
    Match,
    typer.Option(
        "--match-selectors-on",
        help="superset: entries with all of the given, and perhaps more; subset: with none but the given.",
    ),
]
FederatesFilterFlag = Annotated[
    list[str], typer.Option("--federates-with", help="A trust domain that the entry names; repeatable.")
]
MatchFederatesFlag = Annotated[
    Match, typer.Option("--match-federates-with-on", help="As --match-selectors-on, for trust domains.")
]


def filter_of(
    *,
    spiffe_id: str,
    parent_id: str,
    selectors: Sequence[str],
    match_selectors: Match,
    federates_with: Sequence[str],
    match_federates_with: Match,
    hint: str,
    downstream: bool,
) -> entry_pb2.ListEntriesRequest.Filter:
    """The filter for what is given; what is empty asks for nothing. Raises typer's usage error."""
    wanted = entry_pb2.ListEntriesRequest.Filter()
    if spiffe_id:
        wanted.by_spiffe_id.CopyFrom(wire.spiffe_id(spiffe_id, "--spiffe-id"))
    if parent_id:
        wanted.by_parent_id.CopyFrom(wire.spiffe_id(parent_id, "--parent-id"))
    if selectors:
        match = f"MATCH_{match_selectors.name}"
        wanted.by_selectors.CopyFrom(SelectorMatch(selectors=wire.selectors(selectors), match=match))
    if federates_with:
        names = [wire.trust_domain(each, "--federates-with") for each in federates_with]
        match = f"MATCH_{match_federates_with.name}"
        wanted.by_federates_with.CopyFrom(FederatesWithMatch(trust_domains=names, match=match))
    if hint:
        wanted.by_hint.CopyFrom(StringValue(value=hint))
    if downstream:
        wanted.by_downstream.CopyFrom(BoolValue(value=True))
    return wanted


def counting(wanted: entry_pb2.ListEntriesRequest.Filter) -> entry_pb2.CountEntriesRequest.Filter:
    """The same filter for a count: SPIRE's API has the message twice, field by field alike."""
    return entry_pb2.CountEntriesRequest.Filter.FromString(wanted.SerializeToString())
