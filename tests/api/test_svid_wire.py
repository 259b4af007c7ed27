"""The hand-written reply is what the generated classes would have written."""

from hypothesis import given
from hypothesis import strategies as st

from control_plane.api.svid_wire import batch_reply
from control_plane.core.errors import GatehouseError, InvalidInput, NotFound
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.svid import X509Svid
from control_plane.proto.convert import status_to_message, x509_svid_to_message
from control_plane.proto.spire.api.server.svid.v1.svid_pb2 import BatchNewX509SVIDResponse

svids = st.builds(
    lambda name, chain, expiry: X509Svid(
        SpiffeId(TrustDomain("example.org"), f"/{name}"), tuple(chain), 1, 0, expiry, ""
    ),
    st.from_regex(r"[a-z]{1,200}", fullmatch=True),
    st.lists(st.binary(min_size=1, max_size=700), min_size=1, max_size=3),
    st.integers(1, 1 << 62),
)
errors = st.sampled_from([NotFound("no entry"), InvalidInput("CSR: „nein“", hint="x")])


@given(st.lists(svids | errors, max_size=6))
def test_same_bytes_as_the_generated_classes(outcomes: list[X509Svid | GatehouseError]) -> None:
    expected = BatchNewX509SVIDResponse()
    for outcome in outcomes:
        result = expected.results.add()
        failed = isinstance(outcome, GatehouseError)
        result.status.CopyFrom(status_to_message(outcome if failed else None))  # type: ignore[arg-type]
        if isinstance(outcome, X509Svid):
            result.svid.CopyFrom(x509_svid_to_message(outcome))
    assert batch_reply(outcomes) == expected.SerializeToString()
