"""Login methods of the fake Vault: AppRole, JWT, Kubernetes, TLS certificate."""

from __future__ import annotations

import fnmatch
import secrets
import time
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from vault_engines import Refused, listed


class AuthMount:
    """One mount: its configuration, its roles, and who may come in."""

    def __init__(self, kind: str) -> None:
        if kind not in ("approle", "jwt", "kubernetes", "cert"):
            raise Refused(400, f"plugin not found in the catalog: {kind}")
        self.kind = kind
        self.config: dict[str, Any] = {}
        self.roles: dict[str, dict[str, Any]] = {}
        self.role_ids: dict[str, str] = {}
        self.secret_ids: dict[str, tuple[str, int]] = {}

    def handle(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Configuration, by whoever may."""
        match path.split("/"):
            case ["config"]:
                self.config |= body
                return {"data": self.config} if method == "GET" else {}
            case ["role" | "certs", name]:
                if method in ("POST", "PUT"):
                    self.roles[name] = self.roles.get(name, {}) | body
                    self.role_ids.setdefault(name, secrets.token_hex(8))
                    return {}
                if name in self.roles:
                    return {"data": self.roles[name]}
            case ["role", name, "role-id"] if name in self.roles:
                return {"data": {"role_id": self.role_ids[name]}}
            case ["role", name, "secret-id"] if name in self.roles:
                value = secrets.token_hex(8)
                self.secret_ids[value] = (name, int(self.roles[name].get("secret_id_num_uses", 0)))
                return {"data": {"secret_id": value, "secret_id_ttl": 0}}
        raise Refused(404, "")

    def log_in(
        self, body: dict[str, Any], certificate: bytes | None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The policies and token options of who presents this. Raises Refused."""
        if self.kind == "approle":
            role = self._approle(body)
        elif self.kind == "cert":
            role = self._cert(body, certificate)
        else:
            role = self._jwt(body)
        return tuple(listed(role.get("token_policies", ()))), role

    def _approle(self, body: dict[str, Any]) -> dict[str, Any]:
        name, uses = self.secret_ids.get(body.get("secret_id", ""), ("", 0))
        if not name or self.role_ids[name] != body.get("role_id"):
            raise Refused(400, "invalid role or secret ID")
        if uses == 1:
            del self.secret_ids[body["secret_id"]]
        elif uses:
            self.secret_ids[body["secret_id"]] = (name, uses - 1)
        return self.roles[name]

    def _jwt(self, body: dict[str, Any]) -> dict[str, Any]:
        role = self.roles.get(body.get("role", ""))
        if role is None:
            raise Refused(400, f'role "{body.get("role")}" could not be found')
        keys = self.config.get("jwt_validation_pubkeys") or self.config.get("pem_keys") or []
        for pem in keys:
            try:
                claims = jwt.decode(body["jwt"], ECKey.import_key(pem), algorithms=["ES256"]).claims
            except (JoseError, ValueError):
                continue
            return self._admit(role, claims)
        raise Refused(400, "error validating token: no known key successfully validated the token signature")

    def _admit(self, role: dict[str, Any], claims: dict[str, Any]) -> dict[str, Any]:
        audiences = claims.get("aud", [])
        audiences = [audiences] if isinstance(audiences, str) else audiences
        if claims.get("exp", 0) < time.time():
            raise Refused(400, "error validating token: token is expired")
        if self.kind == "jwt":
            if not set(audiences) & set(listed(role.get("bound_audiences", ()))):
                raise Refused(400, "error validating claims: aud claim does not match any bound audience")
            if role.get("bound_subject") and role["bound_subject"] != claims.get("sub"):
                raise Refused(400, "error validating claims: sub claim does not match bound subject")
        else:
            own = claims.get("kubernetes.io", {})
            names = listed(role.get("bound_service_account_names", ()))
            if own.get("serviceaccount", {}).get("name") not in names:
                raise Refused(403, "service account name not authorized")
        return role

    def _cert(self, body: dict[str, Any], certificate: bytes | None) -> dict[str, Any]:
        if certificate is None:
            raise Refused(400, "client certificate must be supplied")
        shown = x509.load_der_x509_certificate(certificate)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        for name, role in self.roles.items():
            if body.get("name") not in (None, name):
                continue
            authority = x509.load_pem_x509_certificate(role["certificate"].encode())
            try:
                shown.verify_directly_issued_by(authority)
            except (InvalidSignature, ValueError):
                continue
            allowed = listed(role.get("allowed_uri_sans", ()))
            # Whoever comes is called by the common name, and has to be called something.
            if not shown.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
                raise Refused(500, "missing name in alias")
            if not allowed or any(fnmatch.fnmatchcase(uri, each) for uri in uris for each in allowed):
                return role
        raise Refused(400, "invalid certificate or no client certificate supplied")
