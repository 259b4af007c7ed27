"""An authority is cut off, what it signed is refused, and it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

PEOPLE = "spiffe://example.org/people"


async def authorities(api: Any, kind: str = "x509") -> dict[str, Any]:
    listed = (await api.call("GET", f"/v1/authority/{kind}", by="vera")).body["authorities"]
    return {one["authority_id"]: one for one in listed}


async def active(api: Any, kind: str = "x509") -> str:
    return next(id for id, one in (await authorities(api, kind)).items() if one["status"] == "active")


async def cut(api: Any, authority_id: str, *, by: str = "olga", kind: str = "x509", **more: Any) -> Any:
    body = {"authority_id": authority_id, "reason": "its key is out", **more}
    return await api.call("POST", f"/v1/authority/{kind}/quarantine", body, by=by)


async def release(api: Any, authority_id: str, *, by: str = "olga", kind: str = "x509") -> Any:
    body = {"authority_id": authority_id, "reason": "it was a false alarm"}
    return await api.call("POST", f"/v1/authority/{kind}/release", body, by=by)


async def accepted(api: Any, svid: Any, wanted: bool) -> None:
    """Waits until the SVID is accepted, or is not."""

    async def is_accepted() -> bool:
        try:
            return bool((await api.call("GET", "/v1/health", svid=svid)).status == 200)
        except OSError:  # the handshake failed
            return False

    async with asyncio.timeout(20):
        while await is_accepted() is not wanted:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.1)


def test_what_an_authority_signed_is_refused_until_it_is_released(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        old, svid = await active(api), await api.mint(f"{PEOPLE}/vera")
        await accepted(api, svid, True)
        alone = await cut(api, old)
        assert (alone.status, "nothing would sign any more" in alone.body["detail"]) == (409, True)
        assert "prepare" in alone.body["hint"]

        told = (await cut(api, old, force=True, at_once=True)).body
        assert told["changed"]
        assert told["quarantine"]["withheld"]
        assert told["signing_now"] == await active(api) != old
        await accepted(api, svid, False)
        await accepted(api, await api.mint(f"{PEOPLE}/vera"), True)
        shown = (await authorities(api))[old]
        assert (shown["status"], shown["quarantine"]["by"]) == ("old", "login:olga")
        assert not (await cut(api, old)).body["changed"], "twice is once"
        assert (await api.call("POST", "/v1/authority/x509/taint", {"authority_id": old}, by="olga")).status

        told = (await release(api, old)).body
        assert (told["changed"], told["quarantine"]) == (True, None)
        await accepted(api, svid, True)
        assert await active(api) != old, "it doesn't sign again"
        assert not (await release(api, old)).body["changed"]

        records = (await api.call("GET", "/v1/ledger?kind=authority", by="audrey")).body["records"]
        events = [one["event"] for one in records if one["authority_id"] == old]
        assert events[:3] == ["released", "withheld", "quarantined"]

    rest(scenario)


def test_a_prepared_one_takes_over_and_time_is_given(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        for kind in ("x509", "jwt"):
            old = await active(api, kind)
            prepared = await api.call("POST", f"/v1/authority/{kind}/prepare", {"reason": "r"}, by="olga")
            assert prepared.status == 200
            told = (await cut(api, old, kind=kind)).body
            assert (told["quarantine"]["withheld"], told["signing_now"]) == (False, await active(api, kind))
            assert told["signing_now"] == prepared.body["authorities"][-1]["authority_id"]
            assert (await release(api, old, kind=kind)).body["quarantine"] is None

    rest(scenario)


def test_who_may_cut_an_authority_off(rest: Any) -> None:
    async def scenario(api: Any) -> None:
        old = await active(api)
        for nobody in ("vera", "ada", "grace", "narrow"):
            assert (await cut(api, old, by=nobody, force=True)).status == 403
            assert (await release(api, old, by=nobody)).status == 403
        assert (await cut(api, "0" * 40)).status == 404
        assert (await release(api, "0" * 40)).status == 404
        assert (await active(api)) == old

    rest(scenario)
