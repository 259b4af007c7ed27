"""Access logs that Envoy writes by itself: one line of tab-separated fields a request or connection.

The fields are those by which a record can be told apart and joined: who (both SVIDs, the caller's serial
number), what, and which policy decided. What clients control comes last, since it may hold a tab. A listener
also logs handshakes that it refused. Sending records to the agent isn't done here.
"""

from typing import Final

from agent.envoy.listeners import Extras
from agent.envoy.names import FILE_LOG, Json

FIELDS: Final = (
    "START_TIME",
    "ACCESS_LOG_TYPE",
    "STREAM_ID",
    "CONNECTION_ID",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_HOST",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_FLAGS",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)",
    "DYNAMIC_METADATA(envoy.filters.http.ext_authz:lines)",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "DURATION",
    "REQ(:METHOD)",
    "REQ(:AUTHORITY)",
    "REQ(:PATH)",
)


def file_logs(path: str) -> Extras:
    """A log file for every listener; an empty path is none."""
    if not path:
        return Extras()
    line = "\t".join(f"%{field}%" for field in FIELDS) + "\n"
    log: Json = {
        "name": "envoy.access_loggers.file",
        # What still runs is reported to the agent every half second, and would fill the file.
        "filter": {"log_type_filter": {"types": ["DownstreamPeriodic"], "exclude": True}},
        "typed_config": {
            "@type": FILE_LOG,
            "path": path,
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    }
    return Extras(http_logs=(log,), tcp_logs=(log,), listener_logs=(log,))
