"""A large estate, the same at every run: its inventory, and projects of Rego for it, as files by name.

Services stand in 50 namespaces, each with an HTTP and a TCP port. Edges say who may call whom: some by path
and method, some by header, some by network on the TCP port, some by a claim of a token. They come as a
document that one Rego rule iterates over (`from_document`) or as a rule each (`from_rules`, `on_one`).
"""

import json
from collections.abc import Mapping
from typing import Final

NAMESPACES: Final = 50
INVENTORY: Final = "inventory.json"

Edge = Mapping[str, object]

_IMPORT: Final = "import data.gatehouse.lib.spiffe\n"
_RULES_HEAD: Final = f"package gatehouse.authz\n\n{_IMPORT}import future.keywords.not\n"
_HEAD: Final = f"""{_RULES_HEAD}
default allow := false

default deny := false
"""

_DENY: Final = """
deny if {
\tstartswith(input.request.path, "/internal/")
\tnot input.source.namespace == "team-0"
}
"""

_ITERATION: Final = """
callee := sprintf("%s/%s", [input.destination.namespace, input.destination.service])

allow if {
\tsome edge in data.edges
\tedge.destination == callee
\tinput.source.spiffe_id == spiffe.mesh_id(edge.source.namespace, edge.source.account)
\tmethod_fits(edge)
\tpath_fits(edge)
\tport_fits(edge)
\tnetwork_fits(edge)
\tevery name, value in object.get(edge, "headers", {}) {
\t\tinput.request.headers[name] == value
\t}
\tevery name, value in object.get(edge, "claims", {}) {
\t\tinput.jwt.claims[name] == value
\t}
}

method_fits(edge) if not edge.methods

method_fits(edge) if input.request.method in edge.methods

path_fits(edge) if not edge.paths

path_fits(edge) if {
\tsome path in edge.paths
\tglob.match(path, ["/"], input.request.path)
}

port_fits(edge) if not edge.port

port_fits(edge) if input.destination.port == edge.port

network_fits(edge) if not edge.networks

network_fits(edge) if {
\tsome network in edge.networks
\tnet.cidr_contains(network, input.source.ip)
}
"""

_SEGMENTATION: Final = """\
package gatehouse.segmentation

import future.keywords.not

default allow := false

allow if input.source.labels.tier in callers[input.destination.labels.tier]

callers := {"web": {"web", "app"}, "app": {"web", "app", "data"}, "data": {"app", "data"}}
"""

_INVARIANTS: Final = """\
package gatehouse.invariants

import future.keywords.not

never contains "foreign trust domains stay outside" if {
\tnot input.source.trust_domain == data.inventory.trust_domain
}
"""

_TO: Final = """
to(namespace, service) if {
\tinput.destination.namespace == namespace
\tinput.destination.service == service
}
"""


def one_more(services: int) -> str:
    """The inventory file with another workload, in a namespace that no rule names.

    (One in the namespace that every DENY names is a change for all of them.)
    """
    document = json.loads(inventory(services + 2))
    del document["workloads"][services]
    return json.dumps(document, indent=2)


def inventory(services: int) -> str:
    """The inventory file."""
    ports = [{"port": 80, "target_port": 8080, "protocol": "http"}, {"port": 9000, "protocol": "tcp"}]
    workloads = [
        {
            "name": _name(index),
            "namespace": _namespace(index),
            "service_account": _name(index),
            "labels": {"app": _name(index), "tier": ("web", "app", "data")[index % 3]},
            "services": [{"name": _name(index), "ports": ports}],
        }
        for index in range(services)
    ]
    issuer = {
        "name": "staff",
        "issuer": "https://login",
        "jwks_uri": "https://login/keys",
        "claims": {"role": "string"},
    }
    document = {"mesh": {"trust_domain": "example.org"}, "issuers": [issuer], "workloads": workloads}
    return json.dumps(document, indent=2)


def edges(services: int, callers: int, changed: int | None = None) -> list[Edge]:
    """`callers` edges into each service; the first into service `changed` has another path."""
    found: list[Edge] = []
    for index in range(services):
        for number in range(callers):
            caller = (index * 7 + number * 13 + 1) % services
            extra = "new/" if index == changed and number == 0 else ""
            found.append(
                {
                    "source": {"namespace": _namespace(caller), "account": _name(caller)},
                    "destination": f"{_namespace(index)}/{_name(index)}",
                    **_shape((index + number % 2) % 5, index, extra),
                }
            )
    return found


def _shape(kind: int, index: int, extra: str) -> Edge:
    """The conditions of an edge: two of five shapes for each service."""
    shapes: tuple[Edge, ...] = (
        {"methods": ["GET", "HEAD"], "paths": [f"/api/{index}/{extra}**"]},
        {"methods": ["POST"], "paths": [f"/v1/{index}/{extra}{part}" for part in ("list", "get", "put")]},
        {"paths": [f"/items/{index}/{extra}*"], "headers": {"x-env": "live"}},
        {"networks": [f"10.{index % 200}.0.0/16"], "port": 9000 + len(extra)},
        {"claims": {"role": f"{extra}admin"}, "paths": ["**/admin"]},
    )
    return shapes[kind]


def from_document(services: int, callers: int, changed: int | None = None) -> dict[str, str]:
    """A project of one rule over all edges, which are data; with segments by tier, and an invariant."""
    rows = ",\n".join(map(json.dumps, edges(services, callers, changed)))
    return {
        "authz/authz.rego": _HEAD + _ITERATION + _DENY,
        "segmentation/segmentation.rego": _SEGMENTATION,
        "invariants/invariants.rego": _INVARIANTS,
        "data.json": f'{{"edges": [\n{rows}\n]}}\n',
    }


def from_rules(services: int, rules: int) -> dict[str, str]:
    """A project of a rule each, in a file for each namespace."""
    texts = {_namespace(index): [_RULES_HEAD] for index in range(min(services, NAMESPACES))}
    for number in range(rules):
        texts[_namespace(number % services)].append(_rule(number, number % services, services))
    return {
        "authz.rego": _HEAD.replace(_IMPORT, "") + _TO + _DENY,
        **{f"authz/{name}.rego": "".join(parts) for name, parts in texts.items()},
    }


def on_one(services: int, rules: int) -> dict[str, str]:
    """A project of a rule each, all of them for one workload."""
    return {
        "authz.rego": _HEAD + _TO + _DENY + "".join(_rule(number, 0, services) for number in range(rules))
    }


def _rule(number: int, index: int, services: int) -> str:
    """A rule that shares nothing with the others but its destination."""
    caller = (number * 13 + 1) % services
    return (
        f'\nallow if {{\n\tto("{_namespace(index)}", "{_name(index)}")\n'
        f'\tinput.source.spiffe_id == spiffe.mesh_id("{_namespace(caller)}", "{_name(caller)}")\n'
        f'\tinput.request.method in {{"GET", "POST"}}\n'
        f'\tstartswith(input.request.path, "/tenants/{number}/")\n}}\n'
    )


def _name(index: int) -> str:
    return f"service-{index}"


def _namespace(index: int) -> str:
    return f"team-{index % NAMESPACES}"
