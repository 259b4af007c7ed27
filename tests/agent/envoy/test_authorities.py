"""Which certificate authorities vouch for the issuers of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.enforcement.ports import WorkloadPolicy
from agent.envoy import authorities
from agent.envoy.authorities import system_authorities
from agent.envoy.description import ServiceDescription
from agent.envoy.names import CLUSTER, JWT_AUTHN, TOKENS
from agent.envoy.resources import Situation, build
from control_plane.core.spiffe_id import SpiffeId

PAY = SpiffeId.parse("spiffe://shop.test/pay")
SERVICE: dict[str, Any] = {
    "name": "pay",
    "spiffe_id": str(PAY),
    "inbound": [{"listen": "0.0.0.0:8443", "upstream": "127.0.0.1:8080", "protocol": "http"}],
}


@pytest.mark.parametrize("named", ["", "/srv/own-authorities.pem"])
def test_the_description_may_name_them(named: str) -> None:
    service = ServiceDescription.parse(SERVICE | ({"authorities": named} if named else {}))
    assert ServiceDescription.parse(service.to_document()) == service
    remote = {"http_uri": {"uri": "https://id.test/keys", "cluster": "jwks-id", "timeout": "5s"}}
    tokens = {"@type": JWT_AUTHN, "providers": {"id": {"remote_jwks": remote}}}
    policy = WorkloadPolicy("shop/pay", PAY, ({"name": TOKENS, "typed_config": tokens},), ())
    cluster: Any = build(Situation(service, policy))[CLUSTER]["jwks-id"]
    context = cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    assert context["trusted_ca"] == {"filename": named or authorities.USUAL[0]}
    assert context["match_typed_subject_alt_names"][0]["matcher"] == {"exact": "id.test"}


def test_otherwise_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(authorities, "USUAL", (str(first), str(second)))
    second.write_text("")
    assert system_authorities() == str(second)
    first.write_text("")
    assert system_authorities() == str(first)
    own = tmp_path / "own.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert system_authorities() == str(first), "a file that isn't there would make Envoy refuse"
    own.write_text("")
    assert system_authorities() == str(own)
