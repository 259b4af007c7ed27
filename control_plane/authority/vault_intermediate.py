"""What an intermediate that Vault signed has to be before it may sign for us. Pure checks, no network.

Vault cuts lifetimes silently, to the end of its issuer or to the longest TTL of the mount, and takes what it
likes from a CSR; so each fact that we rely on is read from the certificate itself. `Unavailable` is never
raised here: what is wrong stays wrong until somebody changes Vault.
"""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from control_plane.core.ca_profile import can_be_constrained
from control_plane.core.certificate import UNREADABLE, Certificate, read_certificate
from control_plane.core.errors import FailedPrecondition, InvalidInput, PeerMisbehaved
from control_plane.core.spiffe_id import TrustDomain

CLOCK_TOLERANCE_SECONDS: Final = 300  # by how much Vault's clock may differ from ours


@dataclass(frozen=True, slots=True)
class Asked:
    """What the intermediate was asked to be. `at` and `ttl_seconds` in Unix seconds and seconds."""

    trust_domain: TrustDomain
    spki: bytes
    at: int
    ttl_seconds: int
    constrain_uris: bool


def read_issuer(chain: tuple[bytes, ...], now: int) -> tuple[Certificate, ...]:
    """Reads who would sign: the issuer first, the root last. Raises FailedPrecondition if they can't be used
    now, PeerMisbehaved if they aren't readable."""
    try:
        path = tuple(read_certificate(one) for one in chain)
    except InvalidInput as error:
        raise PeerMisbehaved(f"Vault's issuer: {error.message}") from error
    if not path or path[-1].subject != path[-1].issuer:
        raise PeerMisbehaved("Vault's issuer: its chain doesn't end at a self-signed root")
    for ca in path:
        if not ca.is_ca or not ca.not_before <= now < ca.not_after:
            raise FailedPrecondition(
                f"Vault's issuer: CA {ca.title} is valid from {ca.not_before} to {ca.not_after}, our clock "
                f"says {now}",
                hint="look at both clocks; if they are right, give the mount an issuer that is valid",
            )
    return path


def check_intermediate(answer: tuple[bytes, ...], issuer: Certificate, asked: Asked) -> Certificate:
    """The first certificate of an answer, if it is what was asked for.

    Raises PeerMisbehaved for what no setting of Vault explains, FailedPrecondition with the arithmetic and
    what to change for the rest.
    """
    try:
        made = read_certificate(answer[0])
    except (IndexError, InvalidInput) as error:
        raise PeerMisbehaved("intermediate signed by Vault: can't be read as a certificate") from error
    difference = _difference(made, issuer, asked)
    if difference:
        raise PeerMisbehaved(f"intermediate {made.title} signed by Vault: {difference}")
    _check_constraint(made, asked)
    _check_life(made, issuer, asked)
    return made


def _difference(made: Certificate, issuer: Certificate, asked: Asked) -> str:
    usage = made.key_usage
    if made.spki != asked.spki:
        return "its public key isn't ours"
    if not made.is_ca or made.path_length != 0:
        return f"CA is {made.is_ca} and its path length {made.path_length}, expected a CA with path length 0"
    if usage is None or not usage.key_cert_sign:
        return "its key usage doesn't allow signing certificates"
    if made.subject in (issuer.subject, made.issuer) or made.issuer != issuer.subject:
        return f"its names are wrong: expected one of its own, below {issuer.title}"
    if made.authority_key_id and issuer.subject_key_id and made.authority_key_id != issuer.subject_key_id:
        return f"it points at another key than that of {issuer.title}"
    if made.subject_key_id is None:
        return "it has no subject key identifier, which leaves point at"
    strangers = [uri for uri in made.names.uris if uri != str(asked.trust_domain.id)]
    if strangers or made.names.dns or made.names.addresses or made.names.others:
        return "it has names that weren't asked for"
    if made.unprocessed_critical:
        return f"critical extension {min(made.unprocessed_critical)} is not understood"
    try:
        made.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, *UNREADABLE):
        return f"its signature isn't by {issuer.title}"
    return ""


def _check_constraint(made: Certificate, asked: Asked) -> None:
    if not (asked.constrain_uris and can_be_constrained(asked.trust_domain)):
        return
    constraints = made.name_constraints
    permitted = [] if constraints is None else list(constraints.permitted_subtrees or ())
    wanted = x509.UniformResourceIdentifier(asked.trust_domain.name)
    if permitted != [wanted]:
        raise FailedPrecondition(
            f"intermediate {made.title} signed by Vault: isn't bound to the URIs of {asked.trust_domain}, it "
            f"has {len(permitted)} permitted names",
            hint="set authority.constrain_uris = false if this server can't bind them",
        )


def _check_life(made: Certificate, issuer: Certificate, asked: Asked) -> None:
    if made.not_before > asked.at:
        raise FailedPrecondition(
            f"intermediate {made.title} signed by Vault: begins at {made.not_before}, "
            f"{made.not_before - asked.at} s from now: Vault's clock is ahead of ours",
            hint="set both clocks right",
        )
    wanted = asked.at + asked.ttl_seconds
    missing = wanted - made.not_after
    if missing <= CLOCK_TOLERANCE_SECONDS and made.not_after <= wanted + CLOCK_TOLERANCE_SECONDS:
        return
    if missing > 0:
        by_issuer = made.not_after >= issuer.not_after - CLOCK_TOLERANCE_SECONDS
        reason = (
            f"its issuer ends at {issuer.not_after}" if by_issuer else "the longest TTL of mount or issuer"
        )
        raise FailedPrecondition(
            f"intermediate {made.title} signed by Vault: was cut short: {asked.at} + {asked.ttl_seconds} s = "
            f"{wanted} was asked for, it ends at {made.not_after}, {missing} s earlier ({reason})",
            hint="give the mount an issuer that lives longer"
            if by_issuer
            else f"vault secrets tune -max-lease-ttl={asked.ttl_seconds}s on the mount",
        )
    raise FailedPrecondition(
        f"intermediate {made.title} signed by Vault: ends at {made.not_after}, {-missing} s after what was "
        "asked for: Vault's clock is ahead of ours",
        hint="set both clocks right",
    )
