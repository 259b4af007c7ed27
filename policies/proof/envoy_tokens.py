"""Envoy's token filter, as far as the proof needs it: whose claims the filters behind it can see."""

from collections.abc import Mapping, Sequence

from control_plane.core.errors import shown
from policies.inventory import Inventory
from policies.proof.envoy_policy import JWT_FILTER, snake_case
from policies.proof.question import Undecidable


def split_token_filters(filters: Sequence[object], inventory: Inventory) -> tuple[bool, list[object]]:
    """Whether claims are filled in, and the filters that aren't about tokens.

    Raises Undecidable where an issuer is believed that the inventory doesn't know, or with other keys, and
    where a filter comes after one that would already have needed the claims.
    """
    visible = False
    rest: list[object] = []
    for one in filters:
        node = snake_case(one)
        if not isinstance(node, Mapping) or node.get("name") != JWT_FILTER:
            rest.append(one)
            continue
        if rest:
            raise Undecidable("reading Envoy filters: tokens are checked after another filter has decided")
        config = node.get("typed_config")
        providers = config.get("providers") if isinstance(config, Mapping) else None
        for provider in providers.values() if isinstance(providers, Mapping) else ():
            if not isinstance(provider, Mapping) or not _known(provider, inventory):
                raise Undecidable(
                    f"reading Envoy filters: token provider {shown(provider)}, unlike the inventory"
                )
            visible = True
    return visible, rest


def _known(provider: Mapping[str, object], inventory: Inventory) -> bool:
    """Whether a provider is an issuer of the inventory, audiences and keys included, and shows its claims."""
    remote, local = provider.get("remote_jwks"), provider.get("local_jwks")
    http_uri = remote.get("http_uri") if isinstance(remote, Mapping) else None
    uri = http_uri.get("uri") if isinstance(http_uri, Mapping) else None
    inline = local.get("inline_string") if isinstance(local, Mapping) else None
    audiences = provider.get("audiences", [])
    listed = tuple(map(str, audiences)) if isinstance(audiences, list) else None
    return provider.get("payload_in_metadata") == "payload" and any(
        (provider.get("issuer"), listed) == (one.issuer, one.audiences)
        and (uri == one.jwks_uri if one.jwks_uri else uri is None and inline == one.jwks)
        for one in inventory.issuers
    )
