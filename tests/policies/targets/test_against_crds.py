"""Every object against Istio's own definitions: the OpenAPI schemas of its CRDs, unknown fields refused.

Structure only. The rules in CEL, and Kubernetes' own kinds, are judged by a real kube-apiserver
(tests/interop/test_kube_apiserver.py).
"""

from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import rendered
import yaml

KINDS = {"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"}
Schemas = dict[tuple[str, str], jsonschema.Draft7Validator]


@pytest.fixture(scope="session")
def schemas(peer: Callable[[str], Path]) -> Schemas:
    """A validator for each version and kind that Istio defines."""
    found: Schemas = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for crd in yaml.load_all(peer("istio-crds").read_text(), loader):
        spec = crd["spec"]
        for version in spec["versions"] if spec["names"]["kind"] in KINDS else ():
            place = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[place] = jsonschema.Draft7Validator(closed(version["schema"]["openAPIV3Schema"], top=True))
    return found


def closed(node: dict, top: bool = False) -> dict:
    """A structural schema that refuses the fields which a cluster would prune or reject."""
    found = dict(node)
    if found.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if "properties" in node:
        found["properties"] = {name: closed(one) for name, one in node["properties"].items()}
        if top:
            found["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
        if not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
            found["additionalProperties"] = False
    if isinstance(node.get("items"), dict):
        found["items"] = closed(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = closed(node["additionalProperties"])
    return found


def complaints(schemas: Schemas, document: dict) -> list[str]:
    validator = schemas[(document["apiVersion"], document["kind"])]
    return [
        f"{'/'.join(map(str, one.absolute_path))}: {one.message}" for one in validator.iter_errors(document)
    ]


def test_every_object_fits_istios_definitions(schemas: Schemas) -> None:
    kinds = set()
    for name, text in rendered.objects(40):
        document = yaml.safe_load(text)
        if document["kind"] in KINDS:
            assert not complaints(schemas, document), name
            kinds.add(document["kind"])
    assert kinds == KINDS


@pytest.mark.parametrize(("field", "value"), [
    ("action", "PERMIT"), ("ruels", []), ("rules", [{"from": [{"source": {"principals": "x"}}]}]),
    ("rules", [{"to": [{"operation": {"port": ["80"]}}]}]), ("selector", {"matchLabels": {"app": 1}}),
    ("rules", [{"when": [{"values": ["x"]}]}]),
])  # fmt: skip
def test_what_does_not_fit_is_noticed(field: str, value: object, schemas: Schemas) -> None:
    document = {
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {}, "spec": {},
    }  # fmt: skip
    assert not complaints(schemas, document)
    assert complaints(schemas, document | {"spec": {field: value}})
