"""The commands of `gatehouse-agent api`: a workload's view, on the command line."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from agent.cli_client import WORKLOAD_API, WORKLOAD_METADATA, call, key_pem, moment, pem, split
from control_plane.core.errors import FailedPrecondition, PeerMisbehaved
from control_plane.core.svid import X509Svid
from control_plane.proto import workloadapi_pb2 as pb
from control_plane.runtime.clock import SystemClock
from control_plane.runtime.output import Form, Output
from control_plane.runtime.transport import Channel

MAX_TOKEN_BYTES = 64 << 10
STANDARD_INPUT = "-"


def fetch_x509(socket: Path, write: Path | None, form: Form, timeout: float) -> None:
    """The first message of FetchX509SVID."""

    async def work(channel: Channel) -> pb.X509SVIDResponse:
        async with channel.server_stream(
            WORKLOAD_API + "FetchX509SVID",
            pb.X509SVIDRequest(),
            pb.X509SVIDResponse,
            timeout=timeout,
            metadata=WORKLOAD_METADATA,
        ) as messages:
            async for message in messages:
                return message
        raise PeerMisbehaved("the agent ended the stream without a message")

    response = call(socket, work)
    written = _write(response, write) if write is not None else []
    _print_x509(response, Output(form), written)


def watch(socket: Path, form: Form) -> None:
    """Every message of FetchX509SVID, until interrupted."""
    output = Output(form)

    async def work(channel: Channel) -> None:
        async with channel.server_stream(
            WORKLOAD_API + "FetchX509SVID",
            pb.X509SVIDRequest(),
            pb.X509SVIDResponse,
            metadata=WORKLOAD_METADATA,
        ) as messages:
            async for message in messages:
                if form is Form.JSON:
                    sys.stdout.write(json.dumps(_x509(message, [])) + "\n")
                else:
                    output.remark(f"-- {SystemClock().now():%Y-%m-%d %H:%M:%SZ}")
                    _print_x509(message, output, [])
                sys.stdout.flush()

    call(socket, work)


def fetch_jwt(socket: Path, audience: Sequence[str], spiffe_id: str, form: Form, timeout: float) -> None:
    """FetchJWTSVID."""

    async def work(channel: Channel) -> pb.JWTSVIDResponse:
        return await channel.unary(
            WORKLOAD_API + "FetchJWTSVID",
            pb.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id),
            pb.JWTSVIDResponse,
            timeout=timeout,
            metadata=WORKLOAD_METADATA,
        )

    response = call(socket, work)
    output = Output(form)
    svids = [{"spiffe_id": svid.spiffe_id, "hint": svid.hint, "token": svid.svid} for svid in response.svids]
    if form is Form.JSON:
        output.record({"svids": svids})
        return
    for svid in response.svids:
        output.remark(f"{svid.spiffe_id}{f' ({svid.hint})' if svid.hint else ''}")
        output.text(svid.svid)


def fetch_bundles(socket: Path, form: Form, timeout: float) -> None:
    """The first messages of FetchX509Bundles and FetchJWTBundles."""

    async def work(channel: Channel) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        found: list[Mapping[str, bytes]] = []
        for name, request, kind in (
            ("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse),
            ("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse),
        ):
            async with channel.server_stream(
                WORKLOAD_API + name, request, kind, timeout=timeout, metadata=WORKLOAD_METADATA
            ) as messages:
                async for message in messages:
                    found.append(dict(message.bundles))  # type: ignore[attr-defined]
                    break
        return found[0], found[1]

    x509_bundles, jwt_bundles = call(socket, work)
    output = Output(form)
    if form is Form.JSON:
        output.record(
            {
                "x509": {name: [pem(der) for der in split(bundle)] for name, bundle in x509_bundles.items()},
                "jwt": {name: json.loads(bundle) for name, bundle in jwt_bundles.items()},
            }
        )
        return
    for name in sorted(x509_bundles.keys() | jwt_bundles.keys()):
        authorities = split(x509_bundles.get(name, b""))
        keys = json.loads(jwt_bundles.get(name, b'{"keys":[]}'))["keys"]
        output.remark(f"{name}: {len(authorities)} X.509 authorities, {len(keys)} JWT keys")
        for der in authorities:
            output.text(pem(der))


def validate_jwt(socket: Path, audience: str, token: str, form: Form, timeout: float) -> None:
    """ValidateJWTSVID; the token may come on standard input, where no process list shows it."""
    text = sys.stdin.read(MAX_TOKEN_BYTES).strip() if token == STANDARD_INPUT else token

    async def work(channel: Channel) -> pb.ValidateJWTSVIDResponse:
        return await channel.unary(
            WORKLOAD_API + "ValidateJWTSVID",
            pb.ValidateJWTSVIDRequest(audience=audience, svid=text),
            pb.ValidateJWTSVIDResponse,
            timeout=timeout,
            metadata=WORKLOAD_METADATA,
        )

    response = call(socket, work)
    Output(form).record(
        {"valid": True, "spiffe_id": response.spiffe_id, "claims": _whole(MessageToDict(response.claims))}
    )


def _x509(response: pb.X509SVIDResponse, written: Sequence[str]) -> dict[str, Any]:
    return {
        "svids": [_svid(svid) for svid in response.svids],
        "federated_bundles": {
            name: [pem(der) for der in split(bundle)]
            for name, bundle in sorted(response.federated_bundles.items())
        },
        "written": list(written),
    }


def _svid(message: pb.X509SVID) -> dict[str, Any]:
    svid = X509Svid.from_chain(split(message.x509_svid))
    return {
        "spiffe_id": message.spiffe_id,
        "hint": message.hint,
        "serial": f"{svid.serial:x}",
        "not_before_at": svid.not_before,
        "expires_at": svid.not_after,
        "chain": [pem(der) for der in svid.chain],
        "bundle": [pem(der) for der in split(message.bundle)],
    }


def _print_x509(response: pb.X509SVIDResponse, output: Output, written: Sequence[str]) -> None:
    if output.form is Form.JSON:
        output.record(_x509(response, written))
        return
    now = SystemClock().unix()
    for position, message in enumerate(response.svids):
        svid = X509Svid.from_chain(split(message.x509_svid))
        output.record(
            {
                "spiffe_id": message.spiffe_id + ("  (default)" if position == 0 else ""),
                "hint": message.hint,
                "serial": f"{svid.serial:x}",
                "expires": moment(svid.not_after, now),
                "authorities": f"{len(split(message.bundle))} in the bundle",
                "federates_with": sorted(response.federated_bundles),
            }
        )
        if position + 1 < len(response.svids):
            output.text("")
    for path in written:
        output.remark(f"wrote {path}")


def _write(response: pb.X509SVIDResponse, folder: Path) -> list[str]:
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, svid in enumerate(response.svids):
            chain = "".join(pem(der) for der in split(svid.x509_svid))
            bundle = "".join(pem(der) for der in split(svid.bundle))
            key = key_pem(svid.x509_svid_key)
            for name, text, mode in (
                (f"svid.{number}.pem", chain, 0o644),
                (f"svid.{number}.key", key, 0o600),
                (f"bundle.{number}.pem", bundle, 0o644),
            ):
                path = folder / name
                path.unlink(missing_ok=True)  # the mode below counts for new files only
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                written.append(str(path))
    except OSError as error:
        raise FailedPrecondition(f"writing SVIDs to {folder}: {error.strerror or error}") from error
    return written


def _whole(value: Any) -> Any:
    """Numbers of a Struct are floats; times read better as the whole numbers that they are."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value
