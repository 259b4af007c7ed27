"""The description of a service: what it may say, what it is told when it is wrong, that nothing is lost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.envoy.address import Address
from agent.envoy.description import MAX_LISTENERS, Protocol, ServiceDescription
from agent.envoy.description_file import read_description
from control_plane.core.errors import GatehouseError, InvalidInput, NotFound

GOOD: dict[str, Any] = {
    "name": "pay",
    "spiffe_id": "spiffe://shop.test/pay",
    "inbound": [{"listen": "0.0.0.0:8443", "upstream": "127.0.0.1:8080", "protocol": "http"}],
    "outbound": [
        {
            "name": "db",
            "listen": "unix:/run/db.sock",
            "upstream": "db.shop.test:9432",
            "spiffe_id": "spiffe://shop.test/db",
            "protocol": "tcp",
        }
    ],
}


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    place: Any = document
    *steps, last = path.split(".")
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    key = int(last) if last.isdigit() else last
    if value is None:
        del place[key]
    else:
        place[key] = value
    return document


def test_a_description_is_read_and_written_back() -> None:
    service = ServiceDescription.parse(GOOD)
    assert service.inbound[0].name == "in-8443" and service.inbound[0].protocol is Protocol.HTTP
    assert str(service.outbound[0].listen) == "unix:/run/db.sock"
    assert ServiceDescription.parse(service.to_document()) == service


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("name", None, "reading the service: name is missing"),
        ("name", "Pay!", "'Pay!' isn't a name"),
        ("name", "a\n", "isn't a name"),
        ("nmae", "x", "there is no 'nmae' — did you mean name?"),
        ("spiffe_id", "spiffe://shop.test", "is a trust domain"),
        ("spiffe_id", "https://x", "reading the service, spiffe_id"),
        ("inbound", {}, "a list of up to 128 tables is expected"),
        ("inbound", ["x"], "reading inbound 1: 'x' came, a table is expected"),
        ("inbound.0.listen", None, "reading inbound 1: listen is missing"),
        ("inbound.0.listen", 8443, "listen is 8443, a text is expected"),
        ("inbound.0.listen", "pay.test:80", "names a host"),
        ("inbound.0.listen", "127.0.0.1:0", "isn't an address"),
        ("inbound.0.listen", "127.0.0.1:65536", "isn't an address"),
        ("inbound.0.listen", "unix:/run/x", "an address and a port are expected"),
        ("inbound.0.upstream", "unix:relative", "isn't a unix socket"),
        ("inbound.0.protocol", "HTTP", "isn't a protocol: one of http, http2, grpc, tcp, tcp-server-first"),
        ("inbound.0.spiffe_id", "spiffe://a/b", "reading inbound 1: there is no 'spiffe_id'"),
        ("outbound.0.spiffe_id", None, "reading outbound 1: spiffe_id is missing"),
        ("outbound.0.name", "in-8443", "the name in-8443 is given twice"),
        ("outbound.0.listen", "0.0.0.0:8443", "the listen address 0.0.0.0:8443 is given twice"),
        ("access_log", "relative", "isn't an absolute path"),
        ("inbound", [{}] * (MAX_LISTENERS + 1), "a list of up to"),
    ],
)
def test_a_mistake_is_named_with_its_place(path: str, value: object, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ServiceDescription.parse(changed(path, value))
    assert told in str(caught.value)


def test_a_service_without_any_port_is_refused() -> None:
    with pytest.raises(InvalidInput, match="neither inbound nor outbound"):
        ServiceDescription.parse({"name": "a", "spiffe_id": "spiffe://shop.test/a"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[0:0::1]:80", "[::1]:80"),
        ("DB.test:80", "db.test:80"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown
    assert Address.parse(shown) == Address.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a", "a:", "a:b", "::1:80", "[a]:80", "[::1]80", "a b:80", "a:8０", "a:80\n", "a:000080",
     "unix:", "unix:/a\0b", "unix:/" + "x" * 107, "[::1%eth0]:80", "-a:80"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        Address.parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(["", *GOOD, "inbound.0.listen", "inbound.0", "outbound.0.protocol"]), JSON)
def test_whatever_comes_is_read_or_refused(path: str, value: object) -> None:
    document = changed(path, value) if path else value
    try:
        service = ServiceDescription.parse(document)
    except GatehouseError:
        return
    assert ServiceDescription.parse(service.to_document()) == service


TOML = """
name = "pay"
spiffe_id = "spiffe://shop.test/pay"
[[inbound]]
listen = "127.0.0.1:8443"
upstream = "127.0.0.1:8080"
protocol = "grpc"
"""
YAML = """
name: pay
spiffe_id: spiffe://shop.test/pay
inbound:
- {listen: "127.0.0.1:8443", upstream: "127.0.0.1:8080", protocol: grpc}
"""


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "a.yaml").write_text(YAML)
    assert read_description(tmp_path / "a.toml") == read_description(tmp_path / "a.yaml")


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    broken, binary, large = tmp_path / "a.toml", tmp_path / "b.yaml", tmp_path / "c.toml"
    broken.write_text("name = [")
    binary.write_bytes(b"\xff\xfe")
    large.write_bytes(b"#" * 300_000)
    for path in (broken, binary, large):
        with pytest.raises(InvalidInput, match=str(path)):
            read_description(path)
    with pytest.raises(NotFound, match="No such file"):
        read_description(tmp_path / "none.toml")
