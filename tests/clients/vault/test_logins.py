"""Logins: each method against each server, renewal before need, a token that is lost, wrapped secret IDs."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc import jwt
from joserfc.jwk import ECKey
from real_vault import NOT_IN_VAULT, REAL_KINDS, Api, RealVault, Server
from tls_authority import CertificateAuthority as Authority
from vault_server import FakeVault, tls_context

from control_plane.clients.vault.own import FIRST_SECONDS
from control_plane.core.errors import (
    FailedPrecondition,
    InvalidInput,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.secret import Secret
from control_plane.core.spiffe_id import TrustDomain
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.tls import TlsIdentity
from control_plane.runtime.vault_settings import LoginMethod
from control_plane.wiring.vault_login import common_name

READ_MOUNTS = 'path "sys/mounts" {\n  capabilities = ["read"]\n}\n'
LOOKUP = "looking ourselves up"
SVID = "spiffe://td.example/gatehouse/server"


class LaterClock(SystemClock):
    """The machine's clocks, and some seconds more; requests have as much more time."""

    seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds


@dataclass
class OwnTokens:
    """Implements `clients.vault.own.OwnSvids` for a test."""

    make_jwt: Callable[[], Secret[str]] | None = None
    shown: TlsIdentity | None = None
    is_ready: bool = True

    def jwt(self) -> Secret[str]:
        assert self.make_jwt is not None
        return self.make_jwt()

    def identity(self) -> TlsIdentity:
        assert self.shown is not None
        return self.shown


async def own_policies(door: Any) -> list[str]:
    """The policies of the token that the door uses."""
    answer = await door.ask("get", "auth/token/lookup-self", what=LOOKUP)
    return list(answer.section("data", LOOKUP)["policies"])


def make_approle(server: Server, **options: Any) -> tuple[str, str, str]:
    """A mount with a role: mount, role's ID, policy."""
    mount, policy = server.api.login("approle"), server.api.policy(READ_MOUNTS)
    server.api.write(f"auth/{mount}/role/gatehouse", token_policies=[policy], **options)
    role_id = server.api.read(f"auth/{mount}/role/gatehouse/role-id")["role_id"]
    return mount, role_id, policy


def secret_id(server: Server, mount: str) -> str:
    answer = server.api.write(f"auth/{mount}/role/gatehouse/secret-id")
    found: str = answer["data"]["secret_id"]
    return found


def wrapped_secret_id(server: Server, mount: str) -> str:
    answer = server.api("POST", f"auth/{mount}/role/gatehouse/secret-id", {}, wrap="60s")
    found: str = answer["wrap_info"]["token"]
    return found


async def test_a_token_that_was_given(server: Server) -> None:
    policy = server.api.policy(READ_MOUNTS)
    token = server.api.make_token(policy, ttl="60s")
    assert policy in await own_policies(server.door(token=Secret(token)))


async def test_a_token_from_a_file_is_read_again_once_it_is_refused(server: Server, tmp_path: Path) -> None:
    policy = server.api.policy(READ_MOUNTS)
    old, new = server.api.make_token(policy, ttl="60s"), server.api.make_token(policy, ttl="60s")
    file = tmp_path / "token"
    file.write_text(old + "\n")
    door = server.door(token=Secret(""), token_file=str(file))
    await own_policies(door)
    server.api.write("auth/token/revoke", token=old)
    file.write_text(new)
    assert policy in await own_policies(door)


async def test_approle(server: Server) -> None:
    mount, role_id, policy = make_approle(server, token_ttl="60s")
    settings = {"login": LoginMethod.APPROLE, "login_mount": mount, "role_id": role_id}
    door = server.door(**settings, login_role="gatehouse", secret_id=Secret(secret_id(server, mount)))
    assert policy in await own_policies(door)
    with pytest.raises(PermissionDenied, match=f"approle at auth/{mount}"):
        await own_policies(server.door(**settings, secret_id=Secret("wrong"), login_role="gatehouse"))


