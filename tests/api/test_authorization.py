"""Who may call what: every declared method for every class of caller, over the wire."""

from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from control_plane.api import services
from control_plane.api.authorization import METHODS, Who
from control_plane.core.errors import Code, GatehouseError, Unauthenticated
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.grpc.health.v1 import health_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.debug.v1 import debug_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.localauthority.v1 import localauthority_pb2
from control_plane.proto.spire.api.server.logger.v1 import logger_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.server.trustdomain.v1 import trustdomain_pb2
from control_plane.proto.spire.api.types import logger_pb2 as logger_types

FILES = (
    agent_pb2,
    bundle_pb2,
    debug_pb2,
    entry_pb2,
    localauthority_pb2,
    logger_pb2,
    svid_pb2,
    trustdomain_pb2,
    node_pb2,
    health_pb2,
)
DECLARED = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_declared_method_has_a_rule() -> None:
    assert DECLARED.keys() <= METHODS.keys()
    assert all(services.__doc__ and who for who in METHODS.values())


async def outcome(channel: Any, path: str) -> tuple[Code, str]:
    """What an empty call ends with."""
    method = DECLARED[path]
    request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    try:
        async with channel.stream(path, reply, timeout=5) as call:
            await call.send(request(), end=True)
            await call.receive()
            return Code.OK, ""
    except GatehouseError as error:
        return error.code, error.message


def test_the_table_holds_on_the_wire(serve: Any, api: Any) -> None:
    async def scenario(server: Any) -> None:
        agent = await server.join()
        anonymous = server.tls()
        for path, who in METHODS.items():
            if path not in DECLARED or path.startswith("/grpc."):
                continue
            for channel, classes in (
                (server.admin, {Who.LOCAL, Who.ANY}),
                (agent.channel, {Who.AGENT, Who.ANY}),
                (anonymous, {Who.ANY}),
            ):
                code, message = await outcome(channel, path)
                if classes & who:
                    assert code is not Code.PERMISSION_DENIED, (path, classes, message)
                elif path.split("/")[1].split(".")[-2:] != ["v1", "Logger"] and Who.LOCAL not in who:
                    assert code is Code.PERMISSION_DENIED, (path, classes, message)
                else:
                    assert code in (Code.PERMISSION_DENIED, Code.UNIMPLEMENTED), (path, classes, message)

    serve(scenario, **{"rate_limits.attestation_per_second": 0})


def test_what_comes_later_says_so(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        for path in DECLARED:
            if "TrustDomain" in path or "LocalAuthority" in path or path.endswith("MintWITSVID"):
                code, message = await outcome(server.admin, path)
                assert code is Code.UNIMPLEMENTED and path in message

    serve(scenario)


def test_an_entry_makes_an_administrator(serve: Any, api: Any) -> None:
    from control_plane.core.secret import Secret
    from control_plane.runtime.tls import TlsIdentity

    async def scenario(server: Any) -> None:
        agent = await server.join()
        created = await server.create(api.entry_for("/operator", agent.id, admin=True))
        pem, csr = api.new_key_and_csr()
        params = [svid_pb2.NewX509SVIDParams(entry_id=created.results[0].entry.id, csr=csr)]
        reply = await agent.channel.unary(
            "/spire.api.server.svid.v1.SVID/BatchNewX509SVID",
            svid_pb2.BatchNewX509SVIDRequest(params=params),
            svid_pb2.BatchNewX509SVIDResponse,
        )
        operator = server.tls(TlsIdentity(tuple(reply.results[0].svid.cert_chain), Secret(pem)))
        count = "/spire.api.server.entry.v1.Entry/CountEntries"
        answer = await operator.unary(count, entry_pb2.CountEntriesRequest(), entry_pb2.CountEntriesResponse)
        assert answer.count == 1
        assert (await outcome(operator, "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries"))[
            0
        ] is Code.PERMISSION_DENIED
        assert (await outcome(operator, "/spire.api.server.debug.v1.Debug/GetInfo"))[0] in (
            Code.PERMISSION_DENIED,
            Code.UNIMPLEMENTED,
        )

    serve(scenario)


def test_a_foreign_certificate_is_refused(serve: Any, api: Any) -> None:
    """A federated authority vouches for its own trust domain only, whatever it signs."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    from control_plane.authority.keys import LocalSigner
    from control_plane.core.ca_profile import build_root
    from control_plane.core.certificate import read_certificate
    from control_plane.core.lifetime import Window
    from control_plane.core.profile import SigningRequest, build_leaf
    from control_plane.core.secret import Secret
    from control_plane.core.spiffe_id import SpiffeId, TrustDomain
    from control_plane.proto.spire.api.types import bundle_pb2 as bundle_types
    from control_plane.runtime.tls import TlsIdentity

    async def scenario(server: Any) -> None:
        now = server.parts.clock.unix()
        key = ec.generate_private_key(ec.SECP256R1())
        signer = LocalSigner("x509-" + "0" * 32, key)
        root = build_root(
            TrustDomain("evil.org"), signer.public_key, 7, Window(now - 60, now + 9999), signer.sign
        )
        bundle = bundle_types.Bundle(
            trust_domain="evil.org", x509_authorities=[bundle_types.X509Certificate(asn1=root)]
        )
        await server.admin.unary(
            "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle",
            bundle_pb2.BatchSetFederatedBundleRequest(bundle=[bundle]),
            bundle_pb2.BatchSetFederatedBundleResponse,
        )
        await __import__("asyncio").sleep(1.2)  # the listener takes the new trust in within a second
        victim = await server.join()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for subject in (victim.id, SpiffeId(TrustDomain("evil.org"), "/admin")):
            request = SigningRequest(subject, spki, 99, Window(now - 60, now + 600))
            leaf = build_leaf(request, read_certificate(root), signer.sign)
            intruder = server.tls(TlsIdentity((leaf,), Secret(pem)))
            code, _ = await outcome(intruder, "/spire.api.server.bundle.v1.Bundle/GetBundle")
            assert code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNAVAILABLE)

    serve(scenario)


def test_log_level_and_debug_are_local(serve: Any) -> None:
    async def scenario(server: Any) -> None:
        info = await server.admin.unary(
            "/spire.api.server.debug.v1.Debug/GetInfo", debug_pb2.GetInfoRequest(), debug_pb2.GetInfoResponse
        )
        assert info.agents_count == 0 and info.svid_chain
        path = "/spire.api.server.logger.v1.Logger/"
        changed = await server.admin.unary(
            path + "SetLogLevel",
            logger_pb2.SetLogLevelRequest(new_level=logger_types.DEBUG),
            logger_types.Logger,
        )
        assert changed.current_level == logger_types.DEBUG and changed.launch_level == logger_types.INFO
        reset = await server.admin.unary(
            path + "ResetLogLevel", logger_pb2.ResetLogLevelRequest(), logger_types.Logger
        )
        assert reset.current_level == logger_types.INFO

    serve(scenario)


def test_nobody_gets_in_unadmitted() -> None:
    from control_plane.api.caller import caller_of
    from control_plane.core.errors import Bug
    from control_plane.runtime.transport import Peer

    with pytest.raises(Bug):
        caller_of(Peer("tls", "127.0.0.1:1"))
    assert issubclass(Unauthenticated, GatehouseError)
