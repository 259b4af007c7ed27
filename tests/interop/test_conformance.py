"""Rules of the standards that only a running server and agent can show, and that every rule has a test."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509

from control_plane.core.bundle import DEFAULT_REFRESH_HINT_SECONDS, Bundle
from control_plane.core.errors import Unauthenticated
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.verify_x509 import Purpose, verify_x509

ROOT = Path(__file__).resolve().parent.parent.parent
NOW_IN_LIFE = 600

pytestmark = pytest.mark.xdist_group("conformance")


@pytest.fixture(scope="module")
def written(running: ModuleType, server: Any, agent: Any, my_uid: str, folder: Path) -> Path:
    """A folder with the chain and bundle that a workload was given."""
    server.register("rules", f"spiffe://{server.trust_domain}/node/one", my_uid)
    place = folder / "written"
    command = [
        running.BIN / "gatehouse-agent",
        "api",
        "fetch",
        "x509",
        "--data-dir",
        agent.data,
        "--write",
        place,
    ]
    running.until(lambda: running.run(command, check=False) and place.exists(), "an identity", log=agent.log)
    return place


def _chain(place: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((place / "svid.0.pem").read_bytes())


def _bundle(server: Any) -> Bundle:
    return Bundle.parse_pem(TrustDomain.parse(server.trust_domain), server.cli("bundle", "show")["pem"])


def _uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_id_11_the_signing_authority_has_an_identity_of_its_own(server: Any) -> None:
    for authority in _bundle(server).x509_authorities:
        assert _uris(x509.load_der_x509_certificate(authority.certificate)) == [
            f"spiffe://{server.trust_domain}"
        ]


def test_id_13_identity_and_key_are_inside_what_is_signed(server: Any, written: Path) -> None:
    """A changed ID, or a changed key, of the same length and form, breaks the signature."""
    from cryptography.hazmat.primitives import serialization

    leaf, intermediate = (each.public_bytes(serialization.Encoding.DER) for each in _chain(written))
    bundle = _bundle(server)
    now = int(_chain(written)[0].not_valid_before_utc.timestamp()) + NOW_IN_LIFE
    assert verify_x509([leaf, intermediate], bundle, now, purpose=Purpose.CLIENT_AUTH).path == "/rules"
    renamed = leaf.replace(b"/rules", b"/ruler")
    assert renamed != leaf
    with pytest.raises(Unauthenticated):
        verify_x509([renamed, intermediate], bundle, now, purpose=Purpose.CLIENT_AUTH)
    key = _chain(written)[0].public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )  # fmt: skip
    other = _chain(written)[1].public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )  # fmt: skip
    with pytest.raises(Unauthenticated):
        verify_x509([leaf.replace(key, other), intermediate], bundle, now, purpose=Purpose.CLIENT_AUTH)


def test_id_14_an_svid_is_a_certificate_or_a_token(
    running: ModuleType, server: Any, agent: Any, written: Path
) -> None:
    """X.509 and JWT are given out; the third, incubating kind says that it is not implemented."""
    assert SpiffeId.parse(_uris(_chain(written)[0])[0]).path == "/rules"
    command = [
        running.BIN / "gatehouse-agent",
        "api",
        "fetch",
        "jwt",
        "--audience",
        "a",
        "--data-dir",
        agent.data,
    ]
    payload = running.run(command).split(".")[1]
    assert b"/rules" in base64.urlsafe_b64decode(payload + "==")
    code = (
        "import grpc, sys\n"
        "channel = grpc.insecure_channel(sys.argv[1])\n"
        "call = channel.unary_stream('/SpiffeWorkloadAPI/FetchWITSVID')\n"
        "try:\n"
        "    list(call(b'', metadata=[('workload.spiffe.io', 'true')], timeout=10))\n"
        "except grpc.RpcError as error:\n"
        "    print(error.code().name)\n"
    )
    assert running.run([sys.executable, "-c", code, agent.api]).strip() == "UNIMPLEMENTED"


def test_b_10_nobody_need_guess_the_five_minutes(server: Any) -> None:
    """Our bundle says its hint, which is what a reader assumes of one that does not."""
    assert server.cli("bundle", "show")["refresh_hint_seconds"] == DEFAULT_REFRESH_HINT_SECONDS == 300


def test_e_02_the_endpoint_serves_its_own_machine_only(agent: Any) -> None:
    """The agent listens on unix sockets and on no port."""
    targets = [str(link.readlink()) for link in Path(f"/proc/{agent.pid}/fd").iterdir()]
    inodes = {
        each.removeprefix("socket:[").removesuffix("]") for each in targets if each.startswith("socket:")
    }
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{agent.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening.add(fields[9])
    assert not inodes & listening


def test_e_04_no_tls_is_asked_for(agent: Any) -> None:
    """HTTP/2 in clear is answered with a SETTINGS frame at once."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(agent.data / "agent.sock"))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        header = connection.recv(9)
    assert header[3] == 4, "the first frame is SETTINGS"


def test_every_rule_of_ours_has_a_test() -> None:
    code = "import sys; sys.path.insert(0, 'docs'); import generate; print(*generate.untested())"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == []
