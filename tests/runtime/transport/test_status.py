"""Every error class survives the way through trailers; broken trailers never raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import errors
from control_plane.core.errors import Code, DenialReason, GatehouseError
from control_plane.runtime.transport.status import from_trailers, to_trailers

LEAVES = [
    errors.InvalidInput,
    errors.NotFound,
    errors.AlreadyExists,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.FailedPrecondition,
    errors.ResourceExhausted,
    errors.Unimplemented,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Corrupt,
    errors.Bug,
]


@pytest.mark.parametrize("kind", LEAVES)
def test_errors_survive_the_wire(kind: type[GatehouseError]) -> None:
    back = from_trailers(dict(to_trailers(kind("reading: ü\n came", hint="try ü"))))
    assert type(back) is kind
    assert back.message == "reading: ü\n came — try ü"


@pytest.mark.parametrize("reason", list(DenialReason))
def test_reasons_survive_the_wire(reason: DenialReason) -> None:
    trailers = dict(to_trailers(errors.PermissionDenied("no", reason=reason)))
    assert ("grpc-status-details-bin" in trailers) == (reason is not DenialReason.UNKNOWN)
    back = from_trailers(trailers)
    assert isinstance(back, errors.PermissionDenied) and back.reason is reason


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_has_a_class(code: Code) -> None:
    assert isinstance(from_trailers({"grpc-status": str(int(code))}), GatehouseError)


def test_ok_is_no_error() -> None:
    assert from_trailers({":status": "200", "grpc-status": "0"}) is None


@pytest.mark.parametrize(
    ("http_status", "kind"),
    [
        ("401", errors.Unauthenticated),
        ("403", errors.PermissionDenied),
        ("404", errors.Unimplemented),
        ("503", errors.Unavailable),
        ("200", errors.PeerMisbehaved),
        ("418", errors.PeerMisbehaved),
    ],
)
def test_http_statuses_without_grpc_status(http_status: str, kind: type[GatehouseError]) -> None:
    assert isinstance(from_trailers({":status": http_status}), kind)


@given(
    st.dictionaries(
        st.sampled_from(
            ["grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-retry-pushback-ms", ":status"]
        ),
        st.text(max_size=60) | st.sampled_from(["7", "14", "AAAA", "CAc", "-1", "99"]),
    )
)
def test_hostile_trailers_never_raise(trailers: dict[str, str]) -> None:
    assert isinstance(from_trailers(trailers), errors.GatehouseError | None)


def test_messages_are_bounded() -> None:
    trailers = dict(to_trailers(errors.Bug("x" * 100_000)))
    assert len(trailers["grpc-message"]) <= 4096
