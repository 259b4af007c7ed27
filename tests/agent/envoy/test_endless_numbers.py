"""Numbers that a Struct can hold and JSON can't, in what an Envoy sends: refused, not raised."""

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from agent.envoy.wire import read_delta, read_state_of_the_world
from control_plane.core.errors import InvalidInput


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_metadata_that_json_does_not_have_is_refused(number: float) -> None:
    world, delta = discovery_pb2.DiscoveryRequest(), discovery_pb2.DeltaDiscoveryRequest()
    for request, read in ((world, read_state_of_the_world), (delta, read_delta)):
        request.node.metadata.update({"gatehouse": {"service": {"a": number}}})
        with pytest.raises(InvalidInput, match="metadata can't be read"):
            read(request.SerializeToString())