async def test_a_method_that_is_not_enabled_is_named(server: Server) -> None:
    door = server.door(
        login=LoginMethod.APPROLE, login_mount="nowhere", role_id="r", secret_id=Secret("s"), login_role="x"
    )
    with pytest.raises((FailedPrecondition, PermissionDenied), match="nowhere"):
        await own_policies(door)


async def test_a_wrapped_secret_id_is_unwrapped_once_for_all(server: Server, tmp_path: Path) -> None:
    mount, role_id, policy = make_approle(server, token_ttl="60s")
    wrapping = wrapped_secret_id(server, mount)
    settings = server.settings(
        login=LoginMethod.APPROLE,
        login_mount=mount,
        login_role="gatehouse",
        role_id=role_id,
        secret_id=Secret(wrapping),
        secret_id_wrapped=True,
    )
    keep = tmp_path / "vault-secret-id"
    # Three processes of a server that start together, and one that starts later.
    doors = [server.open(settings, keep=keep) for _ in range(3)]
    assert all(policy in each for each in await asyncio.gather(*map(own_policies, doors)))
    assert policy in await own_policies(server.open(settings, keep=keep))
    assert keep.stat().st_mode & 0o777 == 0o600
    # Anybody who comes with the same token afterwards is told what that means.
    with pytest.raises(PermissionDenied, match="somebody has used it before us"):
        await own_policies(server.open(settings, keep=tmp_path / "other"))


async def test_a_wrapped_text_that_is_no_secret_id_of_the_role_is_refused(
    server: Server, tmp_path: Path
) -> None:
    mount, role_id, _ = make_approle(server)
    other, _, _ = make_approle(server)
    door = server.open(
        server.settings(
            login=LoginMethod.APPROLE,
            login_mount=mount,
            login_role="gatehouse",
            role_id=role_id,
            secret_id=Secret(wrapped_secret_id(server, other)),
            secret_id_wrapped=True,
        )
    )
    with pytest.raises(PermissionDenied, match="wasn't wrapped by"):
        await own_policies(door)


def pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


def token_for(key: ec.EllipticCurvePrivateKey, **claims: Any) -> Secret[str]:
    own = {"sub": SVID, "aud": ["vault"], "iat": int(time.time()), "exp": int(time.time()) + 300}
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Secret(jwt.encode({"alg": "ES256"}, own | claims, ECKey.import_key(private)))


