"""Trust domain aliases: which principals one written principal stands for (pilot's trust domain bundle)."""

import functools


@functools.lru_cache(maxsize=65536)
def expand_trust_domains(principal: str, trust_domains: tuple[str, ...]) -> tuple[str, ...]:
    """A principal of the mesh's trust domain, an alias or `cluster.local` stands for all of the mesh's."""
    domain, *rest = principal.split("/")
    if len(rest) != 4 or domain == "*" or not trust_domains:
        return (principal,)
    if domain != "cluster.local" and not any(_alike(domain, one) for one in trust_domains):
        return (principal,)
    found = []
    for one in trust_domains:
        covered = domain.startswith("*") and one.endswith(domain[1:])
        found.append(principal if covered else "/".join([one, *rest]))
    return tuple(dict.fromkeys(found))


def _alike(left: str, right: str) -> bool:
    if left == right:
        return True
    for one, other in ((left, right), (right, left)):
        if other.startswith("*") and one.endswith(other[1:]):
            return True
        if other.endswith("*") and one.startswith(other[:-1]):
            return True
    return False
