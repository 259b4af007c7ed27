"""A call to Vault: the token, retries within a budget, a breaker, one bound on time for all of it together.

`call` blocks and is for threads; `ask` is the same for the event loop, on a pool of `max_requests` threads.
More calls than that wait for a place, and are refused once their time is over. A refused token is replaced
once; what is refused then is refused.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from control_plane.authority.vault_ports import VaultHealth
from control_plane.clients.vault.answers import Answer, Sealed, Unsent, refusal
from control_plane.clients.vault.breaker import Breaker
from control_plane.clients.vault.exchange import Exchange
from control_plane.clients.vault.tokens import RETRY_SECONDS, Login, Tokens
from control_plane.core.errors import GatehouseError, Unavailable
from control_plane.runtime import tracing
from control_plane.runtime.clock import Clock, SystemClock

ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.05

_HEALTH: Final = {
    200: VaultHealth.ACTIVE,
    429: VaultHealth.STANDBY,
    472: VaultHealth.RECOVERY,
    473: VaultHealth.PERFORMANCE_STANDBY,
    501: VaultHealth.NOT_INITIALISED,
    503: VaultHealth.SEALED,
}

T = TypeVar("T")


class VaultDoor:
    """Calls to one server under one login. `random` gives numbers from 0 to 1, for pauses between retries."""

    def __init__(
        self,
        exchange: Exchange,
        login: Login,
        *,
        random: Callable[[], float],
        timeout_seconds: float = 5.0,
        max_requests: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self._exchange = exchange
        self._clock = clock or SystemClock()
        self._tokens = Tokens(exchange, login, self._clock)
        self._random = random
        self._timeout_seconds = timeout_seconds
        self._breaker = Breaker()
        self._last: Unavailable | None = None
        self._places = asyncio.Semaphore(max_requests)
        # One thread more than places: health is asked also when all of them are taken.
        self._pool = ThreadPoolExecutor(max_requests + 1, thread_name_prefix="vault")

    @property
    def login_name(self) -> str:
        """How we log in, for messages."""
        return self._tokens.login_name

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        what: str,
        repeatable: bool = True,
        anonymous: bool = False,
        deadline: float | None = None,
    ) -> Answer:
        """One call, from a thread: a good answer, or an error whose message begins with `what`.

        `repeatable` says that doing it twice does no harm. Raises what `answers.refusal` names.
        """
        deadline = deadline or self._clock.monotonic() + self._timeout_seconds
        last: Unavailable | None = None
        for _ in range(ATTEMPTS):
            wait = self._breaker.wait_seconds(self._clock.monotonic(), self._timeout_seconds)
            if wait:
                raise last or self._held_back(what, wait)
            try:
                answer = self._once(method, path, body, what, anonymous, deadline)
            except Unavailable as error:
                last = self._last = error
                self._breaker.failure(self._clock.monotonic(), decisive=isinstance(error, Sealed))
                if not self._may_repeat(error, repeatable, deadline):
                    raise
            except GatehouseError:
                self._breaker.success()
                raise
            else:
                self._breaker.success()
                return answer
        raise last or Unavailable(f"{what}: Vault was asked {ATTEMPTS} times in vain")

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        what: str,
        repeatable: bool = True,
        anonymous: bool = False,
    ) -> Answer:
        """The same from the event loop, which it doesn't hold. In a trace it is a span."""
        with tracing.Outgoing(f"vault {method} {path}"):
            return await self._asked(method, path, body, what, repeatable, anonymous)

    async def _asked(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        what: str,
        repeatable: bool,
        anonymous: bool,
    ) -> Answer:
        deadline = self._clock.monotonic() + self._timeout_seconds
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._places.acquire()
        except TimeoutError as error:
            raise Unavailable(
                f"{what}: all places for calls to Vault were taken for {self._timeout_seconds:g} s",
                hint="raise vault.max_requests if Vault could do more",
            ) from error
        return await self._in_pool(
            lambda: self.call(
                method,
                path,
                body,
                what=what,
                repeatable=repeatable,
                anonymous=anonymous,
                deadline=deadline,
            ),
            self._places.release,
        )

    def read_health(self) -> VaultHealth:
        """Asks `sys/health`, past the breaker and without a token."""
        deadline = self._clock.monotonic() + self._timeout_seconds
        try:
            answer = self._exchange.send("get", "sys/health", token=None, deadline=deadline)
        except Unavailable:
            return VaultHealth.UNREACHABLE
        # A proxy in Vault's place may answer with any status; Vault's own answers say whether it is sealed.
        if not isinstance(answer.body.get("sealed"), bool):
            return VaultHealth.UNREACHABLE
        return _HEALTH.get(answer.status, VaultHealth.UNREACHABLE)

    async def health(self) -> VaultHealth:
        """The same from the event loop."""
        return await self._in_pool(self.read_health, lambda: None)

    async def run(self, stop: asyncio.Event) -> None:
        """Renews the token before need, until `stop` is set. Without it, tokens end while nobody calls."""
        while not stop.is_set():
            if await _set_within(stop, self._tokens.idle_seconds()) or self._tokens.idle_seconds() > 0:
                continue
            try:
                deadline = self._clock.monotonic() + self._timeout_seconds
                await self._in_pool(functools.partial(self._tokens.renew, deadline), lambda: None)
            except GatehouseError:
                # The token is good for a third of its life still, and the next call says what is wrong.
                await _set_within(stop, RETRY_SECONDS)

    def close(self) -> None:
        """Takes no more calls; those under way end within their bound."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._exchange.close()

    def _once(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        what: str,
        anonymous: bool,
        deadline: float,
    ) -> Answer:
        token = None if anonymous else self._tokens.get(deadline)
        answer = self._exchange.send(method, path, body, token=token, deadline=deadline)
        if answer.status == 403 and token is not None and self._tokens.lost(token, deadline):
            token = self._tokens.get(deadline)
            answer = self._exchange.send(method, path, body, token=token, deadline=deadline)
        if not answer.is_good:
            raise refusal(answer, what)
        return answer

    def _may_repeat(self, error: Unavailable, repeatable: bool, deadline: float) -> bool:
        """Pauses and gives True if the call is to be made again."""
        if isinstance(error, Sealed) or not (repeatable or isinstance(error, Unsent)):
            return False
        pause = PAUSE_SECONDS * (1 + self._random())
        if error.retry_after_seconds is not None:
            pause = max(pause, error.retry_after_seconds)
        if self._clock.monotonic() + pause >= deadline or not self._breaker.may_retry():
            return False
        time.sleep(pause)
        return True

    def _held_back(self, what: str, wait: float) -> Unavailable:
        last = self._last
        return Unavailable(
            f"{what}: Vault is asked again in {wait:.1f} s; the last failure was: "
            + (last.message if last is not None else "no answer"),
            hint=last.hint if last is not None else "",
            retry_after_seconds=wait,
        )

    async def _in_pool(self, work: Callable[[], T], done: Callable[[], None]) -> T:
        """Runs in a thread; `done` is called in the loop when it has ended, also after we were cancelled."""
        try:
            future: Awaitable[T] = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as error:
            done()
            raise Unavailable("calling Vault: the door to it is closed") from error
        task = asyncio.ensure_future(future)
        task.add_done_callback(lambda _: done())
        return await asyncio.shield(task)


async def _set_within(stop: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()
