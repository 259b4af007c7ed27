"""Two people of the demo: Ada writes policies, Grace approves them and brings them into force.

A real server would trust tokens of a company's identity provider. Here a key that is made on the first start
signs them; the server is told its public half, and nothing else about it is special.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey

from deploy.demo import place

ISSUER = "https://login.gatehouse.test"
AUDIENCE = "gatehouse"
GRANTS = {"ada": ("author",), "grace": ("approver", "operator")}
TOKEN_SECONDS = 30 * 24 * 3600
FOLDER = place.DEMO / "people"


def settings() -> Path:
    """The server's settings file: whose tokens it accepts, and who may do what."""
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = FOLDER / "jwks.json"
    keys.write_text(json.dumps({"keys": [_key().as_dict(private=False)]}), encoding="ascii")
    grants = [f"demo:{person} {role}" for person, roles in GRANTS.items() for role in roles]
    path = place.DEMO / "server.toml"
    path.write_text(
        "[roles]\n"
        f"grants = {json.dumps(grants)}\n\n"
        "[[oidc]]\n"
        'name = "demo"\n'
        f"issuer = {json.dumps(ISSUER)}\n"
        f"jwks_file = {json.dumps(str(keys))}\n"
        f"audience = {json.dumps(AUDIENCE)}\n",
        encoding="utf-8",
    )
    return path


def token_of(person: str) -> Path:
    """A file with a fresh token of this person, as a login would leave it."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": person, "aud": AUDIENCE, "iat": now, "exp": now + TOKEN_SECONDS}
    key = _key()
    path = FOLDER / f"{person}.token"
    path.touch(mode=0o600)
    path.write_text(jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key), encoding="ascii")
    return path


def _key() -> ECKey:
    path = FOLDER / "login.key.json"
    if path.exists():
        return ECKey.import_key(json.loads(path.read_text(encoding="ascii")))
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(key.as_dict(private=True)), encoding="ascii")
    return key