def make_jwt(server: Server, key: ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    mount, policy = server.api.login("jwt"), server.api.policy(READ_MOUNTS)
    server.api.write(f"auth/{mount}/config", jwt_validation_pubkeys=[pem_of(key)])
    server.api.write(
        f"auth/{mount}/role/gatehouse",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=["vault"],
        bound_subject=SVID,
        token_policies=[policy],
        token_ttl="60s",
    )
    return mount, policy


async def test_a_jwt_svid_of_our_own(server: Server) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    mount, policy = make_jwt(server, key)
    settings = server.settings(login=LoginMethod.JWT, login_mount=mount, login_role="gatehouse")
    assert policy in await own_policies(server.open(settings, own=OwnTokens(lambda: token_for(key))))
    for wrong in ({"aud": ["other"]}, {"sub": "spiffe://td.example/other"}, {"exp": int(time.time()) - 600}):
        door = server.open(settings, own=OwnTokens(lambda wrong=wrong: token_for(key, **wrong)))
        with pytest.raises(PermissionDenied, match=f"jwt at auth/{mount}"):
            await own_policies(door)
    with pytest.raises(FailedPrecondition, match=r"only the server itself.*--token-file"):
        server.door(login=LoginMethod.JWT, login_mount=mount, login_role="gatehouse", token=Secret(""))


async def test_an_operators_token_opens_the_door_until_there_is_an_svid(server: Server) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    mount, policy = make_jwt(server, key)
    first = server.api.policy(READ_MOUNTS)
    clock = LaterClock()
    settings = server.settings(
        login=LoginMethod.JWT,
        login_mount=mount,
        login_role="gatehouse",
        token=Secret(server.api.make_token(first)),
    )
    own = OwnTokens(lambda: token_for(key), is_ready=False)
    door = server.open(settings, own=own, clock=clock)
    assert first in await own_policies(door) and "for the first start" in door.login_name
    own.is_ready = True
    clock.seconds = FIRST_SECONDS - 60
    assert first in await own_policies(door)
    clock.seconds = FIRST_SECONDS
    assert policy in await own_policies(door) and "jwt" in door.login_name


async def test_a_jwt_from_a_file(server: Server, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    mount, policy = make_jwt(server, key)
    file = tmp_path / "jwt"
    file.write_text(token_for(key).reveal())
    door = server.door(login=LoginMethod.JWT, login_mount=mount, login_role="gatehouse", jwt_file=str(file))
    assert policy in await own_policies(door)
    for content in ("", "two\nlines", "\x80"):
        file.write_bytes(content.encode("latin-1"))
        door = server.door(
            login=LoginMethod.JWT, login_mount=mount, login_role="gatehouse", jwt_file=str(file)
        )
        with pytest.raises(FailedPrecondition, match=r"vault\.jwt_file"):
            await own_policies(door)


class TokenReviews(BaseHTTPRequestHandler):
    """What a login by service account asks of a cluster: whose is this token?"""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        claims = json.loads(base64.urlsafe_b64decode(asked["spec"]["token"].split(".")[1] + "=="))
        account = claims["kubernetes.io"]["serviceaccount"]
        name = f"system:serviceaccount:gatehouse:{account['name']}"
        user = {"username": name, "uid": account["uid"], "groups": ["system:serviceaccounts"]}
        status = {"authenticated": True, "user": user, "audiences": asked["spec"].get("audiences", [])}
        content = json.dumps(asked | {"status": status}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of an API server that reviews tokens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), TokenReviews) as reviewing:
        serving = threading.Thread(target=reviewing.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{reviewing.server_port}"
        reviewing.shutdown()
        serving.join()


@pytest.mark.parametrize("server", NOT_IN_VAULT, indirect=True)
async def test_a_service_account_of_kubernetes(server: Server, cluster: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    mount, policy = server.api.login("kubernetes"), server.api.policy(READ_MOUNTS)
    server.api.write(
        f"auth/{mount}/config",
        pem_keys=[pem_of(key)],
        kubernetes_host=cluster,
        kubernetes_ca_cert=Authority.make(tmp_path, "cluster").pem,
        disable_local_ca_jwt=True,
    )
    names = {"bound_service_account_names": ["gatehouse"], "bound_service_account_namespaces": ["gatehouse"]}
    server.api.write(f"auth/{mount}/role/gatehouse", token_policies=[policy], **names)
    file = tmp_path / "token"
    settings = {"login": LoginMethod.KUBERNETES, "login_mount": mount, "login_role": "gatehouse"}

    def shown(name: str) -> None:
        account = {"namespace": "gatehouse", "serviceaccount": {"name": name, "uid": f"uid-of-{name}"}}
        subject = f"system:serviceaccount:gatehouse:{name}"
        file.write_text(token_for(key, sub=subject, **{"kubernetes.io": account}).reveal())

    shown("gatehouse")
    door = server.door(**settings, jwt_file=str(file))
    assert policy in await own_policies(door)
    shown("other")  # projected tokens are replaced in place, and read for each login
    with pytest.raises(PermissionDenied, match="service account name not authorized"):
        await own_policies(server.door(**settings, jwt_file=str(file)))


@dataclass
class TlsServer:
    """A server that is spoken to by TLS: its CA in a file, and the CA of SVIDs."""

    server: Server
    ca_file: Path
    svids: Authority


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=pytest.mark.peers) for kind in REAL_KINDS)])
def tls_server(
    request: pytest.FixtureRequest, tmp_path: Path, peer: Callable[[str], Path]
) -> Iterator[TlsServer]:
    web, svids = Authority.make(tmp_path, "web"), Authority.make(tmp_path, "svids")
    certificate, key = web.write("vault", web.issue(x509.IPAddress(ipaddress.ip_address("127.0.0.1"))))
    ca_file = tmp_path / "web.pem"
    if request.param == "fake":
        with FakeVault(tls_context(certificate, key, tmp_path / "svids.pem")) as fake:
            server = Server("fake", Api(fake.url, ca_file=ca_file), fake)
            yield TlsServer(server, ca_file, svids)
            server.close()
    else:
        with RealVault(peer(request.param), tls=(certificate, key, ca_file)) as real:
            server = Server(request.param, real.api)
            yield TlsServer(server, ca_file, svids)
            server.close()


