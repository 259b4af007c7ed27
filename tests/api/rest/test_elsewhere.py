"""`gatehouse --remote`: the life of a policy from another machine, by certificate, by token and by curl."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner, Result

from control_plane.cli.root import app
from control_plane.runtime.clock import SystemClock

NOW = SystemClock().now()
PEOPLE = "spiffe://example.org/people/"
REGO = """package gatehouse.authz

default allow := false

allow if input.source.spiffe_id == "spiffe://example.org/ns/shop/sa/web"
"""
INVENTORY = """
mesh: {trust_domain: example.org}
workloads:
- {name: web, namespace: shop, service_account: web, services: [{name: web, ports: [{port: 80}]}]}
"""


def another_authority() -> bytes:
    """The bundle of somebody else, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    year = datetime.timedelta(days=365)
    builder = builder.not_valid_before(NOW - year).not_valid_after(NOW + year).serial_number(7)
    ca = x509.BasicConstraints(ca=True, path_length=None)
    made = builder.add_extension(ca, critical=True).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


class Desk:
    """A machine elsewhere, with the bundle, a policy and whatever identity is asked for."""

    def __init__(self, api: Any, folder: Path) -> None:
        self._api = api
        self.bundle = api.data / "bundle.pem"
        self.url = f"https://127.0.0.1:{api.port}"
        self.policy = folder / "policy"
        self.policy.mkdir()
        (self.policy / "authz.rego").write_text(REGO)
        (self.policy / "inventory.yaml").write_text(INVENTORY)

    async def run(self, *command: str, svid: Path | None = None, **flags: Path) -> Result:
        """One command; the server of this machine is out of its reach."""
        flags = {"remote_bundle": self.bundle, **({"remote_svid": svid} if svid else {}), **flags}
        given = [text for name, one in flags.items() for text in (f"--{name.replace('_', '-')}", str(one))]
        nowhere = {"GATEHOUSE_DATA_DIR": str(self.policy / "nothing")}
        arguments = ["--remote", self.url, *given, *command]
        return await asyncio.to_thread(CliRunner(env=nowhere).invoke, app, arguments, prog_name="gatehouse")


def test_a_life_by_certificates(rest: Any, tmp_path: Path) -> None:
    async def scenario(api: Any) -> None:
        desk = Desk(api, tmp_path)
        ada, grace, olga, vera = [await api.mint(PEOPLE + name) for name in ("ada", "grace", "olga", "vera")]
        pushed = await desk.run("policy", "push", str(desk.policy), "-m", "from afar", svid=ada)
        assert pushed.exit_code == 0 and f"by {PEOPLE}ada: from afar" in pushed.stdout, pushed.output
        assert "1 gain, 0 lose access" in (await desk.run("policy", "plan", svid=ada)).stdout
        mine = await desk.run("policy", "approve", "-m", "r", svid=ada)
        assert mine.exit_code == 1 and "nobody decides on a change of their own" in mine.stderr
        assert (await desk.run("policy", "approve", "-m", "r", svid=grace)).exit_code == 0
        refused = await desk.run("policy", "apply", svid=vera)
        assert (
            refused.exit_code == 1 and f"{PEOPLE}vera has no role that permits policy.apply" in refused.stderr
        )
        assert (await desk.run("policy", "apply", svid=olga)).exit_code == 0
        told = (await desk.run("policy", "status", "--output", "json", svid=vera)).stdout
        assert json.loads(told)["in_force"]["by"] == f"{PEOPLE}olga"

        curl = [
            "curl",
            "--silent",
            "--max-time",
            "30",
            "--cacert",
            str(desk.bundle),
            "--write-out",
            "\n%{http_code}",
        ]
        again = f"https://localhost:{api.port}/v1/policy/versions/1/apply"
        body = json.dumps({"reason": "again"})
        finished = await asyncio.to_thread(
            subprocess.run,
            [*curl, "--cert", str(vera), "--json", body, again],
            capture_output=True,
            text=True,
        )
        assert finished.stdout.endswith("\n403"), finished

    rest(scenario)


