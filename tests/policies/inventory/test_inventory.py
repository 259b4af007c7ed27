"""The inventory: its format, its checks, hostile input, and size."""

import contextlib
import json
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from control_plane.core.errors import GatehouseError, InvalidInput, ResourceExhausted
from policies.documents import read_document, read_documents, write_yaml
from policies.inventory import Mode, Protocol
from policies.inventory_file import inventory_from_document, parse_inventory

DEMO = (Path(__file__).parents[3] / "deploy" / "demo" / "inventory.yaml").read_text()
SCHEMA = json.loads((Path(policies.__file__).parent / "inventory.schema.json").read_text())


def smallest(**workload: object) -> dict[str, object]:
    return {
        "mesh": {"trust_domain": "example.org"},
        "workloads": [{"name": "a", "namespace": "n"} | workload],
    }


def test_the_demo_is_read_and_fits_the_schema() -> None:
    inventory = parse_inventory(DEMO)
    assert inventory.workloads
    for workload in inventory.workloads:
        assert workload.spiffe_id.startswith(f"spiffe://{inventory.mesh.trust_domain}/")
        assert inventory.selected_by(workload.namespace, workload.labels) == (workload,)
    jsonschema.validate(yaml.safe_load(DEMO), SCHEMA)


def test_ports_and_segments() -> None:
    ports = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 9090, "protocol": "grpc"}]
    document = smallest(labels={"tier": "web"}, services=[{"name": "s", "ports": ports}])
    document["segments"] = [{"name": "web", "labels": {"tier": "web"}}, {"name": "none", "namespaces": ["x"]}]
    inventory = inventory_from_document(document)
    assert dict(inventory.by_key["n/a"].ports) == {8080: Protocol.HTTP, 9090: Protocol.GRPC}
    assert inventory.segments == {"web": ("n/a",), "none": ()}


def test_json_reads_the_same() -> None:
    assert parse_inventory(json.dumps(yaml.safe_load(DEMO))) == parse_inventory(DEMO)


def test_labels_that_workloads_of_one_identity_disagree_on_are_no_fact() -> None:
    document = smallest(labels={"tier": "web", "app": "x"})
    document["workloads"].append({"name": "b", "namespace": "n", "labels": {"tier": "data", "app": "x"}})
    inventory = inventory_from_document(document)
    identity = "spiffe://example.org/ns/n/sa/default"
    assert inventory.label_values("app") == ({identity: "x"}, {})
    assert inventory.label_values("tier") == ({}, {identity: ("n/a", "n/b")})


@pytest.mark.parametrize(("change", "message"), [
    ({"nmae": "x"}, "unknown field 'nmae'"),
    ({"name": "A B"}, r"workloads\[0\].name"),
    ({"spiffe_id": "http://x"}, "spiffe_id"),
    ({"spiffe_id": "spiffe://example.org"}, "with a path"),
    ({"labels": {"a b": "c"}}, "Kubernetes label"),
    ({"mode": "sidecat"}, "one of sidecar, waypoint"),
    ({"mode": "waypoint"}, "waypoint"),
    ({"waypoint": {"name": "w"}}, "mode is sidecar"),
    ({"services": [{"name": "s", "ports": [{"port": 0}]}]}, "1 to 65535"),
    ({"services": [{"name": "s", "ports": [{"port": True}]}]}, "1 to 65535"),
    ({"services": [{"name": "s", "ports": [{"port": 1}, {"port": 1}]}]}, "twice"),
    ({"services": [{"name": "s", "ports": [
        {"port": 1, "target_port": 9, "protocol": "http"}, {"port": 2, "target_port": 9}]}]}, "one protocol"),
])  # fmt: skip
def test_errors_name_the_place(change, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        inventory_from_document(smallest(**change))


def test_a_workload_twice_is_refused() -> None:
    document = smallest()
    document["workloads"] *= 2
    with pytest.raises(InvalidInput, match="n/a stands there twice"):
        inventory_from_document(document)


@pytest.mark.parametrize(("text", "message"), [
    ("a: &x [1]\nb: *x", "anchors and aliases"),
    ("a: 1\na: 2", "line 2.*twice"),
    ("a: !!python/object:os.system x", "tag"),
    ("a: yes", "quote it"),
    ("a: 0123", "quote it"),
    ("a: 12:30", "quote it"),
    ("1: x", "not a text"),
    ("a: [", "line 1|expected"),
    ('{"a": 1, "a": 2}', "twice"),
])  # fmt: skip
def test_yaml_that_two_readers_read_differently_is_refused(text, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_document(text, "a test")


def test_nesting_is_bounded() -> None:
    with pytest.raises(GatehouseError):
        read_document("[" * 100_000, "a test")
    with pytest.raises(ResourceExhausted):
        list(read_documents("\n".join("  " * depth + "a:" for depth in range(100)), "a test"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=15,
)


@given(JSON)
@settings(max_examples=200)
def test_yaml_written_is_read_back_by_us_and_by_yaml_1_1(document) -> None:
    text = write_yaml(document)
    assert list(read_documents(text, "a test")) == [document]
    assert yaml.safe_load(text) == document


@given(st.text(max_size=80))
@settings(max_examples=150)
def test_hostile_text_is_refused_and_never_crashes(text) -> None:
    with contextlib.suppress(GatehouseError):
        parse_inventory(text)


def test_a_hundred_thousand_workloads_in_bounded_time() -> None:
    port = {"name": "s", "ports": [{"port": 80, "target_port": 8080, "protocol": "http"}]}
    document = {"mesh": {"trust_domain": "example.org"}, "workloads": [
        {"name": f"w{i}", "namespace": f"n{i % 100}", "service_account": f"w{i}", "labels": {"app": f"w{i}"},
         "services": [port]} for i in range(100_000)]}  # fmt: skip
    text = json.dumps(document)
    started = time.process_time()
    inventory = parse_inventory(text)
    assert len(inventory.by_identity) == 100_000
    assert inventory.selected_by("n7", {"app": "w7"})[0].mode is Mode.SIDECAR
    assert time.process_time() - started < 30  # of the processor: the clock on the wall is others' too
