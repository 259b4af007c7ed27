"""Fuzz targets of what is kept: the compiler's rows, formulas, stored policies, rows of the database.

All of it is ours; a disk may bend it, and somebody who may write there is no reason to crash.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable
from typing import Any, Final, cast

from fuzz_identity import BUNDLE, NOW, WEB

from control_plane.core.entry import Entry
from control_plane.core.errors import GatehouseError
from control_plane.identity.quarantine import Quarantined
from control_plane.rollout.steps import read_step, write_step
from control_plane.rollout.version import PolicySource
from control_plane.sql import rows
from policies.formula import Origin, policy_set_from_json, policy_set_to_json
from policies.inventory_file import parse_inventory
from policies.kept import records, shelf
from policies.kept.facts import Facts
from policies.kept.reads import parse_read, read_text
from policies.kept.signatures import Signature

_NAME: Final = b"n" * 32
_ORIGINS: Final = tuple(Origin("a.rego", line, "allow") for line in (1, 2))
_LINES: Final = records.Lines(Signature("d", _ORIGINS, frozenset()))
_FACTS: Final = Facts(
    parse_inventory(
        "mesh: {trust_domain: example.org}\nworkloads:\n"
        "- {name: web, namespace: shop, service_account: web, labels: {app: web}}\n"
    )
)


def fuzz_kept(data: bytes) -> bool:
    """A row behind a seal that holds, plain and packed, and each record that it may be."""
    accepted = False
    for body in (b"j" + data, b"z" + zlib.compress(data, 0), b"z" + data):
        document = shelf._read(_NAME, shelf._seal(_NAME, body) + body)
        for read in _RECORDS:
            with contextlib.suppress(GatehouseError):
                accepted = read(document) != () or accepted
    return accepted


def _read_back(text: object) -> object:
    """A read, which is written as what reads the same."""
    read = parse_read(str(text))
    written = read_text(read)
    assert written is None or parse_read(written) == read
    return read


_RECORDS: Final[tuple[Callable[[Any], object], ...]] = (
    lambda document: records.read_all(document, lambda one: records.read_verdict(one, "w", _LINES)),
    lambda document: records.read_all(document, lambda one: records.read_shortfall(one, "t", "w", _LINES)),
    lambda document: records.read_all(document, lambda one: records.read_breach(one, "w", _LINES)),
    lambda document: records.read_all(document, lambda one: records.read_blocked(one, "w", _LINES)),
    lambda document: records.read_all(document, records.read_written),
    lambda document: records.read_all(document, _read_back),
    lambda document: records.read_all(document, lambda one: _FACTS.digest([str(one)])),
)


def fuzz_formula(data: bytes) -> bool:
    """Policies as formulas; what is read is written as what reads the same."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
        with contextlib.suppress(GatehouseError):
            read = policy_set_from_json(document)
            assert policy_set_from_json(policy_set_to_json(read)) == read
            return True
    return False


def fuzz_stored_policy(data: bytes) -> bool:
    """A policy version as it is stored, and a step of its life."""
    accepted = False
    for packed in (data, zlib.compress(data, 0)):
        with contextlib.suppress(GatehouseError):
            source = PolicySource.unpack(packed)
            assert PolicySource.unpack(source.pack()) == source
            accepted = True
    with contextlib.suppress(GatehouseError):
        step = read_step(data.decode("utf-8", "replace"))
        assert read_step(write_step(step)) == step
        accepted = True
    return accepted


def fuzz_database_row(data: bytes) -> bool:
    """A row of each table that holds texts of ours, as JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        row = json.loads(data)
        if not isinstance(row, dict):
            return False
        full = _Row({name: value for name, value in row.items() if isinstance(value, str | int | bytes)})
        accepted = False
        for read in (rows.read_entry, rows.read_agent, rows.read_bundle, rows.read_quarantined):
            with contextlib.suppress(GatehouseError):
                read(cast(Any, full))
                accepted = True
        return accepted
    return False


_REQUEST: Final = [[["request.path"], "/a"], [["source.spiffe_id"], str(WEB)], [["destination.port"], 80]]


def _kept() -> list[bytes]:
    documents: list[object] = [
        [["http", "exact", None, [0, 1], "", []], ["http", "narrower", _REQUEST, [0], "why", ["a"]]],
        [["narrowed", "why", [0]]],
        [[[0], _REQUEST, [1], ""]],
        [[str(WEB), _REQUEST, [0], [1], True, ""]],
        [["a.yaml", "shop", {"app": "web"}, "d"], ["a.yaml", "shop", None, "d"]],
        [
            json.dumps(["requests"]),
            json.dumps(["data", "a", "b"]),
            json.dumps(["rows", ["a"], [["b", "c"]], True, False, '["x",1]']),
        ],
        [
            json.dumps(["whole"]),
            json.dumps(["source.labels", "app", {"is": "web"}]),
            json.dumps(["source.namespace"]),
        ],
    ]
    return [json.dumps(one).encode() for one in documents]


def _formulas() -> list[bytes]:
    atoms = [
        {"atom": "prefix", "on": ["request.path"], "args": ["/a/"], "not": True},
        {"atom": "in", "on": ["source.namespace"], "args": ["a", "b"]},
        {"atom": "regex", "on": ["request.headers", "x"], "args": ["a+"]},
        {"atom": "between", "on": ["destination.port"], "args": [1, 80]},
        {"atom": "cidr", "on": ["source.ip"], "args": ["10.0.0.0/8"]},
        {"atom": "glob", "on": ["request.path"], "args": ["/*/b", "/"]},
        {"atom": "present", "on": ["jwt.claims", "a"]},
    ]
    rule = {"formula": {"and": [atoms[0], {"or": atoms[1:]}]}, "origins": [["a.rego", 3, "allow"]]}
    question = {"allow": [rule], "deny": [{"formula": True, "origins": []}]}
    return [json.dumps({"bundle_digest": "d", "workloads": {"shop/web": {"authz": question}}}).encode()]


def _stored() -> list[bytes]:
    packed = PolicySource({"a.rego": "package a\n"}, "version: 1\n").pack()
    steps: list[dict[str, object]] = [
        {"kind": "refused", "at": NOW, "stage": "proved", "reasons": ["a"]},
        {"kind": "approved", "at": NOW, "by": "login:ada", "reason": "why", "plan_digest": "d"},
    ]
    return [packed, zlib.decompress(packed), *(json.dumps(one).encode() for one in steps)]


class _Row(dict[str, Any]):
    """A row whose columns that weren't given are empty."""

    def __missing__(self, name: str) -> object:
        return 0


def _rows() -> list[bytes]:
    entry = Entry.parse(spiffe_id=str(WEB), parent_id=str(WEB), selectors=["unix:uid:1"], id="one")
    cut_off = Quarantined(WEB, "why", "login:olga", NOW)
    agent = {
        **{"id": str(WEB), "attestation_type": "x509pop", "selectors": '["a:b"]', "serial": "1f"},
        **{"new_serial": "20", "expires_at": NOW, "banned": False, "version": "1"},
    }
    written: list[dict[str, Any]] = [
        {name: value for name, value in rows.entry_row(entry).items() if not isinstance(value, bytes)},
        agent,
        rows.bundle_row(BUNDLE),
        {"spiffe_id": str(WEB), "reason": cut_off.reason, "by": cut_off.by, "at": cut_off.at},
    ]
    return [json.dumps(one).encode() for one in written]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "kept": _kept,
    "formula": _formulas,
    "stored_policy": _stored,
    "database_row": _rows,
}
