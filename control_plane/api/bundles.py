"""spire.api.server.bundle.v1.Bundle: our own bundle and those of federated trust domains."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from control_plane.api.caller import caller_of
from control_plane.api.context import ServerContext
from control_plane.api.paging import check_batch, page_of, read_token, write_token
from control_plane.core.bundle import Bundle
from control_plane.core.errors import CallerError, GatehouseError, InvalidInput, NotFound
from control_plane.core.jwk import load_public_key
from control_plane.core.spiffe_id import TrustDomain, is_agent_id
from control_plane.identity.ports import BundleOutcome, DeleteMode
from control_plane.proto.convert import (
    bundle_from_message,
    bundle_to_message,
    jwt_authority_from_message,
    jwt_authority_to_message,
    mask_of,
    status_to_message,
)
from control_plane.proto.spire.api.server.bundle.v1 import bundle_pb2 as wire
from control_plane.proto.spire.api.types import bundle_pb2
from control_plane.runtime.log import get_logger
from control_plane.runtime.transport import Call

MAX_BATCH: Final = 1000  # each is a transaction of its own
_MODES: Final = {0: DeleteMode.RESTRICT, 1: DeleteMode.DELETE, 2: DeleteMode.DISSOCIATE}
_Storing = Callable[[Sequence[Bundle]], Awaitable[list[BundleOutcome]]]
_log = get_logger("bundles")


class BundleService:
    """Implements the Bundle service; who may call what was decided before."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def get_bundle(self, call: Call, request: wire.GetBundleRequest) -> bundle_pb2.Bundle:
        own = self._context.trust.own
        caller = caller_of(call).spiffe_id
        if caller is not None and is_agent_id(caller):
            self._context.confirmations.note(caller, own.sequence)
        return bundle_to_message(own, mask_of(request))

    async def append_bundle(self, call: Call, request: wire.AppendBundleRequest) -> bundle_pb2.Bundle:
        if not request.x509_authorities and not request.jwt_authorities:
            raise InvalidInput("bundle: no authorities to append")
        additions = bundle_from_message(
            bundle_pb2.Bundle(
                trust_domain=self._context.trust_domain.name,
                x509_authorities=request.x509_authorities,
                jwt_authorities=request.jwt_authorities,
            )
        )
        await self._append(_checked(additions), call)
        return bundle_to_message(self._context.trust.own, mask_of(request))

    async def publish_jwt_authority(
        self, call: Call, request: wire.PublishJWTAuthorityRequest
    ) -> wire.PublishJWTAuthorityResponse:
        await self._context.limiters.publishing.take(call)
        key = jwt_authority_from_message(request.jwt_authority)
        await self._append(_checked(Bundle(self._context.trust_domain, (), (key,))), call)
        return wire.PublishJWTAuthorityResponse(
            jwt_authorities=[jwt_authority_to_message(one) for one in self._context.trust.own.jwt_authorities]
        )

    async def _append(self, additions: Bundle, call: Call) -> None:
        await self._context.store.append_to_own(additions)
        await self._context.replica.refresh()
        await self._context.reload_trust()
        _log.info("bundle_appended", by=str(caller_of(call)), sequence=self._context.trust.own.sequence)

    async def count_bundles(self, call: Call, request: wire.CountBundlesRequest) -> wire.CountBundlesResponse:
        return wire.CountBundlesResponse(count=1 + len(self._context.replica.index.bundles))

    async def list_federated_bundles(
        self, call: Call, request: wire.ListFederatedBundlesRequest
    ) -> wire.ListFederatedBundlesResponse:
        after, mask = read_token(request.page_token), mask_of(request)
        bundles = self._context.replica.index.bundles
        page, last = page_of(
            (bundles[name] for name in sorted(bundles) if name.name > after),
            lambda bundle: bundle_to_message(bundle, mask),
            lambda bundle: bundle.trust_domain.name,
            request.page_size,
        )
        return wire.ListFederatedBundlesResponse(bundles=page, next_page_token=write_token(last))

    async def get_federated_bundle(
        self, call: Call, request: wire.GetFederatedBundleRequest
    ) -> bundle_pb2.Bundle:
        trust_domain = self._foreign(request.trust_domain)
        bundle = self._context.replica.index.bundles.get(trust_domain)
        if bundle is None:
            raise NotFound(f"bundle of {trust_domain} not found")
        return bundle_to_message(bundle, mask_of(request))

    async def batch_create_federated_bundle(
        self, call: Call, request: wire.BatchCreateFederatedBundleRequest
    ) -> wire.BatchCreateFederatedBundleResponse:
        outcomes = await self._store_each(request.bundle, self._context.store.create_bundles)
        mask = mask_of(request)
        result = wire.BatchCreateFederatedBundleResponse.Result
        return wire.BatchCreateFederatedBundleResponse(
            results=[result(status=status_to_message(o.error), bundle=_written(o, mask)) for o in outcomes]
        )

    async def batch_set_federated_bundle(
        self, call: Call, request: wire.BatchSetFederatedBundleRequest
    ) -> wire.BatchSetFederatedBundleResponse:
        outcomes = await self._store_each(request.bundle, self._context.store.set_bundles)
        mask = mask_of(request)
        result = wire.BatchSetFederatedBundleResponse.Result
        return wire.BatchSetFederatedBundleResponse(
            results=[result(status=status_to_message(o.error), bundle=_written(o, mask)) for o in outcomes]
        )

    async def batch_update_federated_bundle(
        self, call: Call, request: wire.BatchUpdateFederatedBundleRequest
    ) -> wire.BatchUpdateFederatedBundleResponse:
        check_batch(len(request.bundle), MAX_BATCH)
        input_mask, mask = mask_of(request, "input_mask"), mask_of(request)
        outcomes = []
        for message in request.bundle:
            try:
                bundle = self._read(message)
            except GatehouseError as error:
                outcomes.append(BundleOutcome(None, error))
                continue
            change = _change(bundle, input_mask)
            outcomes += await self._context.store.update_bundles([(bundle.trust_domain, change)])
        await self._context.replica.refresh()
        result = wire.BatchUpdateFederatedBundleResponse.Result
        return wire.BatchUpdateFederatedBundleResponse(
            results=[result(status=status_to_message(o.error), bundle=_written(o, mask)) for o in outcomes]
        )

    async def batch_delete_federated_bundle(
        self, call: Call, request: wire.BatchDeleteFederatedBundleRequest
    ) -> wire.BatchDeleteFederatedBundleResponse:
        mode = _MODES.get(request.mode)
        if mode is None:
            raise InvalidInput(f"delete mode {request.mode}: expected RESTRICT, DELETE or DISSOCIATE")
        check_batch(len(request.trust_domains), MAX_BATCH)
        results = []
        for text in request.trust_domains:
            try:
                [outcome] = await self._context.store.delete_bundles([self._foreign(text)], mode)
            except GatehouseError as error:
                outcome = BundleOutcome(None, error)
            results.append(
                wire.BatchDeleteFederatedBundleResponse.Result(
                    status=status_to_message(outcome.error), trust_domain=text
                )
            )
        await self._context.replica.refresh()
        _log.info("federated_bundles_deleted", by=str(caller_of(call)), count=len(results), mode=mode.value)
        return wire.BatchDeleteFederatedBundleResponse(results=results)

    async def _store_each(
        self, messages: Sequence[bundle_pb2.Bundle], store: _Storing
    ) -> list[BundleOutcome]:
        check_batch(len(messages), MAX_BATCH)
        outcomes = []
        for message in messages:
            try:
                outcomes += await store([self._read(message)])
            except CallerError as error:
                outcomes.append(BundleOutcome(None, error))
        await self._context.replica.refresh()
        return outcomes

    def _read(self, message: bundle_pb2.Bundle) -> Bundle:
        self._foreign(message.trust_domain)
        return _checked(bundle_from_message(message))

    def _foreign(self, text: str) -> TrustDomain:
        trust_domain = TrustDomain.parse(text)
        if trust_domain == self._context.trust_domain:
            raise InvalidInput(f"bundle of {trust_domain}: is our own and can't be handled as federated")
        return trust_domain


def _checked(bundle: Bundle) -> Bundle:
    seen = set()
    for authority in bundle.jwt_authorities:
        load_public_key(authority.public_key)
        if authority.key_id in seen:
            raise InvalidInput(f"bundle of {bundle.trust_domain}: two JWT keys have the same ID")
        seen.add(authority.key_id)
    return bundle


def _change(bundle: Bundle, mask: bundle_pb2.BundleMask | None) -> Callable[[Bundle], Bundle]:
    values: dict[str, object] = {}
    if mask is None or mask.x509_authorities:
        values["x509_authorities"] = bundle.x509_authorities
    if mask is None or mask.jwt_authorities:
        values["jwt_authorities"] = bundle.jwt_authorities
    if mask is None or mask.refresh_hint:
        values["refresh_hint_seconds"] = bundle.refresh_hint_seconds
    if mask is None or mask.sequence_number:
        values["sequence"] = bundle.sequence
    return lambda stored: replace(stored, **values)  # type: ignore[arg-type]


def _written(outcome: BundleOutcome, mask: bundle_pb2.BundleMask | None) -> bundle_pb2.Bundle | None:
    if outcome.bundle is None or outcome.error is not None:
        return None
    return bundle_to_message(outcome.bundle, mask)
