"""Secret engines of the fake Vault: PKI, transit, key/value."""

from __future__ import annotations

import base64
import datetime
import fnmatch
import re
import secrets
import time
import uuid
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SYSTEM_MAX_TTL = 32 * 86400


class Refused(Exception):
    """An answer with the list `errors`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def seconds(value: Any) -> int:
    """A length of time as Vault reads it: a number of seconds, or a text such as `24h`."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"(\d+)([smhd]?)", str(value))
    if found is None:
        raise Refused(400, f"error converting input {value!r}: invalid duration")
    return int(found[1]) * UNITS[found[2] or "s"]


def listed(value: Any) -> list[str]:
    """A list as Vault reads it: one, or a text with commas."""
    if isinstance(value, str):
        return [each.strip() for each in value.split(",") if each.strip()]
    return [str(each) for each in value or ()]


class KeyValueMount:
    """Key/value, version 1 or 2."""

    kind = "kv"
    max_ttl = 0

    def __init__(self, version: str) -> None:
        self.options = {"version": version}
        self._kept: dict[str, dict[str, Any]] = {}

    def handle(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.options["version"] == "2":
            if not path.startswith("data/"):
                raise Refused(404, "")
            path = path.removeprefix("data/")
        if method in ("POST", "PUT"):
            self._kept[path] = body["data"] if self.options["version"] == "2" else body
            return {}
        if path not in self._kept:
            raise Refused(404, "")
        found = self._kept[path]
        return {"data": {"data": found, "metadata": {}} if self.options["version"] == "2" else found}


class TransitMount:
    """Keys that sign and don't leave."""

    kind = "transit"
    max_ttl = 0
    options: Any = None

    def __init__(self) -> None:
        self._keys: dict[str, dict[str, Any]] = {}

    def handle(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        match path.split("/"):
            case ["keys"] if method == "LIST":
                if not self._keys:
                    raise Refused(404, "")
                return {"data": {"keys": sorted(self._keys)}}
            case ["keys", name] if method in ("POST", "PUT"):
                if name not in self._keys:
                    kind = body.get("type", "aes256-gcm96")
                    self._keys[name] = {"type": kind, "versions": [_make_key(kind)], "deletable": False}
                return self._shown(name)
            case ["keys", name] if method == "GET" and name in self._keys:
                return self._shown(name)
            case ["keys", name] if method == "DELETE":
                if name not in self._keys:
                    raise Refused(400, f"error deleting policy {name}: could not delete key; not found")
                if not self._keys[name]["deletable"]:
                    raise Refused(400, f"error deleting policy {name}: deletion is not allowed for this key")
                del self._keys[name]
                return {}
            case ["keys", name, "config"]:
                if name not in self._keys:
                    raise Refused(400, f"no existing key named {name} could be found")
                self._keys[name]["deletable"] = bool(body.get("deletion_allowed"))
                self._keys[name]["least"] = int(body.get("min_encryption_version", 1))
                return self._shown(name)
            case ["keys", name, "rotate"] if name in self._keys:
                key = self._keys[name]
                key["versions"].append(_make_key(key["type"]))
                return self._shown(name)
            case ["keys", name, "trim"] if name in self._keys:
                for at in range(int(body["min_available_version"]) - 1):
                    self._keys[name]["versions"][at] = None
                return {}
            case ["sign", name, *_]:
                return self._sign(name, body)
        raise Refused(404, "")

    def _shown(self, name: str) -> dict[str, Any]:
        key = self._keys[name]
        shown = {}
        for at, private in enumerate(key["versions"], 1):
            if private is None:
                continue
            if isinstance(private, bytes):
                shown[str(at)] = int(time.time())
                continue
            public = private.public_key()
            if isinstance(public, ed25519.Ed25519PublicKey):
                text = base64.b64encode(public.public_bytes_raw()).decode()
            else:
                pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                text = pem.decode()
            shown[str(at)] = {"public_key": text, "name": key["type"]}
        return {
            "data": {"name": name, "type": key["type"], "keys": shown, "latest_version": len(key["versions"])}
        }

    def _sign(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if name not in self._keys:
            raise Refused(400, "signing key not found")
        versions = self._keys[name]["versions"]
        version = int(body.get("key_version") or len(versions))
        if not self._keys[name].get("least", 1) <= version <= len(versions):
            raise Refused(400, "cannot sign with this key version")
        key, data = versions[version - 1], base64.b64decode(body["input"], validate=True)
        hash_ = {"sha2-256": hashes.SHA256(), "sha2-384": hashes.SHA384()}[
            body.get("hash_algorithm", "sha2-256")
        ]
        algorithm = utils.Prehashed(hash_) if body.get("prehashed") else hash_
        if isinstance(key, ec.EllipticCurvePrivateKey):
            signature = key.sign(data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPrivateKey):
            if body.get("signature_algorithm", "pss") == "pkcs1v15":
                signature = key.sign(data, padding.PKCS1v15(), algorithm)
            else:
                # As on a real one, the salt is as long as fits unless somebody asks for another.
                salt = {"hash": hash_.digest_size}.get(
                    body.get("salt_length", "auto"), padding.PSS.MAX_LENGTH
                )
                signature = key.sign(data, padding.PSS(padding.MGF1(hash_), salt), algorithm)
        else:
            if body.get("prehashed"):
                raise Refused(400, "unsupported operation with the prehashed option")
            signature = key.sign(data)
        text = f"vault:v{version}:{base64.b64encode(signature).decode()}"
        return {"data": {"signature": text, "key_version": version}}


def _make_key(kind: str) -> Any:
    if kind == "ecdsa-p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "ecdsa-p384":
        return ec.generate_private_key(ec.SECP384R1())
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in ("rsa-2048", "rsa-4096"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[4:]))
    if kind == "aes256-gcm96":
        return secrets.token_bytes(32)
    raise Refused(400, f"unknown key type {kind}")


class Issuer:
    """A CA of a mount; `key` is None for one that was only imported."""

    def __init__(self, certificate: x509.Certificate, key: Any, name: str = "") -> None:
        self.id = str(uuid.uuid4())
        self.certificate = certificate
        self.key = key
        self.name = name


ROLE_DEFAULTS: dict[str, Any] = {
    "allow_any_name": False, "allow_bare_domains": False, "allow_glob_domains": False,
    "allow_ip_sans": True, "allow_localhost": True, "allow_subdomains": False,
    "allow_wildcard_certificates": True, "allowed_domains": [], "allowed_other_sans": [],
    "allowed_uri_sans": [], "client_flag": True, "server_flag": True, "code_signing_flag": False,
    "email_protection_flag": False, "enforce_hostnames": True, "ext_key_usage": [],
    "generate_lease": False, "issuer_ref": "default", "key_type": "rsa", "key_bits": 2048,
    "key_usage": ["DigitalSignature", "KeyAgreement", "KeyEncipherment"], "max_ttl": 0,
    "no_store": False, "not_before_duration": 30, "organization": [], "require_cn": True, "ttl": 0,
    "use_csr_common_name": True, "use_csr_sans": True, "basic_constraints_valid_for_non_ca": False,
}  # fmt: skip
_SECONDS = ("ttl", "max_ttl", "not_before_duration")
_LISTS = ("allowed_domains", "allowed_uri_sans", "key_usage", "organization", "ext_key_usage")


class PkiMount:
    """A PKI engine with several issuers."""

    kind = "pki"
    options: Any = None

    def __init__(self) -> None:
        self.max_ttl = 0
        self.issuers: list[Issuer] = []
        self.default = ""
        self.roles: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.revoked: dict[str, int] = {}
        self.crl_config: dict[str, Any] = {"enable_delta": False}
        self.not_after: str = "err"

    def find(self, reference: str) -> Issuer:
        """An issuer by `default`, ID or name."""
        wanted = self.default if reference == "default" else reference
        for each in self.issuers:
            if wanted and wanted in (each.id, each.name):
                return each
        if reference == "default":
            raise Refused(500, "error fetching CA certificate: no default issuer currently configured")
        raise Refused(400, f"unable to find PKI issuer for reference: {reference}")

    def issuer_json(self, reference: str) -> dict[str, Any]:
        """What anybody may read of an issuer."""
        issuer = self.find(reference)
        return {
            "certificate": _pem(issuer.certificate),
            "ca_chain": [_pem(each) for each in self._chain(issuer)],
            "issuer_id": issuer.id,
            "issuer_name": issuer.name,
        }

    def handle(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        match path.split("/"):
            case ["root", "generate", "internal"]:
                return self._generate(body)
            case ["issuers"] if method == "LIST" and self.issuers:
                return {"data": {"keys": [each.id for each in self.issuers]}}
            case ["issuers", "import", "cert" | "bundle"]:
                return self._import(body)
            case ["config", "issuers"]:
                if method in ("POST", "PUT"):
                    self.default = self.find(body["default"]).id
                return {"data": {"default": self.default}}
            case ["config", "crl"]:
                self.crl_config |= body
                return {"data": self.crl_config}
            case ["issuer", reference] if method == "GET":
                issuer = self.find(reference)
                shown = {"leaf_not_after_behavior": self.not_after, "key_id": "1" if issuer.key else ""}
                return {"data": self.issuer_json(reference) | shown}
            case ["roles", name]:
                return self._role(method, name, body)
            case ["issuer", reference, "sign", name]:
                return self._sign(self.find(reference), name, body)
            case ["sign", name]:
                issuer = self.roles.get(name, {}).get("issuer_ref", "default")
                return self._sign(self.find(issuer), name, body)
            case ["root", "sign-intermediate"]:
                return self._sign_ca(self.find("default"), body)
            case ["issuer", reference, "sign-intermediate"]:
                return self._sign_ca(self.find(reference), body)
            case ["revoke"]:
                return self._revoke(body)
            case ["crl", "rotate"]:
                return {"data": {"success": True}}
            case ["crl", "rotate-delta"]:
                if not self.crl_config["enable_delta"]:
                    raise Refused(400, "delta CRL rebuilding is not enabled")
                return {"data": {"success": True}}
        raise Refused(404, "")

    def _generate(self, body: dict[str, Any]) -> dict[str, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, body["common_name"])])
        ttl = self._bounded(seconds(body.get("ttl", 0)), 0)
        back = seconds(body.get("not_before_duration", 30))
        builder = _builder(name, name, key.public_key(), ttl, back)
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        builder = builder.add_extension(_usage("CertSign", "CRLSign"), True)
        issuer = Issuer(builder.sign(key, hashes.SHA256()), key, body.get("issuer_name", ""))
        self.issuers.append(issuer)
        self.default = self.default or issuer.id
        return {"data": {"certificate": _pem(issuer.certificate), "issuer_id": issuer.id}}

    def _import(self, body: dict[str, Any]) -> dict[str, Any]:
        certificates = x509.load_pem_x509_certificates(body["pem_bundle"].encode())
        made = []
        for certificate in certificates:
            if certificate in [each.certificate for each in self.issuers]:
                continue
            spki = certificate.public_key()
            key = next((each.key for each in self.issuers if each.certificate.public_key() == spki), None)
            made.append(Issuer(certificate, key))
        self.issuers += made
        return {"data": {"imported_issuers": [each.id for each in made]}}

    def _role(self, method: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if method in ("POST", "PUT"):
            role = ROLE_DEFAULTS | body
            role |= {each: seconds(role[each]) for each in _SECONDS}
            role |= {each: listed(role[each]) for each in _LISTS}
            if role["max_ttl"] and role["ttl"] > role["max_ttl"]:
                raise Refused(400, '"ttl" value must be less than "max_ttl" value')
            self.roles[name] = role
            return {"data": role}
        if name not in self.roles:
            raise Refused(404, "")
        return {"data": self.roles[name]}

    def _bounded(self, ttl: int, role_max: int) -> int:
        """The lifetime after what cuts it without a word but a warning."""
        longest = self.max_ttl or SYSTEM_MAX_TTL
        longest = min(longest, role_max) if role_max else longest
        return min(ttl or longest, longest)

    def _sign(self, issuer: Issuer, name: str, body: dict[str, Any]) -> dict[str, Any]:
        role = self.roles.get(name)
        if role is None:
            raise Refused(400, f"unknown role: {name}")
        csr = _csr(body)
        kind = "ec" if isinstance(csr.public_key(), ec.EllipticCurvePublicKey) else "rsa"
        kind = "ed25519" if isinstance(csr.public_key(), ed25519.Ed25519PublicKey) else kind
        if role["key_type"] not in ("any", kind):
            raise Refused(400, f"role requires keys of type {role['key_type']}")
        names: list[x509.GeneralName] = []
        for uri in listed(body.get("uri_sans", "")):
            if not any(fnmatch.fnmatchcase(uri, each) for each in role["allowed_uri_sans"]):
                raise Refused(
                    400, f"URI Subject Alternative Names were provided via the API which are not valid: {uri}"
                )
            names.append(x509.UniformResourceIdentifier(uri))
        dns = listed(body.get("alt_names", ""))
        common_name = body.get("common_name", "")
        if role["require_cn"] and not common_name:
            raise Refused(400, "the common_name field is required, or must be provided in a CSR")
        if common_name and not body.get("exclude_cn_from_sans"):
            dns.append(common_name)
        for each in dns:
            if not self._allows(role, each):
                raise Refused(400, f"subject alternate name {each} not allowed by this role")
        names = [*(x509.DNSName(each) for each in dns), *names]
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in role["organization"]]
        if common_name:
            subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        ttl = self._bounded(seconds(body.get("ttl", 0)) or role["ttl"], role["max_ttl"])
        builder = _builder(
            issuer.certificate.subject, x509.Name(subject), csr.public_key(), ttl, role["not_before_duration"]
        )
        builder = self._within(builder, issuer, ttl)
        builder = builder.add_extension(_usage(*role["key_usage"]), True)
        extended = [(role["server_flag"], ExtendedKeyUsageOID.SERVER_AUTH)]
        extended.append((role["client_flag"], ExtendedKeyUsageOID.CLIENT_AUTH))
        used = [oid for flag, oid in extended if flag]
        builder = builder.add_extension(x509.ExtendedKeyUsage(used), False)
        builder = builder.add_extension(_authority_key_id(issuer), False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), not subject)
        if role["basic_constraints_valid_for_non_ca"]:
            builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        return self._given(builder, issuer, store=not role["no_store"])

    def _allows(self, role: dict[str, Any], name: str) -> bool:
        if role["allow_any_name"]:
            return True
        for domain in role["allowed_domains"]:
            if role["allow_bare_domains"] and name == domain:
                return True
            if role["allow_subdomains"] and name.endswith(f".{domain}"):
                return True
        return False

    def _sign_ca(self, issuer: Issuer, body: dict[str, Any]) -> dict[str, Any]:
        csr = _csr(body)
        ttl = self._bounded(seconds(body.get("ttl", 0)), 0)
        back = seconds(body.get("not_before_duration", 30))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, body["common_name"])])
        subject = csr.subject if body.get("use_csr_values") else subject
        builder = _builder(issuer.certificate.subject, subject, csr.public_key(), ttl, back)
        builder = self._within(builder, issuer, ttl)
        length = body.get("max_path_length")
        builder = builder.add_extension(x509.BasicConstraints(True, length), True)
        builder = builder.add_extension(_usage("CertSign", "CRLSign"), True)
        builder = builder.add_extension(_authority_key_id(issuer), False)
        names = [x509.UniformResourceIdentifier(each) for each in listed(body.get("uri_sans", ""))]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        permitted = listed(body.get("permitted_uri_domains", ()))
        if permitted:
            uris = [x509.UniformResourceIdentifier(each) for each in permitted]
            builder = builder.add_extension(x509.NameConstraints(uris, None), True)
        return self._given(builder, issuer, store=True)

    def _within(self, builder: Any, issuer: Issuer, ttl: int) -> Any:
        end = issuer.certificate.not_valid_after_utc
        asked = _moment(ttl)
        if asked <= end or self.not_after == "permit":
            return builder
        if self.not_after == "truncate":
            return builder.not_valid_after(end)
        raise Refused(
            400,
            "cannot satisfy request, as TTL would result in notAfter of "
            f"{asked.isoformat()} that is beyond the expiration of the CA certificate at {end.isoformat()}",
        )

    def _given(self, builder: Any, issuer: Issuer, *, store: bool) -> dict[str, Any]:
        certificate = builder.sign(issuer.key, hashes.SHA256())
        serial = _colons(certificate.serial_number)
        if store:
            self.stored[serial] = certificate.public_bytes(Encoding.DER)
        return {
            "data": {
                "certificate": _pem(certificate),
                "issuing_ca": _pem(issuer.certificate),
                "ca_chain": [_pem(each) for each in self._chain(issuer)],
                "serial_number": serial,
                "expiration": int(certificate.not_valid_after_utc.timestamp()),
            }
        }

    def _chain(self, issuer: Issuer) -> list[x509.Certificate]:
        """The issuer and those above it in the mount."""
        chain = [issuer.certificate]
        while True:
            above = [each.certificate for each in self.issuers if each.certificate not in chain]
            found = next((each for each in above if _signed(each, chain[-1])), None)
            if found is None:
                return chain
            chain.append(found)

    def _revoke(self, body: dict[str, Any]) -> dict[str, Any]:
        if "certificate" in body:
            certificate = x509.load_pem_x509_certificate(body["certificate"].encode())
            serial = _colons(certificate.serial_number)
            self.stored[serial] = certificate.public_bytes(Encoding.DER)
        else:
            serial = body["serial_number"].lower()
        if serial not in self.stored:
            raise Refused(400, f"certificate with serial {serial} not found")
        moment = self.revoked.setdefault(serial, int(time.time()))
        return {"data": {"revocation_time": moment, "state": "revoked"}}


def _signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _csr(body: dict[str, Any]) -> x509.CertificateSigningRequest:
    try:
        return x509.load_pem_x509_csr(body["csr"].encode())
    except ValueError:
        raise Refused(400, "certificate request could not be parsed") from None


def _builder(issuer: x509.Name, subject: x509.Name, key: Any, ttl: int, back: int) -> Any:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(int.from_bytes(secrets.token_bytes(20)) >> 1)
        .not_valid_before(_moment(-back))
        .not_valid_after(_moment(ttl))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
    )


def _moment(after: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(time.time()) + after, datetime.UTC)


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="DigitalSignature" in names, content_commitment=False,
        key_encipherment="KeyEncipherment" in names, data_encipherment=False,
        key_agreement="KeyAgreement" in names, key_cert_sign="CertSign" in names,
        crl_sign="CRLSign" in names, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _authority_key_id(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    found = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _colons(serial: int) -> str:
    digits = f"{serial:x}"
    digits = "0" * (len(digits) % 2) + digits
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode().strip()