async def test_a_certificate_of_another_authority(tls_server: TlsServer) -> None:
    server, authority = tls_server.server, tls_server.svids
    mount, policy = server.api.login("cert"), server.api.policy(READ_MOUNTS)
    server.api.write(
        f"auth/{mount}/certs/gatehouse",
        certificate=authority.pem,
        allowed_uri_sans=[SVID],
        token_policies=[policy],
        token_ttl="60s",
    )
    own, other = (
        authority.issue(x509.UniformResourceIdentifier(each)) for each in (SVID, "spiffe://td.example/other")
    )
    certificate, key = authority.write("login", own)
    settings = server.settings(
        login=LoginMethod.CERT,
        login_mount=mount,
        login_role="gatehouse",
        ca_file=str(tls_server.ca_file),
        certificate_file=str(certificate),
        key_file=str(key),
    )
    assert policy in await own_policies(server.open(settings))
    # The file is replaced, and the next login shows what is there now.
    door = server.open(settings)
    authority.write("login", other)
    with pytest.raises(PermissionDenied, match=f"cert at auth/{mount}"):
        await own_policies(door)
    authority.write("login", own)
    assert policy in await own_policies(door)
    with pytest.raises(FailedPrecondition, match="use https"):
        server.door(login=LoginMethod.CERT, address="http://127.0.0.1:1", **_files(certificate, key))


def _files(certificate: Path, key: Path) -> dict[str, str]:
    return {"certificate_file": str(certificate), "key_file": str(key)}


async def test_an_svid_without_a_common_name_is_refused_as_vault_does(tls_server: TlsServer) -> None:
    server, authority = tls_server.server, tls_server.svids
    mount = server.api.login("cert")
    server.api.write(f"auth/{mount}/certs/gatehouse", certificate=authority.pem, allowed_uri_sans=[SVID])
    svid = authority.issue(x509.UniformResourceIdentifier(SVID), common_name="")
    certificate, key = authority.write("svid", svid)
    door = server.door(
        login=LoginMethod.CERT,
        login_mount=mount,
        ca_file=str(tls_server.ca_file),
        **_files(certificate, key),
    )
    with pytest.raises(PermissionDenied, match="common name"):
        await own_policies(door)


async def test_an_svid_of_our_own_that_has_a_common_name(tls_server: TlsServer) -> None:
    server, authority = tls_server.server, tls_server.svids
    mount, policy = server.api.login("cert"), server.api.policy(READ_MOUNTS)
    server.api.write(
        f"auth/{mount}/certs/gatehouse",
        certificate=authority.pem,
        allowed_uri_sans=[SVID],
        token_policies=[policy],
        token_ttl="60s",
    )
    name = common_name(TrustDomain("td.example"))
    own, other = (
        OwnTokens(shown=authority.issue(x509.UniformResourceIdentifier(each), common_name=name))
        for each in (SVID, "spiffe://td.example/other")
    )
    settings = server.settings(login=LoginMethod.CERT, login_mount=mount, ca_file=str(tls_server.ca_file))
    assert policy in await own_policies(server.open(settings, own=own))
    with pytest.raises(PermissionDenied, match=f"cert at auth/{mount}"):
        await own_policies(server.open(settings, own=other))
    # Connections from before there was an SVID aren't used for the login.
    own.is_ready = False
    door = server.open(settings, own=own, clock=(clock := LaterClock()))
    assert "root" in await own_policies(door)
    own.is_ready = True
    clock.seconds = FIRST_SECONDS
    assert policy in await own_policies(door)


