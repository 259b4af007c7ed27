"""The agent's smaller parts: back-off, settings, sockets, explanations, node attestors, received chains."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import Backoff
from agent.bootstrap import read_trust_bundle
from agent.endpoint import parse_endpoint
from agent.explain import near_misses
from agent.jwt_svids import key_id_of
from agent.keys import FreshKey
from agent.matching import SelectorIndex
from agent.node_attestors import JoinToken, X509ProofOfPossession
from agent.settings import AgentSettings, WrittenSettings, parse_server
from agent.sockets import lock_data_dir, prepare_socket
from control_plane.core.csr import check_csr
from control_plane.core.errors import FailedPrecondition, GatehouseError, InvalidInput, PeerMisbehaved
from control_plane.core.secret import Secret
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain

TD = TrustDomain("agents.test")


@given(st.integers(1, 10_000), st.text(max_size=20))
def test_waits_are_bounded_and_the_same_for_the_same(attempt: int, seed: str) -> None:
    backoff = Backoff(first_seconds=1, ceiling_seconds=60)
    wait = backoff.delay(attempt, seed)
    assert 0.5 <= wait <= 60
    assert wait == backoff.delay(attempt, seed)


def test_waits_grow_and_differ_between_agents() -> None:
    backoff = Backoff(first_seconds=1, ceiling_seconds=64)
    assert [backoff.delay(attempt, "a") <= 2 ** (attempt - 1) for attempt in range(1, 8)] == [True] * 7
    assert backoff.delay(7, "a") >= 32
    assert len({backoff.delay(5, f"agent-{number}") for number in range(100)}) == 100


@given(st.data())
def test_the_index_finds_what_a_full_scan_finds(data: st.DataObject) -> None:
    from control_plane.core.entry import Entry

    selector = st.sampled_from([Selector("unix", f"uid:{number}") for number in range(6)])
    index, entries = SelectorIndex(), {}
    for number in range(data.draw(st.integers(0, 12))):
        one = Entry(
            id=f"e{data.draw(st.integers(0, 5))}",
            spiffe_id=SpiffeId(TD, f"/w{number}"),
            parent_id=SpiffeId(TD, "/n"),
            selectors=data.draw(st.frozensets(selector, min_size=1, max_size=3)),
        )
        if data.draw(st.booleans()):
            index.put(one)
            entries[one.id] = one
        else:
            index.remove(one.id)
            entries.pop(one.id, None)
    attested = data.draw(st.frozensets(selector))
    assert set(index.match(attested)) == {one for one in entries.values() if one.selectors <= attested}


@pytest.mark.parametrize("text", ["unix:/run/a.sock", "unix:///run/a.sock"])
def test_e_06_the_endpoint_is_a_unix_path(text: str) -> None:
    assert parse_endpoint(text) == Path("/run/a.sock")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/run/a.sock",
        "unix:",
        "unix:a.sock",
        "unix://host/a.sock",
        "unix:////a",
        "tcp://127.0.0.1:1",
        "unix:/a?b",
    ],
)
def test_e_06_other_endpoints_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="SPIFFE_ENDPOINT_SOCKET"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gatehouse.example.org:8081", ("gatehouse.example.org", 8081)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:8081", ("::1", 8081)),
    ],
)
def test_server_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_server(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", "host:0", "host:65536", ":8081", "host:80 ", "ho st:80", "a/b:80", "host:８０"],
)
def test_bad_server_addresses(text: str) -> None:
    with pytest.raises(InvalidInput, match="host:port"):
        parse_server(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"data_dir": ""},
        {"trust_domain": ""},
        {"trust_domain": "UPPER"},
        {"x509pop_key": "k"},
        {"join_token": Secret("t"), "x509pop_key": "k", "x509pop_certificate": "c"},
        {"trust_bundle": "b", "insecure_bootstrap": True},
        {"log_level": "loud"},
        {"svid_cache_size": 0},
        {"join_token": Secret("a\nb")},
    ],
)
def test_bad_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        AgentSettings.parse(WrittenSettings(**{"data_dir": "d", "trust_domain": "a.test", **changes}))


def test_settings_do_not_show_the_token() -> None:
    written = WrittenSettings(data_dir="d", trust_domain="a.test", join_token=Secret("s3cret"))
    assert "s3cret" not in repr(written) + repr(AgentSettings.parse(written))


def test_a_socket_is_taken_only_if_nobody_answers(short_dir: Path) -> None:
    path = short_dir / "sub" / "agent.sock"
    prepare_socket(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with pytest.raises(FailedPrecondition, match="answers there"):
        prepare_socket(path)
    listener.close()
    prepare_socket(path)  # left behind: nobody answers
    path.unlink()
    path.write_text("a file")
    with pytest.raises(FailedPrecondition, match="something else"):
        prepare_socket(path)


def test_a_folder_that_everybody_can_write_to_is_refused(short_dir: Path) -> None:
    (short_dir / "open").mkdir()
    (short_dir / "open").chmod(0o777)
    with pytest.raises(FailedPrecondition, match="others may write"):
        prepare_socket(short_dir / "open" / "agent.sock")


def test_a_folder_of_somebody_else_is_refused(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns a folder can put a socket of their own in our place, whatever its mode. Root could anyway."""
    folder = short_dir / "theirs"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 65_534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    for refused in (lambda: prepare_socket(folder / "agent.sock"), lambda: lock_data_dir(folder)):
        with pytest.raises(FailedPrecondition, match=r"belongs to user \d+.*chown"):
            refused()
    assert not list(folder.iterdir())


def test_one_agent_a_data_directory(short_dir: Path) -> None:
    lock = lock_data_dir(short_dir / "data")
    with pytest.raises(FailedPrecondition, match="another agent"):
        lock_data_dir(short_dir / "data")
    os.close(lock)
    os.close(lock_data_dir(short_dir / "data"))


def test_near_misses_name_what_is_missing(entry: Any) -> None:
    attested = frozenset(Selector.parse(text) for text in ("unix:uid:1", "unix:gid:1"))
    entries = [
        entry("match", "/a", "unix:uid:1"),
        entry("typo", "/b", "unix:uid:1", "unix:path:/usr/bin/crat"),
        entry("other", "/c", "unix:uid:2"),
        entry("two", "/d", "unix:uid:1", "unix:user:x", "unix:group:y"),
        entry("far", "/e", "unix:uid:2", "unix:gid:2"),
        entry("node", "/f", "spiffe_id:spiffe://agents.test/spire/agent/x"),
    ]
    found = near_misses(entries, attested)
    assert [(miss.entry.id, [str(each) for each in miss.missing]) for miss in found] == [
        ("typo", ["unix:path:/usr/bin/crat"]),
        ("other", ["unix:uid:2"]),
        ("two", ["unix:group:y", "unix:user:x"]),
    ]
    assert len(near_misses([entry(f"e{number}", "/w", "unix:uid:5") for number in range(50)], attested)) == 10


def test_a_join_token_is_its_own_payload_and_is_never_challenged() -> None:
    token = JoinToken(Secret("t0ken"))
    assert token.payload() == b"t0ken"
    assert "t0ken" not in token.evidence
    with pytest.raises(PeerMisbehaved):
        token.respond(b"{}")


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def write_key(path: Path, key: Any) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def test_x509pop_signs_both_nonces_by_rsa_pss(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    ours, theirs = secrets.token_bytes(32), secrets.token_bytes(32)
    attestor = X509ProofOfPossession(tmp_path / "c", write_key(tmp_path / "k", rsa_key), lambda count: ours)
    challenge = json.dumps({"rsa_signature": {"nonce": base64.b64encode(theirs).decode()}}).encode()
    answer = json.loads(attestor.respond(challenge))["rsa_signature"]
    assert base64.b64decode(answer["nonce"]) == ours
    rsa_key.public_key().verify(
        base64.b64decode(answer["signature"]),
        theirs + ours,
        padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO),
        hashes.SHA256(),
    )


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"{}",
        b"[]",
        b'{"rsa_signature": {"nonce": "AAAA"}}',
        b'{"rsa_signature": {"nonce": "!"}}',
        b'{"rsa_signature": null}',
        b'{"ecdsa_signature": {"nonce": "' + base64.b64encode(bytes(32)) + b'"}}',
    ],
)
def test_x509pop_refuses_odd_challenges(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, challenge: bytes) -> None:
    attestor = X509ProofOfPossession(tmp_path / "c", write_key(tmp_path / "k", rsa_key), secrets.token_bytes)
    with pytest.raises(PeerMisbehaved):
        attestor.respond(challenge)


