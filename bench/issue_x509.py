"""What it costs to issue one X.509-SVID, checks included, beside the two OpenSSL operations in it.

The peer is P-256 verify and sign by the same library, alone. Ours is: check the CSR, draw serial and
validity, encode, sign, hold the finished leaf against the profile. The second figure is the whole batch of 50
as a server does it, ledger journal on a real disk included. CPU time of this process, both sides in turn in
short rounds; what counts is the median of the rounds, and the best one is printed beside it, since other load
on the machine can only add.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.report import Result, command_line, tell
from control_plane.authority.embedded import EmbeddedAuthority
from control_plane.authority.keys import MemoryKeyManager
from control_plane.authority.make import Maker
from control_plane.authority.schedule import Lifetimes
from control_plane.authority.state import AuthorityState, Kind
from control_plane.authority.steps import activate, prepare
from control_plane.core.csr import proven_key
from control_plane.core.leaf_check import check_leaf
from control_plane.core.lifetime import leaf_window
from control_plane.core.profile import SigningRequest
from control_plane.core.spiffe_id import SpiffeId, TrustDomain
from control_plane.core.tbs import new_serial
from control_plane.core.template import LeafTemplate
from control_plane.identity.issuance import IssuanceSettings, Issuer, X509Issue
from control_plane.identity.journal import Journal
from control_plane.runtime import loop
from control_plane.runtime.clock import SystemClock

ROUNDS: Final = 120
PER_ROUND: Final = 100
BATCH: Final = 50
GOAL: Final = 1.5
BUDGET_MICROSECONDS: Final = 120.0

DOMAIN = TrustDomain("bench.test")
ES256 = ec.ECDSA(hashes.SHA256())


def main() -> None:
    """Prints two lines."""
    command_line(__doc__).parse_args()
    loop.run(_measure())  # as issuer processes run: uvloop, and the garbage collector set for servers


async def _measure() -> None:
    lifetimes, clock, keys = Lifetimes(), SystemClock(), MemoryKeyManager(os.urandom)
    maker = Maker(keys, DOMAIN, lifetimes, random_bytes=os.urandom)
    now = clock.unix()
    slot, jwt = await maker.x509(now), await maker.jwt(now)
    state = prepare(prepare(AuthorityState(DOMAIN), slot, now), jwt, now)
    state = activate(state, Kind.X509, slot.authority_id, now)
    authority = EmbeddedAuthority(keys, activate(state, Kind.JWT, jwt.authority_id, now))
    ids = [SpiffeId.of(DOMAIN, "ns", "shop", "sa", f"service-{number}") for number in range(BATCH)]
    leaf_keys = [ec.generate_private_key(ec.SECP256R1()) for _ in ids]
    csrs = [_csr(key, spiffe_id) for key, spiffe_id in zip(leaf_keys, ids, strict=True)]

    private, public, message = leaf_keys[0], leaf_keys[0].public_key(), csrs[0]
    signature = private.sign(message, ES256)
    issuer = authority.active().x509.issuer
    template, sign = LeafTemplate(issuer), keys.get(slot.issuing.key_id).sign

    def openssl(number: int) -> None:
        public.verify(signature, message, ES256)
        private.sign(message, ES256)

    def issue(number: int) -> None:
        spiffe_id = ids[number % BATCH]
        spki = proven_key(csrs[number % BATCH])
        serial = new_serial(os.urandom)
        window = leaf_window(spiffe_id, serial, now, 86400, issuer_not_after=issuer.not_after)
        request = SigningRequest(spiffe_id, spki, serial, window)
        tbs = template.tbs(request)
        check_leaf(template.assemble(tbs, sign(tbs)), request, issuer)

    requester = SpiffeId.parse("spiffe://bench.test/spire/agent/join_token/0123456789abcdef")
    items = [
        X509Issue(spiffe_id=spiffe_id, csr=csr, entry_id="0" * 36, requested_by=requester)
        for spiffe_id, csr in zip(ids, csrs, strict=True)
    ]
    peer: list[float] = []
    alone: list[float] = []
    whole: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gh") as folder:
        journal = Journal(Path(folder), 0, clock)
        await journal.start()
        server = Issuer(authority, journal, IssuanceSettings(DOMAIN), clock, random_bytes=os.urandom)
        for _ in range(ROUNDS):
            peer.append(_microseconds(openssl))
            alone.append(_microseconds(issue))
            started = time.process_time()
            for _ in range(PER_ROUND // BATCH):
                await server.issue_x509(items)
            whole.append((time.process_time() - started) / PER_ROUND * 1e6)
        await journal.close()
    ratio = median(ours / theirs for ours, theirs in zip(alone, peer, strict=True))
    print(
        f"   best rounds: {min(alone):.0f} µs beside {min(peer):.0f} µs, {min(alone) / min(peer):.2f}; "
        f"a batch of {BATCH}: {min(whole):.0f} µs each"
    )
    beside = f"OpenSSL P-256 verify + sign {median(peer):.0f} µs"
    tell(Result("issue one X.509-SVID", f"{median(alone):.0f} µs CPU", beside, ratio, GOAL))
    limit = f"a budget of {BUDGET_MICROSECONDS:.0f} µs ({median(whole) / median(peer):.2f} × OpenSSL)"
    name = f"issue a batch of {BATCH}, ledger journal on, per SVID"
    tell(Result(name, f"{median(whole):.0f} µs CPU", limit, median(whole) / BUDGET_MICROSECONDS, 1.0))


def _csr(key: ec.EllipticCurvePrivateKey, spiffe_id: SpiffeId) -> bytes:
    """As agents make them: a subject, the ID as URI name, P-256 with SHA-256."""
    names = [
        x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "US"),
        x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "SPIRE"),
    ]
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).add_extension(san, False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _microseconds(operation: Callable[[int], None]) -> float:
    started = time.process_time()
    for number in range(PER_ROUND):
        operation(number)
    return (time.process_time() - started) / PER_ROUND * 1e6


if __name__ == "__main__":
    main()
