"""The signer of leaves that are signed in Vault: one call each, several at a time, none trusted blindly."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from control_plane.authority.ports import Order
from control_plane.authority.state import X509Slot
from control_plane.authority.vault_leaf import check_vault_leaf
from control_plane.authority.vault_ports import LeafOrder, VaultPki
from control_plane.core.certificate import Certificate, read_authority
from control_plane.core.errors import (
    DeadlineExceeded,
    GatehouseError,
    InvalidInput,
    PeerMisbehaved,
    PermissionDenied,
    Unavailable,
)
from control_plane.core.lifetime import FOREIGN_SERIAL_JITTER
from control_plane.core.profile import SigningRequest
from control_plane.runtime.clock import Clock

_GIVEN_UP: Final = "signing by Vault: it was given up while this waited"

Failed = Callable[[GatehouseError], None]


class VaultX509Signer:
    """See `ports.X509Signer`. One for one slot, and so for one issuer in Vault.

    `permits` bounds the calls of this process; `failed` hears of each failure that may concern more than one
    leaf; `given_up` is set once nobody should wait for Vault any more, and ends the calls under way.
    """

    def __init__(
        self,
        slot: X509Slot,
        pki: VaultPki,
        clock: Clock,
        *,
        permits: asyncio.Semaphore,
        failed: Failed,
        given_up: asyncio.Event,
    ) -> None:
        upstream = slot.issuing.upstream
        assert upstream is not None
        self._slot = slot
        self._upstream = upstream
        self._issuer = read_authority(upstream.chain[0] if upstream.chain else slot.root)
        self._pki = pki
        self._clock = clock
        self._permits = permits
        self._failed = failed
        self._given_up = given_up

    @property
    def authority_id(self) -> str:
        """The root's key identifier in hex."""
        return self._slot.authority_id

    @property
    def issuer(self) -> Certificate:
        """The CA in Vault."""
        return self._issuer

    @property
    def chain(self) -> tuple[bytes, ...]:
        """What is between the leaf and the root: nothing, where the root itself signs."""
        return self._upstream.chain

    @property
    def mark(self) -> str:
        """None: this is how it should be."""
        return ""

    @property
    def ends_with_issuer(self) -> bool:
        """A leaf that Vault's issuer can't sign whole is refused."""
        return False

    @property
    def not_after_jitter(self) -> float:
        """Smaller than ours: the renewal is drawn anew, by a serial number that isn't known yet."""
        return FOREIGN_SERIAL_JITTER

    def order(self, request: SigningRequest, csr: bytes) -> Order:
        """The intent is what Vault will be asked for: names, then the CSR. The serial number is Vault's."""
        if request.common_name:
            raise InvalidInput(f"X.509-SVID {request.spiffe_id}: common names aren't asked of Vault")
        names = "\n".join((str(request.spiffe_id), *request.dns_names, ""))
        return Order(replace(request, serial=0), csr, names.encode("ascii") + csr)

    async def sign(self, orders: Sequence[Order]) -> list[bytes | GatehouseError]:
        """See `ports.X509Signer`."""
        if not orders:
            return []
        tasks = [asyncio.ensure_future(self._sign(order)) for order in orders]
        given_up = asyncio.ensure_future(self._given_up.wait())
        signed = asyncio.gather(*tasks)
        try:
            await asyncio.wait((signed, given_up), return_when=asyncio.FIRST_COMPLETED)
            # What is here after one more turn of the loop isn't thrown away for the calls that still hang.
            await asyncio.sleep(0)
            return [task.result() if task.done() else Unavailable(_GIVEN_UP) for task in tasks]
        finally:
            given_up.cancel()
            signed.cancel()

    def check(self, certificate: bytes, order: Order) -> SigningRequest:
        """See `ports.X509Signer`. A wrong certificate is Vault's failure as a whole, too."""
        try:
            return check_vault_leaf(certificate, order.request, self._issuer, self._clock.unix())
        except PeerMisbehaved as error:
            self._failed(error)
            raise

    async def _sign(self, order: Order) -> bytes | GatehouseError:
        request = order.request
        try:
            async with self._permits:
                wanted = LeafOrder(
                    csr=order.csr,
                    spiffe_id=request.spiffe_id,
                    dns_names=request.dns_names,
                    ttl_seconds=request.window.not_after - self._clock.unix(),
                    issuer_id=self._upstream.issuer_id,
                )
                answer = await self._pki.sign_leaf(wanted)
        except GatehouseError as error:
            self._failed(error)
            return _as_absence(error)
        if answer:
            return answer[0]
        wrong = PeerMisbehaved(f"leaf for {request.spiffe_id}: Vault's answer holds no certificate")
        self._failed(wrong)
        return wrong


def _as_absence(error: GatehouseError) -> GatehouseError:
    """Whoever asked for a leaf isn't to blame for our login or for Vault's slowness."""
    if isinstance(error, PermissionDenied | DeadlineExceeded):
        return Unavailable(error.message, hint=error.hint)
    return error
