"""The committed generated code is what the generator writes, and lives beside foreign registrations."""

import subprocess
import sys

from control_plane.proto import generate


def test_generated_code_is_current() -> None:
    assert generate.main(["--check"]) == 0


def test_relocation_leaves_runtime_imports_alone() -> None:
    text = (
        "from google.protobuf import descriptor as _descriptor\n"
        "from google.protobuf import struct_pb2 as _struct_pb2\n"
        "from spire.api.types import entry_pb2 as _entry_pb2\n"
    )
    assert generate.relocate(text).splitlines() == [
        "from google.protobuf import descriptor as _descriptor",
        "from control_plane.proto.google.protobuf import struct_pb2 as _struct_pb2",
        "from control_plane.proto.spire.api.types import entry_pb2 as _entry_pb2",
    ]


def test_our_messages_and_foreign_registrations_live_in_one_process() -> None:
    """`spiffe`, googleapis and grpclib register the same names in the default pool, in either order."""
    ours = (
        "from control_plane.proto import workloadapi_pb2 as w;"
        "from control_plane.proto.grpc.health.v1 import health_pb2;"
        "from control_plane.proto.google.rpc import status_pb2;"
    )
    theirs = "import spiffe; import grpclib.health.v1.health_pb2; import google.rpc.status_pb2;"
    check = "assert w.X509SVIDResponse(svids=[w.X509SVID(hint='h')]).svids[0].hint == 'h'"
    for program in (ours + theirs + check, theirs + ours + check):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
