"""`gatehouse svid mint`: an SVID by hand, for what has no agent. Everything minted is in the ledger."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.cli import printing, wire
from control_plane.cli.bundle_wire import bundle_value
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import Remote, with_server
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.runtime.command_line import MAX_INT32

SVID = svid_pb2.DESCRIPTOR.services_by_name["SVID"]
BUNDLE = bundle_pb2.DESCRIPTOR.services_by_name["Bundle"]

app = group("Mint SVIDs by hand.")
mint = group("Mint one SVID. Nobody renews it.")
app.add_typer(mint, name="mint")

SpiffeIdFlag = Annotated[str, typer.Option("--spiffe-id", help="The identity; not one below /spire.")]
TtlFlag = Annotated[
    int, typer.Option("--ttl", min=0, max=MAX_INT32, help="Seconds; 0 is the server's default.")
]


@mint.command("x509")
def mint_x509(
    spiffe_id: SpiffeIdFlag,
    dns: Annotated[list[str], typer.Option("--dns", help="A DNS name in it; repeatable.")] = [],  # noqa: B006
    ttl: TtlFlag = 0,
    write: Annotated[
        Path | None, typer.Option("--write", help="Folder for svid.pem, key.pem and bundle.pem.")
    ] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Makes a key here, has a certificate signed for it, and prints or writes both."""
    wire.spiffe_id(spiffe_id, "--spiffe-id")
    key = ec.generate_private_key(ec.SECP256R1())
    request = svid_pb2.MintX509SVIDRequest(csr=_request(key, spiffe_id, dns), ttl=ttl)

    async def work(server: Remote) -> tuple[Any, Any]:
        minted = await server.call(SVID, "MintX509SVID", request)
        return minted.svid, await server.call(BUNDLE, "GetBundle", bundle_pb2.GetBundleRequest())

    svid, bundle = with_server(work, data_dir=data_dir, output=output)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
    chain_pem = "".join(
        x509.load_der_x509_certificate(each).public_bytes(serialization.Encoding.PEM).decode("ascii")
        for each in svid.cert_chain
    )
    answer: dict[str, Any] = {"spiffe_id": wire.id_text(svid.id), "expires_at": svid.expires_at}
    contents = {"svid.pem": chain_pem, "key.pem": key_pem, "bundle.pem": bundle_value(bundle).to_pem()}
    if write:
        _write(write, contents)
        answer["written"] = [str(write / name) for name in contents]
    else:
        answer |= {"chain_pem": chain_pem, "key_pem": key_pem, "bundle_pem": contents["bundle.pem"]}

    def human() -> None:
        printing.note(f"{answer['spiffe_id']}, valid until {printing.moment(svid.expires_at)}")
        for text in answer.get("written") or (chain_pem, key_pem):
            printing.document(text)

    printing.emit(output, answer, human)


@mint.command("jwt")
def mint_jwt(
    spiffe_id: SpiffeIdFlag,
    audience: Annotated[list[str], typer.Option("--audience", help="Who will accept it; repeatable.")],
    ttl: TtlFlag = 0,
    write: Annotated[Path | None, typer.Option("--write", help="File for the token.")] = None,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Has a token signed and prints or writes it."""
    request = svid_pb2.MintJWTSVIDRequest(
        id=wire.spiffe_id(spiffe_id, "--spiffe-id"), audience=audience, ttl=ttl
    )

    async def work(server: Remote) -> Any:
        return (await server.call(SVID, "MintJWTSVID", request)).svid

    svid = with_server(work, data_dir=data_dir, output=output)
    answer: dict[str, Any] = {
        "spiffe_id": wire.id_text(svid.id),
        "audience": audience,
        "issued_at": svid.issued_at,
        "expires_at": svid.expires_at,
    }
    if write:
        _write(write.parent, {write.name: svid.token + "\n"})
        answer["written"] = [str(write)]
    else:
        answer["token"] = svid.token
    printing.emit(output, answer, lambda: printing.line(str(write or svid.token)))


def _request(key: ec.EllipticCurvePrivateKey, spiffe_id: str, dns_names: list[str]) -> bytes:
    """A certificate request for one SPIFFE ID and some DNS names, DER."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
    names.extend(_dns_name(each) for each in dns_names)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
        key, hashes.SHA256()
    )
    return signed.public_bytes(serialization.Encoding.DER)


def _dns_name(text: str) -> x509.DNSName:
    """As a certificate holds it. Raises typer's usage error for what isn't ASCII."""
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: certificates hold names in ASCII, others as xn--…", param_hint="--dns"
        ) from error


def _write(folder: Path, contents: dict[str, str]) -> None:
    """Writes files that only their owner can read, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            unfinished = folder / f".{name}.new"
            unfinished.unlink(missing_ok=True)
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
            unfinished.replace(folder / name)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--write") from error