def test_a_token_says_who_calls_as_well(rest: Any, tmp_path: Path) -> None:
    async def scenario(api: Any) -> None:
        desk = Desk(api, tmp_path)
        files = {name: tmp_path / name for name in ("vera", "audrey")}
        for name, path in files.items():
            path.write_text(api.token(name))
        nobody = await desk.run("policy", "status")
        assert nobody.exit_code == 1 and "the caller is unknown" in nobody.stderr
        told = await desk.run("policy", "status", "--token-file", str(files["vera"]))
        assert told.exit_code == 0 and "agents deny everything" in told.stdout
        # The token wins over the certificate: Vera may look, not cut off.
        olga = await api.mint(PEOPLE + "olga")
        cut = ("quarantine", "spiffe://example.org/web", "--reason", "odd")
        refused = await desk.run(*cut, "--token-file", str(files["vera"]), svid=olga)
        assert refused.exit_code == 1 and "login:vera has no role" in refused.stderr
        assert (await desk.run(*cut, svid=olga)).exit_code == 0

    rest(scenario)


def test_a_server_that_is_not_vouched_for_is_not_talked_to(rest: Any, tmp_path: Path) -> None:
    async def scenario(api: Any) -> None:
        desk = Desk(api, tmp_path)
        token, other, broken = tmp_path / "token", tmp_path / "other.pem", tmp_path / "broken.pem"
        token.write_text(api.token("vera"))
        other.write_bytes(another_authority())
        broken.write_text("bundle")
        asked = ("policy", "status", "--token-file", str(token))
        wrong = await desk.run(*asked, remote_bundle=other)
        assert wrong.exit_code == 1 and "no authority in" in wrong.stderr
        unreadable = await desk.run(*asked, remote_bundle=broken)
        assert unreadable.exit_code == 1 and "holds no certificates in PEM" in unreadable.stderr
        missing = await desk.run(*asked, remote_bundle=tmp_path / "none")
        assert missing.exit_code == 1 and "No such file" in missing.stderr
        vera, ada = [await api.mint(PEOPLE + name) for name in ("vera", "ada")]
        unfit = await desk.run("policy", "status", svid=vera, remote_key=ada)
        assert unfit.exit_code == 1 and "they don't fit" in unfit.stderr

    rest(scenario)


def test_a_workload_of_the_trust_domain_is_no_server(rest: Any, tmp_path: Path) -> None:
    async def scenario(api: Any) -> None:
        desk = Desk(api, tmp_path)
        impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        impostor.load_cert_chain(await api.mint("spiffe://example.org/web"))
        heard = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(1000))
            writer.close()

        async with await asyncio.start_server(listen, "127.0.0.1", 0, ssl=impostor) as listener:
            desk.url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            refused = await desk.run("policy", "status")
        assert refused.exit_code == 1
        assert (
            "spiffe://example.org/web answers, expected spiffe://example.org/spire/server" in refused.stderr
        )
        assert not any(heard), "nothing was said to it"

    rest(scenario)


def test_what_the_admin_socket_alone_can_do_says_so(rest: Any, tmp_path: Path) -> None:
    async def scenario(api: Any) -> None:
        refused = await Desk(api, tmp_path).run("entry", "count")
        assert refused.exit_code == 1
        assert "works through server.sock, on the server's machine alone" in refused.stderr

    rest(scenario)


@pytest.mark.parametrize(
    "flags",
    [
        ["--remote", "http://a:1", "--remote-bundle", "b"],
        ["--remote", "https://a:1/v1", "--remote-bundle", "b"],
        ["--remote", "https://a:b", "--remote-bundle", "b"],
        ["--remote", "https://ada@a:1", "--remote-bundle", "b"],
        ["--remote", "https://a:1"],
        ["--remote", "https://a:1", "--remote-bundle", "b", "--remote-key", "k"],
    ],
)
def test_what_is_no_server_is_wrong_usage(flags: list[str]) -> None:
    refused = CliRunner().invoke(app, [*flags, "policy", "status"])
    assert refused.exit_code == 2 and "--remote" in refused.stderr
