"""Certificates and requests as the objects that OPA makes of them: the fields of Go's x509.Certificate in
JSON.

Absent lists are null, byte strings base64, object identifiers arrays of integers, algorithms Go's
enumeration. Not here: finding certificates in text and verifying chains (`certificates`).
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtensionOID, NameOID
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import SignatureAlgorithmOID as Signature

from policies.language.values import Object, Value, from_python

_SIGNATURES = {
    Signature.RSA_WITH_MD5: 2,
    Signature.RSA_WITH_SHA1: 3,
    Signature.RSA_WITH_SHA256: 4,
    Signature.RSA_WITH_SHA384: 5,
    Signature.RSA_WITH_SHA512: 6,
    Signature.DSA_WITH_SHA1: 7,
    Signature.DSA_WITH_SHA256: 8,
    Signature.ECDSA_WITH_SHA1: 9,
    Signature.ECDSA_WITH_SHA256: 10,
    Signature.ECDSA_WITH_SHA384: 11,
    Signature.ECDSA_WITH_SHA512: 12,
    Signature.ED25519: 16,
}
_PSS_BY_HASH = {"sha256": 13, "sha384": 14, "sha512": 15}
_USAGES = {
    Usage.ANY_EXTENDED_KEY_USAGE: 0,
    Usage.SERVER_AUTH: 1,
    Usage.CLIENT_AUTH: 2,
    Usage.CODE_SIGNING: 3,
    Usage.EMAIL_PROTECTION: 4,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.5"): 5,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.6"): 6,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.7"): 7,
    Usage.TIME_STAMPING: 8,
    Usage.OCSP_SIGNING: 9,
}
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
_NAME_FIELDS = {
    NameOID.COUNTRY_NAME: "Country",
    NameOID.ORGANIZATION_NAME: "Organization",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OrganizationalUnit",
    NameOID.LOCALITY_NAME: "Locality",
    NameOID.STATE_OR_PROVINCE_NAME: "Province",
    NameOID.STREET_ADDRESS: "StreetAddress",
    NameOID.POSTAL_CODE: "PostalCode",
}
_HANDLED = frozenset(
    {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    }
)


def text64(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode()


def identifier(oid: x509.ObjectIdentifier) -> list[int]:
    """An object identifier as its numbers."""
    return [int(part) for part in oid.dotted_string.split(".")]


def _listed(items: Iterable[Any]) -> list[Any] | None:
    return list(items) or None


def _name(name: x509.Name) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(_NAME_FIELDS.values())
    fields |= {"CommonName": "", "SerialNumber": "", "ExtraNames": None}
    names = []
    for attribute in name:
        names.append({"Type": identifier(attribute.oid), "Value": attribute.value})
        if attribute.oid in _NAME_FIELDS:
            known = _NAME_FIELDS[attribute.oid]
            fields[known] = [*(fields[known] or []), attribute.value]
        elif attribute.oid == NameOID.COMMON_NAME:
            fields["CommonName"] = attribute.value
        elif attribute.oid == NameOID.SERIAL_NUMBER:
            fields["SerialNumber"] = attribute.value
    return {**fields, "Names": names or None}


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def public_key(key: object) -> tuple[int, Any]:
    """Go's number of the key's algorithm, and the key's fields."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return 1, {"N": numbers.n, "E": numbers.e}
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        return 3, {"Curve": {}, "X": point.x, "Y": point.y}
    if isinstance(key, ed25519.Ed25519PublicKey):
        return 4, text64(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return 0, None


def _signature_algorithm(signed: x509.Certificate | x509.CertificateSigningRequest) -> int:
    if signed.signature_algorithm_oid == Signature.RSASSA_PSS:
        hashed = signed.signature_hash_algorithm
        return _PSS_BY_HASH.get(hashed.name, 0) if hashed is not None else 0
    return _SIGNATURES.get(signed.signature_algorithm_oid, 0)


def _uri(text: str) -> dict[str, Any]:
    parts = urlsplit(text)
    path = unquote(parts.path)
    return {
        "Scheme": parts.scheme,
        "Opaque": "",
        "User": None,
        "Host": parts.netloc.rpartition("@")[2],
        "Path": path,
        "RawPath": parts.path if path != parts.path else "",
        "OmitHost": False,
        "ForceQuery": False,
        "RawQuery": parts.query,
        "Fragment": parts.fragment,
        "RawFragment": "",
    }


def _alternative_names(extensions: x509.Extensions) -> dict[str, Any]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return {"DNSNames": None, "EmailAddresses": None, "IPAddresses": None, "URIs": None}
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return {
        "DNSNames": _listed(names.get_values_for_type(x509.DNSName)),
        "EmailAddresses": _listed(names.get_values_for_type(x509.RFC822Name)),
        "IPAddresses": _listed(str(address) for address in names.get_values_for_type(x509.IPAddress)),
        "URIs": _listed(_uri(uri) for uri in uris),
    }


def _uris(extensions: x509.Extensions) -> list[str] | None:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return _listed(names.get_values_for_type(x509.UniformResourceIdentifier))


def _extensions(extensions: x509.Extensions) -> list[dict[str, Any]] | None:
    return _listed(
        {"Id": identifier(one.oid), "Critical": one.critical, "Value": text64(one.value.public_bytes())}
        for one in extensions
    )


_CONSTRAINTS = {
    x509.DNSName: "DNSDomains",
    x509.RFC822Name: "EmailAddresses",
    x509.IPAddress: "IPRanges",
    x509.UniformResourceIdentifier: "URIDomains",
}


def _range(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> dict[str, str]:
    return {"IP": str(network.network_address), "Mask": text64(network.netmask.packed)}


def _from_extensions(extensions: x509.Extensions) -> dict[str, Any]:
    fields: dict[str, Any] = {
        f"{side}{kind}": None for side in ("Permitted", "Excluded") for kind in _CONSTRAINTS.values()
    }
    fields |= {
        "KeyUsage": 0,
        "ExtKeyUsage": None,
        "UnknownExtKeyUsage": None,
        "BasicConstraintsValid": False,
        "IsCA": False,
        "MaxPathLen": 0,
        "MaxPathLenZero": False,
        "SubjectKeyId": None,
        "AuthorityKeyId": None,
        "OCSPServer": None,
        "IssuingCertificateURL": None,
        "CRLDistributionPoints": None,
        "PolicyIdentifiers": None,
        "Policies": None,
        "PermittedDNSDomainsCritical": False,
        "InhibitAnyPolicy": 0,
        "InhibitAnyPolicyZero": False,
        "InhibitPolicyMapping": 0,
        "InhibitPolicyMappingZero": False,
        "RequireExplicitPolicy": 0,
        "RequireExplicitPolicyZero": False,
        "PolicyMappings": None,
        "UnhandledCriticalExtensions": _listed(
            identifier(one.oid) for one in extensions if one.critical and one.oid not in _HANDLED
        ),
    }
    for extension in extensions:
        fields |= _one_extension(extension)
    return fields


def _one_extension(extension: x509.Extension[Any]) -> dict[str, Any]:
    value = extension.value
    match value:
        case x509.KeyUsage():
            bits = sum(1 << bit for bit, name in enumerate(_KEY_USAGES) if getattr(value, name))
            if value.key_agreement:
                bits |= value.encipher_only << 7 | value.decipher_only << 8
            return {"KeyUsage": bits}
        case x509.ExtendedKeyUsage():
            known = [_USAGES[usage] for usage in value if usage in _USAGES]
            unknown = [identifier(usage) for usage in value if usage not in _USAGES]
            return {"ExtKeyUsage": known or None, "UnknownExtKeyUsage": unknown or None}
        case x509.BasicConstraints():
            length = -1 if value.path_length is None else value.path_length
            return {
                "BasicConstraintsValid": True,
                "IsCA": value.ca,
                "MaxPathLen": length,
                "MaxPathLenZero": length == 0,
            }
        case x509.SubjectKeyIdentifier():
            return {"SubjectKeyId": text64(value.digest)}
        case x509.AuthorityKeyIdentifier() if value.key_identifier is not None:
            return {"AuthorityKeyId": text64(value.key_identifier)}
        case x509.AuthorityInformationAccess():
            return _access(value)
        case x509.CRLDistributionPoints():
            points = [name.value for point in value for name in point.full_name or ()]
            return {"CRLDistributionPoints": points or None}
        case x509.CertificatePolicies():
            return {
                "PolicyIdentifiers": [identifier(policy.policy_identifier) for policy in value],
                "Policies": [policy.policy_identifier.dotted_string for policy in value],
            }
        case x509.NameConstraints():
            return _name_constraints(value, extension.critical)
    return {}


def _access(access: x509.AuthorityInformationAccess) -> dict[str, Any]:
    found: dict[str, list[str]] = {"OCSPServer": [], "IssuingCertificateURL": []}
    for description in access:
        server = description.access_method == AuthorityInformationAccessOID.OCSP
        if isinstance(description.access_location, x509.UniformResourceIdentifier):
            found["OCSPServer" if server else "IssuingCertificateURL"].append(
                description.access_location.value
            )
    return {name: urls or None for name, urls in found.items()}


def _name_constraints(constraints: x509.NameConstraints, critical: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"PermittedDNSDomainsCritical": critical}
    for side, names in (
        ("Permitted", constraints.permitted_subtrees),
        ("Excluded", constraints.excluded_subtrees),
    ):
        for name in names or ():
            kind = _CONSTRAINTS.get(type(name))  # other kinds of names are left out, as in Go
            if kind is not None:
                shown = _range(name.value) if kind == "IPRanges" else name.value
                found[f"{side}{kind}"] = [*(found.get(f"{side}{kind}") or []), shown]
    return found


def certificate_object(certificate: x509.Certificate, *, uri_strings: bool = True) -> Object:
    """Every field of a certificate. ValueError when an extension can't be read."""
    algorithm, key = public_key(certificate.public_key())
    fields: dict[str, Any] = {
        "Raw": text64(certificate.public_bytes(Encoding.DER)),
        "RawTBSCertificate": text64(certificate.tbs_certificate_bytes),
        "RawSubjectPublicKeyInfo": text64(
            certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ),
        "RawSubject": text64(certificate.subject.public_bytes()),
        "RawIssuer": text64(certificate.issuer.public_bytes()),
        "Signature": text64(certificate.signature),
        "SignatureAlgorithm": _signature_algorithm(certificate),
        "PublicKeyAlgorithm": algorithm,
        "PublicKey": key,
        "Version": certificate.version.value + 1,
        "SerialNumber": certificate.serial_number,
        "Issuer": _name(certificate.issuer),
        "Subject": _name(certificate.subject),
        "NotBefore": _instant(certificate.not_valid_before_utc),
        "NotAfter": _instant(certificate.not_valid_after_utc),
        "Extensions": _extensions(certificate.extensions),
        "ExtraExtensions": None,
        **_alternative_names(certificate.extensions),
        **_from_extensions(certificate.extensions),
    }
    if uri_strings:
        fields["URIStrings"] = _uris(certificate.extensions)
    return _object(fields)


def request_object(request: x509.CertificateSigningRequest) -> Object:
    """Every field of a certificate request."""
    algorithm, key = public_key(request.public_key())
    return _object(
        {
            "Raw": text64(request.public_bytes(Encoding.DER)),
            "RawTBSCertificateRequest": text64(request.tbs_certrequest_bytes),
            "RawSubjectPublicKeyInfo": text64(
                request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            ),
            "RawSubject": text64(request.subject.public_bytes()),
            "Signature": text64(request.signature),
            "SignatureAlgorithm": _signature_algorithm(request),
            "PublicKeyAlgorithm": algorithm,
            "PublicKey": key,
            "Version": 0,
            "Subject": _name(request.subject),
            "Attributes": None,
            "Extensions": _extensions(request.extensions),
            "ExtraExtensions": None,
            **_alternative_names(request.extensions),
        }
    )


def _object(fields: dict[str, Any]) -> Object:
    value: Value = from_python(fields)
    assert isinstance(value, Object)  # a dict becomes an object
    return value
