"""The set of gRPC services that a listener offers. What is declared and not served answers UNIMPLEMENTED."""

from collections.abc import Callable, Sequence

from control_plane.api.agents import AgentService
from control_plane.api.bundles import BundleService
from control_plane.api.context import ServerContext
from control_plane.api.entries import EntryService
from control_plane.api.node import NodeService
from control_plane.api.operations import DebugService, LoggerService
from control_plane.api.priorities import PriorityService
from control_plane.api.quarantined import QuarantineService
from control_plane.api.svids import SvidService
from control_plane.proto.gatehouse.node.v1 import node_pb2
from control_plane.proto.gatehouse.server.v1 import entry_pb2 as priority_pb2
from control_plane.proto.gatehouse.server.v1 import quarantine_pb2
from control_plane.proto.spire.api.server.agent.v1 import agent_pb2
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2
from control_plane.proto.spire.api.server.debug.v1 import debug_pb2
from control_plane.proto.spire.api.server.entry.v1 import entry_pb2
from control_plane.proto.spire.api.server.localauthority.v1 import localauthority_pb2
from control_plane.proto.spire.api.server.logger.v1 import logger_pb2
from control_plane.proto.spire.api.server.svid.v1 import svid_pb2
from control_plane.proto.spire.api.server.trustdomain.v1 import trustdomain_pb2
from control_plane.runtime.transport import Service, health, reflection, service


class _NotYet:
    """Implements nothing: each method answers UNIMPLEMENTED with a sentence that names it."""


def node_services(context: ServerContext) -> list[Service]:
    """What agents and remote administrators reach over TLS."""
    entries = EntryService(context)
    return [
        service(agent_pb2.DESCRIPTOR.services_by_name["Agent"], AgentService(context)),
        service(entry_pb2.DESCRIPTOR.services_by_name["Entry"], entries),
        service(priority_pb2.DESCRIPTOR.services_by_name["Entry"], PriorityService(context, entries)),
        service(quarantine_pb2.DESCRIPTOR.services_by_name["Quarantine"], QuarantineService(context)),
        service(svid_pb2.DESCRIPTOR.services_by_name["SVID"], SvidService(context)),
        service(bundle_pb2.DESCRIPTOR.services_by_name["Bundle"], BundleService(context)),
        service(node_pb2.DESCRIPTOR.services_by_name["Node"], NodeService(context)),
        service(trustdomain_pb2.DESCRIPTOR.services_by_name["TrustDomain"], _NotYet()),
        service(localauthority_pb2.DESCRIPTOR.services_by_name["LocalAuthority"], _NotYet()),
    ]


def local_services(
    context: ServerContext,
    *,
    chain: Callable[[], Sequence[bytes]],
    launch_level: str,
    configure_log: Callable[[str], None],
    healthy: Callable[[], bool],
) -> list[Service]:
    """The same and what only the machine itself may ask, for the admin socket."""
    services = [
        *node_services(context),
        service(debug_pb2.DESCRIPTOR.services_by_name["Debug"], DebugService(context, chain)),
        service(logger_pb2.DESCRIPTOR.services_by_name["Logger"], LoggerService(launch_level, configure_log)),
        health(healthy),
    ]
    return [*services, *reflection(services)]
