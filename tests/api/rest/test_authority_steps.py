"""The steps of a rotation by hand, as the ledger tells of them."""

from __future__ import annotations

from typing import Any


def test_a_step_that_is_refused_is_no_change_in_the_ledger(rest: Any) -> None:
    """The ledger says what was changed: nobody is to read there that a signing authority was revoked."""

    async def scenario(api: Any) -> None:
        async def step(name: str, **body: Any) -> int:
            answer = await api.call(
                "POST", f"/v1/authority/jwt/{name}", {**body, "reason": "a try"}, by="olga"
            )
            return int(answer.status)

        async def recorded() -> list[str]:
            answer = await api.call("GET", "/v1/ledger?kind=change", by="audrey")
            return [one["detail"] for one in answer.body["records"] if one["action"] == "authority.rotate"]

        listed = (await api.call("GET", "/v1/authority/jwt", by="vera")).body["authorities"]
        active = next(one["authority_id"] for one in listed if one["status"] == "active")
        for name in ("taint", "revoke", "activate"):
            assert await step(name, authority_id=active) == 409
            assert await step(name, authority_id="none") == 404
        assert await recorded() == []
        assert await step("prepare") == 200
        assert await step("prepare") == 409
        assert await recorded() == ['{"step": "prepare"}']
        assert await step("activate") == 200
        assert await step("taint", authority_id=active) == 200
        assert await step("revoke", authority_id=active) == 200
        assert len(await recorded()) == 4

    rest(scenario)
