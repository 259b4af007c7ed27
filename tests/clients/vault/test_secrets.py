"""Secrets of the settings that are kept in Vault."""

from __future__ import annotations

import pytest
from real_vault import Server, unique

from control_plane.clients.vault.policies import hcl, rules
from control_plane.clients.vault.secrets import SecretReference, is_reference, resolve
from control_plane.core.errors import FailedPrecondition, InvalidInput, PermissionDenied
from control_plane.core.secret import Secret


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_field_is_read_from_either_version(server: Server, version: str) -> None:
    mount = server.api.mount("kv", options={"version": version})
    fields = {"key_passphrase": "correct horse", "other": "x"}
    path = f"{mount}/data/gatehouse/server" if version == "2" else f"{mount}/gatehouse/server"
    if version == "2":
        server.api.write(path, data=fields)
    else:
        server.api.write(path, **fields)
    reference = SecretReference.parse(f"vault:{mount}/gatehouse/server#key_passphrase")
    policy = server.api.policy(hcl(rules(server.settings(), [reference])))
    door = server.door(token=Secret(server.api.make_token(policy, ttl="60s")))
    assert resolve(Secret(str(reference)), door) == Secret("correct horse")
    with pytest.raises(FailedPrecondition, match="its fields are 'key_passphrase, other'"):
        resolve(Secret(f"vault:{mount}/gatehouse/server#absent"), door)
    with pytest.raises(PermissionDenied):
        resolve(Secret(f"vault:{mount}/gatehouse/elsewhere#x"), door)
    with pytest.raises(FailedPrecondition, match="vault kv put"):
        resolve(Secret(f"vault:{mount}/gatehouse/elsewhere#x"), server.door())


def test_what_is_no_reference_is_the_secret_itself(fake: Server) -> None:
    door = fake.door()
    assert not is_reference(Secret("hunter2"))
    assert resolve(Secret("hunter2"), door) == Secret("hunter2")
    assert fake.fake.requests == []


@pytest.mark.parametrize(
    "text",
    ["vault:", "vault:x#y", "vault:a/b", "vault:a/b#", "vault:a/../b#c", "vault:a//b#c", "vault:a/b#c d"],
)
def test_a_reference_that_cannot_be_read_is_refused_unseen(fake: Server, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(Secret(text), fake.door())
    assert text.removeprefix("vault:") not in caught.value.message or text == "vault:"


def test_a_mount_of_another_kind_is_told(server: Server) -> None:
    mount = server.api.mount("transit")
    with pytest.raises(FailedPrecondition, match="isn't a key/value mount"):
        resolve(Secret(f"vault:{mount}/{unique('x')}#y"), server.door())
