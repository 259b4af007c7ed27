"""One door to the REST API of an Open Policy Agent: modules and data are read, written and deleted.

Every call is bounded in time; a failure is one of our errors. The package behind it blocks and is loaded at
the first call, so calls run in a thread, one after the other.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from control_plane.core.errors import InvalidInput, Unavailable, shown
from control_plane.core.secret import Secret
from control_plane.rollout.opa_push import HeldModule, Place
from control_plane.runtime.addresses import HttpAddress

if TYPE_CHECKING:
    from opa_client.opa import OpaClient

TIMEOUT_SECONDS: Final = 10.0
MAX_MODULES: Final = 20_000

_T = TypeVar("_T")


class RestOpa:
    """Implements `rollout.opa_push.OpaTarget`."""

    def __init__(self, address: HttpAddress, token: Secret[str]) -> None:
        self._address = address
        self._token = token
        self._client: OpaClient | None = None
        self._turn = asyncio.Lock()

    @property
    def name(self) -> str:
        """Its URL."""
        return str(self._address)

    async def modules(self) -> Mapping[str, HeldModule]:
        """See the port."""

        def read(client: "OpaClient") -> Mapping[str, HeldModule]:
            names = client.get_policies_list()
            if len(names) > MAX_MODULES:
                raise InvalidInput(
                    f"OPA {self.name}: holds {len(names)} modules, at most {MAX_MODULES} are read"
                )
            return {name: _module(client.get_policy(quote(name))) for name in names}

        return await self._do("reading its modules", read)

    async def data(self, place: Place) -> object:
        """See the port."""
        from opa_client.errors import PolicyNotFoundError

        def read(client: "OpaClient") -> object:
            try:
                return client.get_data(_path(place))["result"]
            except PolicyNotFoundError:
                return None

        return await self._do(f"reading data.{'.'.join(place)}", read)

    async def put_module(self, name: str, text: str) -> None:
        """See the port."""
        # rego_compat would rewrite a policy that OPA refuses; what we push was proved as it is.
        await self._do(
            f"writing module {name}",
            lambda client: client.update_policy_from_string(text, quote(name), rego_compat=False),
        )

    async def delete_module(self, name: str) -> None:
        """See the port."""
        await self._do(f"deleting module {name}", lambda client: client.delete_policy(quote(name)))

    async def put_data(self, place: Place, value: object) -> None:
        """See the port."""
        from opa_client.errors import PatchDataError

        def write(client: "OpaClient") -> None:
            try:
                client.patch_data(_path(place), [{"op": "add", "path": "/", "value": value}])
            except PatchDataError:
                if len(place) == 1:
                    raise
                # What is above isn't there yet: this makes it.
                client.update_or_create_data({place[-1]: value}, _path(place[:-1]))

        await self._do(f"writing data.{'.'.join(place)}", write)

    async def delete_data(self, place: Place) -> None:
        """See the port."""
        await self._do(f"deleting data.{'.'.join(place)}", lambda client: client.delete_data(_path(place)))

    async def _do(self, what: str, call: Callable[["OpaClient"], _T]) -> _T:
        async with self._turn:
            return await asyncio.to_thread(self._call, what, call)

    def _call(self, what: str, call: Callable[["OpaClient"], _T]) -> _T:
        from opa_client import errors
        from opa_client.opa import OpaClient
        from requests.exceptions import RequestException

        if self._client is None:
            address = self._address
            host = f"[{address.host}]" if ":" in address.host else address.host
            token = self._token.reveal() or None
            self._client = OpaClient(
                host=host, port=address.port, ssl=address.tls, token=token, timeout=TIMEOUT_SECONDS
            )
        refused = (
            *(errors.RegoParseError, errors.PolicyNotFoundError, errors.DeletePolicyError),
            *(errors.DeleteDataError, errors.PatchDataError),
        )
        try:
            return call(self._client)
        except RequestException as error:
            raise Unavailable(
                f"OPA {self.name}, {what}: {type(error).__name__}: {shown(str(error))}"
            ) from error
        except refused as error:
            told = json.dumps([getattr(error, "message", ""), getattr(error, "errors", None)], default=str)
            raise InvalidInput(f"OPA {self.name}, {what}: it was refused: {told[:500]}") from error


def _module(answer: Mapping[str, object]) -> HeldModule:
    """Reads what OPA tells of a module. Raises InvalidInput for anything else."""
    try:
        result = answer["result"]
        steps = result["ast"]["package"]["path"][1:]  # type: ignore[index]
        return HeldModule(tuple(str(step["value"]) for step in steps), str(result["raw"]))  # type: ignore[index]
    except (LookupError, TypeError) as error:
        raise InvalidInput(
            f"reading a module of an OPA: unexpected answer ({type(error).__name__})"
        ) from error


def _path(place: Place) -> str:
    return "/".join(quote(step, safe="") for step in place)