async def test_a_server_that_another_authority_vouches_for_is_not_told_anything(
    tls_server: TlsServer, tmp_path: Path
) -> None:
    Authority.make(tmp_path, "other")
    door = tls_server.server.door(ca_file=str(tmp_path / "other.pem"))
    with pytest.raises(Unavailable, match="certificate isn't accepted"):
        await own_policies(door)
    if tls_server.server.fake is not None:
        assert tls_server.server.fake.requests == []
    door = tls_server.server.door(ca_file="")  # the system's authorities
    with pytest.raises(Unavailable, match="certificate isn't accepted"):
        await own_policies(door)


async def test_a_token_is_renewed_before_it_ends(server: Server) -> None:
    mount, role_id, policy = make_approle(server, token_ttl="6s", token_max_ttl="60s", secret_id_num_uses=1)
    door = server.door(
        login=LoginMethod.APPROLE,
        login_mount=mount,
        login_role="gatehouse",
        role_id=role_id,
        secret_id=Secret(secret_id(server, mount)),
    )
    await own_policies(door)
    stop = asyncio.Event()
    renewing = asyncio.create_task(door.run(stop))
    # The secret ID is used up: only renewal keeps the token past its six seconds.
    deadline = time.monotonic() + 7.5
    while time.monotonic() < deadline:
        assert policy in await own_policies(door)
        await asyncio.sleep(0.5)
    stop.set()
    await renewing


async def test_a_token_that_is_revoked_is_replaced_by_one_login(server: Server) -> None:
    mount, role_id, policy = make_approle(server, token_ttl="60s")
    door = server.door(
        login=LoginMethod.APPROLE,
        login_mount=mount,
        login_role="gatehouse",
        role_id=role_id,
        secret_id=Secret(secret_id(server, mount)),
    )
    first = door.call("get", "auth/token/lookup-self", what=LOOKUP).section("data", LOOKUP)
    server.api.write("auth/token/revoke-accessor", accessor=first["accessor"])
    assert policy in await own_policies(door)
    second = door.call("get", "auth/token/lookup-self", what=LOOKUP).section("data", LOOKUP)
    assert second["accessor"] != first["accessor"]


async def test_a_token_that_ended_is_replaced_at_the_next_call(server: Server) -> None:
    mount, role_id, policy = make_approle(server, token_ttl="3s", token_max_ttl="3s")
    door = server.door(
        login=LoginMethod.APPROLE,
        login_mount=mount,
        login_role="gatehouse",
        role_id=role_id,
        secret_id=Secret(secret_id(server, mount)),
    )
    await own_policies(door)
    await asyncio.sleep(3.2)
    assert policy in await own_policies(door)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"address": "http://vault.example:8200"}, "use https"),
        ({"address": "ftp://x"}, "vault.address"),
        ({"token": Secret("")}, "vault.token"),
        ({"pki_mount": "../x"}, "vault.pki_mount"),
        ({"pki_mount": "a//b"}, "vault.pki_mount"),
        ({"role": "a b"}, "vault.role"),
        ({"role": "x\n"}, "vault.role"),
        ({"issuer": "?"}, "vault.issuer"),
        ({"login": LoginMethod.APPROLE}, "role_id"),
        ({"login": LoginMethod.APPROLE, "role_id": "x"}, "secret_id"),
        ({"login": LoginMethod.KUBERNETES, "login_role": "x"}, "jwt_file"),
        ({"login": LoginMethod.JWT}, "login_role"),
        ({"login": LoginMethod.CERT, "key_file": "x"}, "certificate_file"),
        ({"login": LoginMethod.CERT, "certificate_file": "x"}, "key_file"),
    ],
)
def test_settings_that_cannot_work_are_named(fake: Server, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        fake.settings(**changed).check()