def test_x509pop_says_which_file_is_unfit(tmp_path: Path) -> None:
    attestor = X509ProofOfPossession(
        tmp_path / "absent",
        write_key(tmp_path / "k", ed25519.Ed25519PrivateKey.generate()),
        secrets.token_bytes,
    )
    with pytest.raises(FailedPrecondition, match="absent"):
        attestor.payload()
    with pytest.raises(InvalidInput, match="Ed25519"):
        attestor.respond(b"{}")
    assert attestor.evidence == ""


def test_a_request_carries_a_key_and_no_name() -> None:
    key = FreshKey()
    csr = check_csr(key.csr)
    assert csr.uri is None and csr.is_p256
    assert "Secret" in repr(key.pkcs8())


def test_a_chain_is_taken_only_if_it_is_for_us(node_server: Any) -> None:
    now = 1_700_000_000
    ca, key = node_server.Ca(TD, now), FreshKey()
    mine = SpiffeId(TD, "/w")
    spki = check_csr(key.csr).spki
    assert key.accept([ca.leaf(mine, spki, now, 60)], mine, now).spiffe_id == mine
    for chain, expected, at, reason in [
        ([ca.leaf(mine, spki, now, 60)], SpiffeId(TD, "/x"), now, "asked was"),
        ([ca.leaf(mine, check_csr(FreshKey().csr).spki, now, 60)], mine, now, "another key"),
        ([ca.leaf(mine, spki, now, 60)], mine, now + 61, "expired"),
        ([], mine, now, "can't be used"),
        ([b"junk"], mine, now, "can't be used"),
        ([ca.certificate], None, now, "another key|can't be used"),
    ]:
        with pytest.raises(PeerMisbehaved, match=reason):
            key.accept(chain, expected, at)


def test_a_short_life_is_not_renewed_in_a_loop(node_server: Any) -> None:
    now = 1_700_000_000
    ca, key = node_server.Ca(TD, now), FreshKey()
    for ttl in (4, 60, 100, 3600):
        svid = key.accept([ca.leaf(SpiffeId(TD, "/w"), check_csr(key.csr).spki, now, ttl)], None, now)
        assert now < key.hold(svid, now).renew_at < now + ttl


def test_trust_bundles_in_both_forms(tmp_path: Path, node_server: Any) -> None:
    from control_plane.core.bundle import Bundle, X509Authority

    bundle = Bundle(TD, (X509Authority(node_server.Ca(TD, 1_700_000_000).certificate),))
    for name, text in (("b.pem", bundle.to_pem()), ("b.json", "\n " + bundle.to_json())):
        (tmp_path / name).write_text(text)
        assert read_trust_bundle(tmp_path / name, TD).x509_authorities == bundle.x509_authorities
    for name, text in (("empty.json", '{"keys":[]}'), ("empty.pem", ""), ("junk", "\x00\x01")):
        (tmp_path / name).write_text(text)
        with pytest.raises(GatehouseError):
            read_trust_bundle(tmp_path / name, TD)
    with pytest.raises(FailedPrecondition):
        read_trust_bundle(tmp_path / "absent", TD)


@pytest.mark.parametrize("token", ["", "a.b.c", "e30.x.y", "W10.x.y", "é.x.y"])
def test_a_token_without_a_key_id_has_none(token: str) -> None:
    assert key_id_of(token) == ""


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_our_server_believes_our_x509pop(
    tmp_path: Path, node_server: Any, rsa_key: rsa.RSAPrivateKey, kind: str
) -> None:
    import asyncio

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from control_plane.identity.attestors.x509pop import X509PopAttestor

    now = 1_700_000_000
    key: Any = rsa_key if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
    ca = node_server.Ca(TD, now)
    leaf = x509.load_der_x509_certificate(ca.leaf(SpiffeId(TD, "/node"), node_server.spki(key), now, 60))
    (tmp_path / "c").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    ours = X509ProofOfPossession(tmp_path / "c", write_key(tmp_path / "k", key), secrets.token_bytes)
    conversation = X509PopAttestor(TD, [ca.certificate], secrets.token_bytes).begin(ours.payload(), now)
    challenge = asyncio.run(conversation.proceed(None))
    node = asyncio.run(conversation.proceed(ours.respond(challenge.data)))  # type: ignore[union-attr]
    assert "/spire/agent/x509pop/" in str(node.agent_id)  # type: ignore[union-attr]
