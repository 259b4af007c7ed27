"""The authority that signs with keys of its own: root and issuing CA in the state, keys in a key manager.

What signs is an immutable snapshot; `reload` makes a new one from a new state, tests it, and swaps it in at
once. Who holds the old snapshot may finish with it: its root stays in the bundle.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.authority.ports import Active, KeyManager, Order, Signer, SigningStatus, WhoSigns
from control_plane.authority.state import AuthorityState, JwtSlot, X509Slot, bundle_of
from control_plane.core.certificate import read_certificate
from control_plane.core.errors import Bug, GatehouseError, InvalidInput, Unauthenticated, Unavailable
from control_plane.core.jwk import load_public_key
from control_plane.core.jwt_svid import JwtRequest, encode_jwt, finish, parse_and_verify, signing_input
from control_plane.core.leaf_check import check_leaf, check_signature
from control_plane.core.lifetime import BACKDATE_SECONDS, NOT_AFTER_JITTER, Window
from control_plane.core.profile import SigningRequest, leaf_tbs
from control_plane.core.spiffe_id import server_id
from control_plane.core.svid import JwtSvid, X509Svid, verify_x509
from control_plane.core.tbs import assemble, signature_algorithm
from control_plane.core.template import LeafTemplate

SIGNATURES_PER_TURN: Final = 32  # of 25 µs each: under a millisecond of the event loop
SIGNATURE_SAMPLE: Final = 256  # every so manieth signature is verified, to notice a broken key or memory

_SELF_TEST_SERIAL: Final = 1 << 128


class EmbeddedX509Signer:
    """See `ports.X509Signer`. What is asked of it for each leaf is an attribute, found out once."""

    def __init__(self, slot: X509Slot, signer: Signer, *, mark: str = "") -> None:
        issuer = read_certificate(slot.issuing.certificate)
        if signer.public_key != issuer.spki:
            raise Bug(f"key {signer.key_id}: isn't the key of the issuing CA {issuer.title}")
        self.authority_id: Final = slot.authority_id
        self.issuer: Final = issuer
        self.chain: Final = slot.issuing.chain
        self.mark: Final = mark
        self.ends_with_issuer: Final = bool(mark)  # only a stand-in cuts leaves short
        # See `core.lifetime`: end and renewal are drawn together, by the serial number.
        self.not_after_jitter: Final = NOT_AFTER_JITTER
        self._signer = signer
        self._algorithm = signature_algorithm(issuer.public_key)
        p256 = isinstance(issuer.public_key, ec.EllipticCurvePublicKey) and issuer.public_key.key_size == 256
        self._template = LeafTemplate(issuer) if p256 else None

    def order(self, request: SigningRequest, csr: bytes) -> Order:
        """The bytes to be signed: from the template where it fits, else by the builder."""
        if self._template is not None and self._template.fits(request):
            return Order(request, csr, self._template.tbs(request))
        return Order(request, csr, leaf_tbs(request, self.issuer))

    async def sign(self, orders: Sequence[Order]) -> list[bytes | GatehouseError]:
        """See `ports.X509Signer`."""
        certificates: list[bytes | GatehouseError] = []
        for count, order in enumerate(orders, 1):
            tbs = order.intent
            certificates.append(assemble(tbs, self._algorithm, self._signer.sign(tbs)))
            if count % SIGNATURES_PER_TURN == 0:
                await asyncio.sleep(0)
        return certificates

    def check(self, certificate: bytes, order: Order) -> SigningRequest:
        """Every leaf byte by byte, the signature of a sample. Raises Bug."""
        request = order.request
        check_leaf(certificate, request, self.issuer)
        if request.serial % SIGNATURE_SAMPLE == 0:
            check_signature(certificate, self.issuer)
        return request


class EmbeddedJwtSigner:
    """See `ports.JwtSigner`."""

    def __init__(self, slot: JwtSlot, signer: Signer) -> None:
        if signer.public_key != slot.public_key:
            raise Bug(f"key {signer.key_id}: isn't the key of JWT authority {slot.authority_id}")
        self._slot = slot
        self._signer = signer
        self._public_key = load_public_key(slot.public_key)

    @property
    def authority_id(self) -> str:
        """The key ID (`kid`)."""
        return self._slot.authority_id

    @property
    def not_after(self) -> int:
        """No token may end later."""
        return self._slot.not_after

    async def sign(self, requests: Sequence[JwtRequest]) -> list[JwtSvid]:
        """See `ports.JwtSigner`."""
        tokens = []
        for count, request in enumerate(requests, 1):
            signed = signing_input(request, self._slot.authority_id, self._public_key)
            tokens.append(finish(request, signed, self._public_key, self._signer.sign(signed)))
            if count % SIGNATURES_PER_TURN == 0:
                await asyncio.sleep(0)
        return tokens


class EmbeddedAuthority:
    """See `ports.Authority`."""

    def __init__(self, keys: KeyManager, state: AuthorityState | None = None, *, mark: str = "") -> None:
        self._keys = keys
        self._mark = mark  # of what is signed below a root of Vault's
        self._active: Active | None = None
        self._slot: X509Slot | None = None
        if state is not None:
            self.reload(state)

    def reload(self, state: AuthorityState) -> None:
        """Signs by what is active in `state` from now on.

        Raises NotFound, Corrupt or FailedPrecondition if a key can't be had, Bug if the self-test fails;
        what signed before goes on then.
        """
        x509, jwt = state.active_x509, state.active_jwt
        if x509 is None or jwt is None:
            self._active = self._slot = None
            return
        before = self._active
        if before is not None and _unchanged(before, x509, jwt):
            return
        active = Active(
            EmbeddedX509Signer(
                x509,
                self._keys.get(x509.issuing.key_id),
                mark=self._mark if x509.issuing.upstream is not None else "",
            ),
            EmbeddedJwtSigner(jwt, self._keys.get(jwt.key_id)),
        )
        _self_test(state, active, self._keys.get(x509.issuing.key_id), self._keys.get(jwt.key_id))
        self._active, self._slot = active, x509

    @property
    def status(self) -> SigningStatus:
        """See `ports.Authority`."""
        slot = self._slot
        if slot is None:
            return SigningStatus(WhoSigns.NOBODY)
        signer = WhoSigns.EMBEDDED if slot.issuing.upstream is None else WhoSigns.INTERMEDIATE
        return SigningStatus(signer, slot.activated_at, slot.authority_id, slot.issuing.not_after)

    @property
    def stand_ins(self) -> tuple[bytes, ...]:
        """None."""
        return ()

    def active(self) -> Active:
        """What signs now. Raises Unavailable while there is nothing."""
        if self._active is None:
            raise Unavailable(
                "signing: no authority is active yet",
                hint="the management process makes the first one when it starts",
                retry_after_seconds=1,
            )
        return self._active

    def here(self) -> EmbeddedX509Signer:
        """See `ports.Authority`."""
        signer = self.active().x509
        assert isinstance(signer, EmbeddedX509Signer)
        return signer

    async def sign_x509(self, requests: Sequence[SigningRequest]) -> list[X509Svid]:
        """See `ports.Authority`."""
        signer = self.active().x509
        orders = [signer.order(request, b"") for request in requests]
        svids = []
        for order, outcome in zip(orders, await signer.sign(orders), strict=True):
            if isinstance(outcome, GatehouseError):
                raise outcome
            chain = (outcome, *signer.chain)
            svids.append(X509Svid.issued(signer.check(outcome, order), chain, signer.authority_id))
        return svids

    async def sign_jwt(self, requests: Sequence[JwtRequest]) -> list[JwtSvid]:
        """See `ports.Authority`."""
        return await self.active().jwt.sign(requests)


def _unchanged(active: Active, x509: X509Slot, jwt: JwtSlot) -> bool:
    return (
        active.x509.authority_id == x509.authority_id
        and active.x509.chain == x509.issuing.chain
        and active.jwt.authority_id == jwt.authority_id
    )


def _self_test(state: AuthorityState, active: Active, x509_key: Signer, jwt_key: Signer) -> None:
    """Signs one leaf and one token that never leave, and verifies both as a peer would.

    The moment of the test is the middle of the validity, so that a wrong clock isn't taken for a wrong key.
    """
    bundle = bundle_of(state)
    issuer = active.x509.issuer
    middle = (issuer.not_before + issuer.not_after) // 2
    subject = server_id(state.trust_domain)
    request = SigningRequest(
        subject, x509_key.public_key, _SELF_TEST_SERIAL, Window(middle - BACKDATE_SECONDS, middle + 60)
    )
    tbs = active.x509.order(request, b"").intent
    certificate = assemble(tbs, signature_algorithm(issuer.public_key), x509_key.sign(tbs))
    try:
        check_leaf(certificate, request, issuer)
        verify_x509([certificate, *active.x509.chain], bundle, middle)
        jwt_request = JwtRequest(subject, ("self-test",), middle, middle + 60)
        key = load_public_key(jwt_key.public_key)
        token = encode_jwt(jwt_request, active.jwt.authority_id, key, jwt_key.sign).token
        parse_and_verify(token, "self-test", {state.trust_domain: bundle}, middle)
    except (Unauthenticated, InvalidInput) as error:
        raise Bug(f"self-test of authority {active.x509.authority_id}: {error}") from error
