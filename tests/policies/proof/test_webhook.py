"""Objects that Istio's webhook would refuse are noticed before they are sent."""

import pytest

from policies.proof.webhook import refusals


def policy(rule: dict[str, object] | None, action: str = "ALLOW", **spec: object) -> dict[str, object]:
    rules = {} if rule is None else {"rules": [rule]}
    return {
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "x"},
        "spec": {"action": action, **rules, **spec},
    }


def source(**fields: object) -> dict[str, object]:
    return {"from": [{"source": fields}]}


def operation(**fields: object) -> dict[str, object]:
    return {"to": [{"operation": fields}]}


PROVIDER = {"provider": {"name": "agent"}}


@pytest.mark.parametrize(("document", "reason"), [
    (policy({"from": []}), "empty `from`"),
    (policy({"to": [{"operation": {}}]}), "empty operation"),
    (policy(source(principals=[""])), "empty value"),
    (policy(source(principals=[])), "empty value"),
    (policy(operation(ports=["70000"])), "port 70000"),
    (policy(operation(ports=["http"])), "port http"),
    (policy(source(ipBlocks=["10.0.0.0/33"])), "10.0.0.0/33"),
    (policy(source(principal=["a"])), "unknown field principal"),
    (policy(source(serviceAccounts=["a/b"], principals=["c"])), "beside principals"),
    (policy(source(serviceAccounts=["a*"])), "service account"),
    (policy(operation(paths=["/a{*}"])), "whole segment"),
    (policy(operation(paths=["/{**}/{*}"])), "after"),
    (policy(operation(paths=["a/{*}"])), "absolute"),
    (policy({"when": [{"key": "source.ip"}]}), "without key or values"),
    (policy({"when": [{"key": "destination.labels[a]", "values": ["b"]}]}), "gone"),
    (policy(None, "DENY"), "DENY without rules"),
    (policy(None, "CUSTOM", **PROVIDER), "CUSTOM without rules"),
    (policy({}, "ALLOW", **PROVIDER), "provider"),
    (policy({}, "CUSTOM"), "provider"),
    (policy(source(principals=["a"]), "CUSTOM", **PROVIDER), "scoped by principals"),
    (policy(source(notNamespaces=["a"]), "CUSTOM", **PROVIDER), "scoped by notNamespaces"),
    (policy({"when": [{"key": "request.auth.claims[a]", "values": ["b"]}]}, "CUSTOM", **PROVIDER),
     "scoped by request"),
    (policy({}, selector={}, targetRefs=[]), "at once"),
    (policy(None, rules=[{}] * 513), "513 rules"),
    (policy({"from": [{"source": {"principals": ["a"]}}] * 513}), "513 entries"),
    (policy({}, "AUDIT") | {"metadata": {"annotations": {"istio.io/dry-run": "true"}}}, "dry run"),
])  # fmt: skip
def test_what_the_webhook_refuses(document, reason) -> None:
    assert any(reason in one for one in refusals(document)), list(refusals(document))


@pytest.mark.parametrize("document", [
    policy(None), policy({}), policy({}, "DENY"), policy(source(principals=["a"]) | operation(ports=["80"])),
    policy(operation(paths=["/a/{*}/b/{**}", "/x*", "*y"])),
    policy(operation(ports=["80"]), "CUSTOM", **PROVIDER),
    policy({"when": [{"key": "request.headers[a]", "values": ["*"], "notValues": ["b"]}]}),
])  # fmt: skip
def test_what_it_lets_in(document) -> None:
    assert list(refusals(document)) == []
