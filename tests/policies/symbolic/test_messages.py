"""Reasons made of unknown values: the rule that gives one holds wherever what it is made of is there."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from policies.compilation import compile_project
from policies.inventory_file import parse_inventory
from policies.project import Project

INVENTORY = """
mesh: {trust_domain: shop.test}
issuers:
- {name: staff, issuer: "https://login.test", jwks_uri: "https://login.test/keys", claims: {sub: string}}
workloads:
- name: pay
  namespace: shop
  service_account: pay
  labels: {app: pay}
  mode: envoy
  services: [{name: pay, ports: [{port: 80, target_port: 8080, protocol: http}]}]
"""
CERTAIN = [
    'sprintf("%s may not %v", [input.source.spiffe_id, input.request.path])',
    'sprintf("%5s", [lower(input.request.path)])',
    '$"{input.source.service_account} may not"',
    '$"{input.source.service_account} {lower(input.request.host)} {1}"',
    'concat(" ", ["no", lower(input.request.path), trim_space(input.source.namespace)])',
    "upper(input.source.ip)",
]
UNCERTAIN = [
    'sprintf("%*d", [input.destination.port, 1])',
    'sprintf("%1000000s", [input.request.path])',
    'concat(" ", [input.jwt.claims.sub])',
    "lower(input.jwt.claims.sub)",
    'sprintf("%v", [base64.decode(input.request.path)])',
    "base64.decode(input.request.path)",
]


def policy(message: str) -> str:
    return f"""package gatehouse.authz

allow if input.source.namespace == "shop"

deny contains message if {{
	input.request.method == "GET"
	message := {message}
}}
"""


@pytest.mark.parametrize(("message", "exact"), [(m, True) for m in CERTAIN] + [(m, False) for m in UNCERTAIN])
def test_a_reason_that_is_always_there_leaves_the_rule_exact(message: str, exact: bool) -> None:
    project = Project.of({"authz.rego": policy(message)})
    compiled = compile_project(project, parse_inventory(INVENTORY), "envoy-rbac")
    assert compiled.accepted
    assert compiled.exact is exact


@pytest.mark.parametrize("message", CERTAIN + UNCERTAIN)
def test_the_formula_agrees_with_the_evaluator(message: str, made: ModuleType) -> None:
    text = policy(message).replace("deny contains message", "deny")
    assert next(made.disagreements(text, random.Random(message), 200, whole=True), None) is None
    assert next(made.disagreements(text, random.Random(message), 200, whole=False), None) is None
