"""The dimensions of a request as a proxy sees it, in the order in which they are cut.

Port and identity first: they split a policy into small rests. The path last: its patterns are the most
costly. Strict dimensions hold only what can occur under the input schema (a SPIFFE ID, a path without query,
a host in lower case); free ones hold any text and serve to compare one proxy model with another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from policies.proof.probes import Dimension, Ends, Matches, Probe, quote

FREE: Final = "(?s:.)*"
IDENTITY_DOMAIN: Final = "spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+"
METHOD_DOMAIN: Final = "[A-Za-z0-9!#$%&'*+.^_`|~-]+"
PATH_DOMAIN: Final = r"/[^?#\s]*"
HOST_DOMAIN: Final = r"[^A-Z\s/?#]+"
HEADER_DOMAIN: Final = "[^\r\n]*"


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The fixed dimensions, and makers for the keyed ones."""

    identity: Dimension
    port: Dimension
    source_ip: Dimension
    remote_ip: Dimension
    destination_ip: Dimension
    method: Dimension
    host: Dimension
    path: Dimension
    sni: Dimension
    header_domain: str
    claim_shapes: Mapping[tuple[str, ...], str]

    @staticmethod
    def of(
        strict: bool, claim_shapes: Mapping[tuple[str, ...], str] | None = None, authenticated: bool = False
    ) -> "Dimensions":
        """Strict for proofs about workloads, free for models against each other.

        `claim_shapes` (`string` or `list` by claim path) is what every issuer promises; such a claim never
        holds anything else. `authenticated` says that every peer has an identity.
        """

        def text(rank: int, name: str, domain: str, head: str = "") -> Dimension:
            return Dimension(rank, name, "text", (), domain if strict else FREE, head if strict else "")

        return Dimensions(
            identity=replace(text(2, "identity", IDENTITY_DOMAIN, "spiffe://"), always=authenticated),
            port=Dimension(1, "port", "port", always=True),
            source_ip=Dimension(3, "source_ip", "address"),
            remote_ip=Dimension(4, "remote_ip", "address"),
            destination_ip=Dimension(5, "destination_ip", "address"),
            method=text(6, "method", METHOD_DOMAIN),
            host=text(11, "host", HOST_DOMAIN),
            path=text(12, "path", PATH_DOMAIN, "/"),
            sni=text(7, "sni", HOST_DOMAIN),
            header_domain=HEADER_DOMAIN if strict else FREE,
            claim_shapes=claim_shapes or {},
        )

    def header(self, name: str) -> Dimension:
        """A request header, name in lower case."""
        return Dimension(8, "header", "text", (name.lower(),), self.header_domain)

    def claim(self, *path: str) -> Dimension:
        """A claim of the validated token."""
        return Dimension(
            9, "claim", f"claim-{shape}" if (shape := self.claim_shapes.get(path)) else "claim", path
        )

    def metadata(self, *path: str) -> Dimension:
        """Some other filter's dynamic metadata, texts only."""
        return Dimension(9, "metadata", "text", path)

    def opaque(self, digest: str) -> Dimension:
        """A condition that only the evaluator of the policy decides."""
        return Dimension(10, "opaque", "flag", (digest,))


def non_empty(dimension: Dimension) -> Probe:
    """`.+` on a text: presence, where the dimension holds no empty text and no line break anyway."""
    strict = dimension.kind == "text" and dimension.domain not in (FREE, HEADER_DOMAIN)
    return Probe(dimension) if strict else Matches(dimension, ".+")


def name_ends(identity: Dimension, tail: str) -> Probe:
    """What follows `spiffe://` ends with `tail`, which is how Istio and ztunnel read `*tail`.

    A tail that could reach back into the scheme isn't the end of the whole text: `*/a` leaves out `spiffe://a`.
    """
    apart = identity.domain != FREE and ":" not in tail and not tail.startswith("/")
    return Ends(identity, tail) if apart else Matches(identity, f"spiffe://.*{quote(tail)}")
