"""Values and stores for the tests of identity."""

from collections.abc import Callable

import pytest

from control_plane.core.entry import Entry
from control_plane.core.selectors import Selector
from control_plane.core.spiffe_id import SpiffeId, TrustDomain


@pytest.fixture
def td() -> TrustDomain:
    return TrustDomain("example.org")


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    def make(
        name: str, parent: str = "/agent", selectors: tuple[str, ...] = ("unix:uid:1",), **other: object
    ) -> Entry:
        domain = TrustDomain("example.org")
        return Entry(
            id=str(other.pop("id", "")),
            spiffe_id=SpiffeId(domain, name),
            parent_id=SpiffeId(domain, parent),
            selectors=frozenset(Selector.parse(text) for text in selectors),
            **other,  # type: ignore[arg-type]
        )

    return make
