"""A workload of the demo. It knows the Workload API's socket and nothing else; who it is, it is told.

    workload.py serve --socket S --port P --allow ID     answers callers that prove to be ID
    workload.py call  --socket S --port P --expect ID    calls every few seconds, and expects ID to answer
    workload.py ask   --socket S                         asks once who it is, and tells

Events go to standard output, one JSON object a line. It stands on the `spiffe` package, as any Python
workload would, and imports nothing of Gatehouse.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import time

from spiffe import WorkloadApiClient, X509Source

from deploy.demo import mtls

TIMEOUT_SECONDS = 20
PAUSE_SECONDS = 5
MAX_LINE_BYTES = 1024


def tell(event: str, **fields: object) -> None:
    """One event, at once."""
    print(json.dumps({"event": event, "at": int(time.time()), **fields}), flush=True)


def describe(source: X509Source) -> dict[str, object]:
    """What a source holds now."""
    leaf = source.svid.leaf
    return {
        "spiffe_id": str(source.svid.spiffe_id),
        "serial": f"{leaf.serial_number:x}",
        "expires_at": int(leaf.not_valid_after_utc.timestamp()),
    }


def serve(socket_path: str, port: int, allowed: str) -> None:
    """Answers each caller that proves to be `allowed`, and tells of those who do not."""
    with X509Source(socket_path=socket_path, timeout_in_seconds=TIMEOUT_SECONDS) as source:
        tell("identity", **describe(source))
        source.subscribe_for_updates(lambda: tell("renewed", **describe(source)))
        with socket.create_server(("127.0.0.1", port)) as listener:
            tell("listening", port=port)
            while True:
                raw, _ = listener.accept()
                raw.settimeout(TIMEOUT_SECONDS)
                try:
                    with mtls.server_context(source).wrap_socket(raw, server_side=True) as connection:
                        caller = mtls.require_peer(connection, allowed)
                        said = connection.recv(MAX_LINE_BYTES).decode("utf-8", "replace").strip()
                        connection.sendall(f"paid {said}\n".encode())
                        tell("served", caller=caller, said=said)
                except (OSError, mtls.WrongPeer) as error:
                    tell("refused", reason=str(error))
                finally:
                    raw.close()


def call(socket_path: str, port: int, expected: str) -> None:
    """Calls again and again, each time on a new connection."""
    with X509Source(socket_path=socket_path, timeout_in_seconds=TIMEOUT_SECONDS) as source:
        tell("identity", **describe(source))
        source.subscribe_for_updates(lambda: tell("renewed", **describe(source)))
        order = 0
        while True:
            order += 1
            try:
                started = time.perf_counter()
                with (
                    socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as raw,
                    mtls.client_context(source).wrap_socket(raw) as connection,
                ):
                    callee = mtls.require_peer(connection, expected)
                    connection.sendall(f"order {order}\n".encode())
                    answer = connection.recv(MAX_LINE_BYTES).decode("utf-8", "replace").strip()
                    tell(
                        "answered",
                        callee=callee,
                        answer=answer,
                        tls=connection.version(),
                        milliseconds=round((time.perf_counter() - started) * 1000, 1),
                    )
            except (OSError, mtls.WrongPeer) as error:
                tell("failed", reason=str(error))
                time.sleep(0.2 if order < 20 else PAUSE_SECONDS)  # the callee may still be starting
                continue
            time.sleep(PAUSE_SECONDS)


def ask(socket_path: str) -> int:
    """Asks once for an X509-SVID. 0 when one came, 1 when the agent refused."""
    with contextlib.closing(WorkloadApiClient(socket_path)) as client:
        try:
            svid = client.fetch_x509_svid()
        except Exception as error:  # (whatever the client raises is the answer that is shown)
            tell("no-identity", reason=str(error))
            return 1
        tell("identity", spiffe_id=str(svid.spiffe_id))
        return 0


def main() -> int:
    """Plays one of the roles."""
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    for role, flag in (("serve", "--allow"), ("call", "--expect"), ("ask", None)):
        each = roles.add_parser(role)
        each.add_argument("--socket", required=True)
        if flag:
            each.add_argument("--port", type=int, required=True)
            each.add_argument(flag, dest="peer", required=True)
    arguments = parser.parse_args()
    address = f"unix://{arguments.socket}"
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.role == "serve":
            serve(address, arguments.port, arguments.peer)
        elif arguments.role == "call":
            call(address, arguments.port, arguments.peer)
        else:
            return ask(address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
