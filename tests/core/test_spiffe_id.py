"""SPIFFE IDs: each rule of SPIFFE-ID.md that a parser keeps, and what other parsers let through."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.errors import InvalidInput
from control_plane.core.spiffe_id import (
    SpiffeId,
    TrustDomain,
    agent_id,
    is_agent_id,
    server_id,
)

DOMAIN = TrustDomain("example.org")
SEGMENT = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12).filter(
    lambda text: text not in (".", "..")
)


def refused(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        SpiffeId.parse(text)
    return caught.value.message


@pytest.mark.parametrize(
    "text", ["http://example.org/a", "spiffe:/example.org/a", "example.org/a", "", "://a/b"]
)
def test_id_01_scheme_is_spiffe(text: str) -> None:
    assert "spiffe://" in refused(text)


@pytest.mark.parametrize("text", ["spiffe://", "spiffe:///a"])
def test_id_01_trust_domain_is_not_empty(text: str) -> None:
    assert "empty" in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://example.org/a?b=c",
        "spiffe://example.org/a?",
        "spiffe://example.org/a#b",
        "spiffe://example.org/a#",
    ],
)
def test_id_02_no_query_and_no_fragment(text: str) -> None:
    assert "query nor fragment" in refused(text)


@pytest.mark.parametrize("text", ["spiffe://example.org?", "spiffe://example.org#", "spiffe://example.org?a"])
def test_id_02_no_markers_after_the_trust_domain(text: str) -> None:
    refused(text)


@pytest.mark.parametrize(
    "text", ["spiffe://user@example.org/a", "spiffe://example.org:443/a", "spiffe://a:b@c/d"]
)
def test_id_03_no_user_info_and_no_port(text: str) -> None:
    assert "user info or a port" in refused(text)


@pytest.mark.parametrize(
    "domain", ["Example.org", "EXAMPLE", "ex%41mple", "exämple.org", "a b", "a\\b", "a,b", "*"]
)
def test_id_04_trust_domain_alphabet(domain: str) -> None:
    assert "lower case" in refused(f"spiffe://{domain}/a")


@pytest.mark.parametrize(
    "domain", ["1.2.3.4", "999.999.999.999", "a..b", "-a-", "_", ".", "..", "example.org."]
)
def test_id_05_look_alikes_of_addresses_and_names_are_just_names(domain: str) -> None:
    assert SpiffeId.parse(f"spiffe://{domain}/a").trust_domain.name == domain


def test_id_05_ipv6_literals_are_outside_the_alphabet() -> None:
    refused("spiffe://[::1]/a")


@pytest.mark.parametrize("path", ["/a//b", "//a", "/a///b", "//a/b"])
def test_id_06_path_without_empty_segments(path: str) -> None:
    assert "empty segment" in refused(f"spiffe://example.org{path}")


@pytest.mark.parametrize("path", ["/.", "/..", "/a/../b", "/a/./b", "/../a", "/a/.."])
def test_id_06_path_without_dot_segments(path: str) -> None:
    assert "segments . or .." in refused(f"spiffe://example.org{path}")


@pytest.mark.parametrize("path", ["/", "/a/"])
def test_id_06_path_without_trailing_slash(path: str) -> None:
    assert "end with a slash" in refused(f"spiffe://example.org{path}")


@pytest.mark.parametrize("path", ["/%61", "/a%2Fb", "/%2e%2e", "/a%00"])
def test_id_06_path_without_percent_encoding(path: str) -> None:
    assert "percent-encoding" in refused(f"spiffe://example.org{path}")


@pytest.mark.parametrize("character", [c for c in map(chr, range(0x100)) if c not in string.ascii_letters])
def test_id_07_path_segment_alphabet(character: str) -> None:
    text = f"spiffe://example.org/a{character}b"
    if character in string.digits + ".-_/":
        assert str(SpiffeId.parse(text)) == text
    else:
        refused(text)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\x00", " ", "\t", "\u2028"])
def test_id_07_nothing_may_trail(ending: str) -> None:
    refused(f"spiffe://example.org/a{ending}")
    refused(f"spiffe://example.org{ending}")


def test_id_08_accepts_ids_of_2048_bytes() -> None:
    text = "spiffe://example.org/" + "a" * (2048 - 21)
    assert len(text) == 2048
    assert str(SpiffeId.parse(text)) == text


def test_id_09_refuses_longer_ids_however_they_are_made() -> None:
    assert "2048" in refused("spiffe://example.org/" + "a" * (2049 - 21))
    with pytest.raises(InvalidInput):
        SpiffeId.of(DOMAIN, "a" * (2049 - 21))
    with pytest.raises(InvalidInput):
        SpiffeId(DOMAIN, "/" + "a" * (2049 - 21))


def test_id_09_trust_domain_of_255_bytes_at_most() -> None:
    assert TrustDomain("a" * 255).name == "a" * 255
    with pytest.raises(InvalidInput, match="255"):
        TrustDomain("a" * 256)


def test_id_10_upper_case_is_refused_rather_than_folded() -> None:
    refused("SPIFFE://example.org/a")
    refused("spiffe://Example.org/a")


def test_id_10_paths_are_case_sensitive() -> None:
    assert SpiffeId.parse("spiffe://example.org/A") != SpiffeId.parse("spiffe://example.org/a")


def test_id_12_the_id_of_a_trust_domain_has_no_path() -> None:
    assert str(DOMAIN.id) == "spiffe://example.org"
    assert not DOMAIN.id.has_path
    assert DOMAIN.id.segments == ()


@given(st.lists(SEGMENT, max_size=8))
def test_what_is_built_from_segments_reads_back(segments: list[str]) -> None:
    spiffe_id = SpiffeId.of(DOMAIN, *segments)
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
    assert spiffe_id.segments == tuple(segments)


@given(st.text(max_size=40))
def test_whatever_parses_prints_as_it_was(text: str) -> None:
    candidate = f"spiffe://{text}"
    try:
        spiffe_id = SpiffeId.parse(candidate)
    except InvalidInput as error:
        assert error.message.isascii()
    else:
        assert str(spiffe_id) == candidate


@pytest.mark.parametrize("segment", ["", ".", "..", "a/b", "a\n", "%41", "?"])
def test_segments_cannot_smuggle_anything_in(segment: str) -> None:
    with pytest.raises(InvalidInput):
        SpiffeId.of(DOMAIN, "a", segment)


def test_the_constructor_checks_too() -> None:
    for path in ("a", "/", "/a/..", "/a\n"):
        with pytest.raises(InvalidInput):
            SpiffeId(DOMAIN, path)
    with pytest.raises(InvalidInput):
        TrustDomain("A")


def test_messages_are_bounded() -> None:
    assert len(refused("spiffe://" + "A" * 100_000)) < 600


def test_reserved_and_agent_ids() -> None:
    assert str(server_id(DOMAIN)) == "spiffe://example.org/spire/server"
    agent = agent_id(DOMAIN, "join_token", "abc")
    assert str(agent) == "spiffe://example.org/spire/agent/join_token/abc"
    assert is_agent_id(agent) and agent.is_reserved
    assert not is_agent_id(server_id(DOMAIN)) and server_id(DOMAIN).is_reserved
    assert not is_agent_id(SpiffeId.parse("spiffe://example.org/spire/agent"))
    assert not SpiffeId.parse("spiffe://example.org/spirea/b").is_reserved
    assert SpiffeId.parse("spiffe://example.org/spire").is_reserved


def test_a_trust_domain_reads_from_its_name_or_its_id() -> None:
    assert TrustDomain.parse("example.org") == TrustDomain.parse("spiffe://example.org") == DOMAIN
    for text in ("spiffe://example.org/", "spiffe://example.org/a", "https://example.org", "example.org\n"):
        with pytest.raises(InvalidInput):
            TrustDomain.parse(text)
