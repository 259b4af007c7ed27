"""Single fields of a manifest as the models of Istio and ztunnel read them."""

import pytest

from control_plane.core.errors import InvalidInput
from policies.proof.dimensions import Dimensions
from policies.proof.envoy_policy import RbacReader
from policies.proof.istio_policy import Chain, Reader
from policies.proof.space import Space
from policies.proof.ztunnel_policy import ZtunnelReader


def test_a_suffix_of_principals_leaves_the_scheme_out() -> None:
    """`*/ns/x` asks for something in front of `/ns/x` behind the scheme; `spiffe://ns/x` has none."""
    spec = {"action": "DENY", "rules": [{"from": [{"source": {"principals": ["*/ns/x"]}}]}]}
    space, dimensions = Space(), Dimensions.of(strict=True)
    for reader in (Reader(space, dimensions, Chain.TCP), ZtunnelReader(space, dimensions)):
        matched = reader.policy("shop", spec)
        answers = {
            identity: space.holds(matched, {dimensions.identity: f"spiffe://{identity}"})
            for identity in ("ns/x", "a/ns/x", "a.org/b/ns/x", "a/ns/xy")
        }
        assert answers == {"ns/x": False, "a/ns/x": True, "a.org/b/ns/x": True, "a/ns/xy": False}


@pytest.mark.parametrize("rule", [
    {"from": [{"source": {"ipBlocks": ["05.0.0.0/8"]}}]}, {"from": [{"source": {"ipBlocks": ["x"]}}]},
    {"to": [{"operation": {"ports": ["²"]}}]},
])  # fmt: skip
def test_values_that_are_none_are_refused_by_name(rule) -> None:
    space, dimensions = Space(), Dimensions.of(strict=True)
    for reader in (Reader(space, dimensions, Chain.TCP), ZtunnelReader(space, dimensions)):
        with pytest.raises(InvalidInput):
            reader.policy("shop", {"rules": [rule]})


@pytest.mark.parametrize("filters", [None, {}, "x", [None], [{"typed_config": {"rules": []}}]])
def test_filters_that_are_none_are_refused_by_name(filters) -> None:
    with pytest.raises(InvalidInput):
        RbacReader(Space(), Dimensions.of(strict=True)).filters(filters)
