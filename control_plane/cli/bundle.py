"""`gatehouse bundle`: the trust bundle of our own trust domain, and those of federated ones."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from control_plane.cli import printing, wire
from control_plane.cli.bundle_wire import bundle_json, bundle_value, federated_message
from control_plane.cli.given import read_given
from control_plane.cli.options import DataDirFlag, Output, OutputFlag, group
from control_plane.cli.remote import Remote, with_server
from control_plane.core.bundle import Bundle
from control_plane.core.errors import GatehouseError
from control_plane.core.spiffe_id import TrustDomain
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2

BUNDLE = bundle_pb2.DESCRIPTOR.services_by_name["Bundle"]
PAGE_SIZE = 500
MAX_FILE_BYTES = 4 * 1024 * 1024

app = group("Trust bundles, ours and those of federated trust domains.")


class Format(enum.StrEnum):
    """How a bundle is written down."""

    PEM = "pem"
    SPIFFE = "spiffe"


class DeleteMode(enum.StrEnum):
    """What becomes of entries that federate with a bundle that is deleted."""

    RESTRICT = "restrict"
    DISSOCIATE = "dissociate"
    DELETE = "delete"


FormatFlag = Annotated[Format, typer.Option("--format", help="pem: X.509 only; spiffe: JSON with all keys.")]
IdFlag = Annotated[str, typer.Option("--id", help="The federated trust domain.")]


@app.command()
def show(
    bundle_format: FormatFlag = Format.PEM, data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN
) -> None:
    """Prints our own bundle: what `gatehouse-agent run --trust-bundle` takes."""

    async def work(server: Remote) -> Any:
        return await server.call(BUNDLE, "GetBundle", bundle_pb2.GetBundleRequest())

    bundle = bundle_value(with_server(work, data_dir=data_dir, output=output))
    printing.emit(output, bundle_json(bundle), lambda: _print(bundle, bundle_format))


@app.command("list")
def list_bundles(
    trust_domain: IdFlag = "",
    bundle_format: FormatFlag = Format.PEM,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Lists the bundles of federated trust domains, or prints one of them."""
    wanted = wire.trust_domain(trust_domain, "--id") if trust_domain else ""

    async def work(server: Remote) -> list[Any]:
        if wanted:
            request = bundle_pb2.GetFederatedBundleRequest(trust_domain=wanted)
            return [await server.call(BUNDLE, "GetFederatedBundle", request)]
        found: list[Any] = []
        token = ""
        while True:
            page = bundle_pb2.ListFederatedBundlesRequest(page_size=PAGE_SIZE, page_token=token)
            reply = await server.call(BUNDLE, "ListFederatedBundles", page)
            found.extend(reply.bundles)
            token = reply.next_page_token
            if not token:
                return found

    bundles = [bundle_value(each) for each in with_server(work, data_dir=data_dir, output=output)]

    def human() -> None:
        if wanted:
            _print(bundles[0], bundle_format)
            return
        rows = [
            (each.trust_domain, len(each.x509_authorities), len(each.jwt_authorities), each.sequence)
            for each in bundles
        ]
        printing.table(("trust domain", "x.509", "jwt", "sequence"), rows, empty="no federated bundles")

    printing.emit(output, {"bundles": [bundle_json(each) for each in bundles]}, human)


@app.command("set")
def set_bundle(
    trust_domain: IdFlag,
    path: Annotated[
        Path | None, typer.Option("--path", help="File with the bundle; standard input if none.")
    ] = None,
    bundle_format: FormatFlag = Format.PEM,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Creates or replaces the bundle of a federated trust domain."""
    bundle = _read(wire.trust_domain(trust_domain, "--id"), path, bundle_format)
    request = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[federated_message(bundle)])

    async def work(server: Remote) -> Any:
        return (await server.call(BUNDLE, "BatchSetFederatedBundle", request)).results[0]

    _finish(with_server(work, data_dir=data_dir, output=output), bundle.trust_domain.name, "set", output)


@app.command()
def delete(
    trust_domain: IdFlag,
    mode: Annotated[
        DeleteMode,
        typer.Option("--mode", help="For entries that federate with it: refuse, unlink or delete them."),
    ] = DeleteMode.RESTRICT,
    data_dir: DataDirFlag = None,
    output: OutputFlag = Output.HUMAN,
) -> None:
    """Deletes the bundle of a federated trust domain."""
    name = wire.trust_domain(trust_domain, "--id")
    request = bundle_pb2.BatchDeleteFederatedBundleRequest(trust_domains=[name], mode=mode.name)

    async def work(server: Remote) -> Any:
        return (await server.call(BUNDLE, "BatchDeleteFederatedBundle", request)).results[0]

    _finish(with_server(work, data_dir=data_dir, output=output), name, "deleted", output)


@app.command()
def count(data_dir: DataDirFlag = None, output: OutputFlag = Output.HUMAN) -> None:
    """Counts bundles, our own among them."""

    async def work(server: Remote) -> Any:
        return await server.call(BUNDLE, "CountBundles", bundle_pb2.CountBundlesRequest())

    number = with_server(work, data_dir=data_dir, output=output).count
    printing.emit(output, {"count": number}, lambda: printing.line(str(number)))


def _print(bundle: Bundle, bundle_format: Format) -> None:
    """The bundle itself, as a file would hold it."""
    text = bundle.to_pem() if bundle_format is Format.PEM else bundle.to_json()
    printing.document(text)


def _read(trust_domain: str, path: Path | None, bundle_format: Format) -> Bundle:
    """A bundle from a file or standard input. Raises typer's usage error."""
    where = f"--path {path or '(standard input)'}"
    try:
        text = read_given(path, MAX_FILE_BYTES, where).decode("ascii")
        owner = TrustDomain.parse(trust_domain)
        written = _format_of(text)
        if bundle_format is Format.PEM:
            return Bundle.parse_pem(owner, text)
        return Bundle.parse_json(owner, text)
    except UnicodeDecodeError as error:
        why = f"is no trust bundle in the format {bundle_format}: byte {error.start} isn't ASCII"
        raise typer.BadParameter(why, param_hint=where) from error
    except GatehouseError as error:
        other = f" — it looks like --format {written}" if written not in (None, bundle_format) else ""
        raise typer.BadParameter(f"{error}{other}", param_hint=where) from error


def _format_of(text: str) -> Format | None:
    """What a file seems to be, by how it begins."""
    if text.lstrip().startswith("{"):
        return Format.SPIFFE
    return Format.PEM if "-----BEGIN CERTIFICATE-----" in text else None


def _finish(result: Any, trust_domain: str, done: str, output: Output) -> None:
    """Prints what became of a change to one bundle; fails if it was refused."""
    succeeded = result.status.code == wire.OK
    answer = {
        "trust_domain": trust_domain,
        "done": done if succeeded else "refused",
        "error": "" if succeeded else result.status.message,
    }
    if succeeded:
        printing.emit(output, answer, lambda: printing.line(f"{done} the bundle of {trust_domain}"))
    else:
        printing.emit(output, answer, lambda: printing.note(f"gatehouse: {result.status.message}"))
    wire.end_unless_done([result])
