"""Lists of the management API are read to their ends, whoever serves them."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.cli import asking
from control_plane.cli.asking import Asking
from control_plane.cli.options import Output


def test_a_list_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: dict[Any, dict[str, Any]] = {
        None: {"revision": 7, "rows": [1, 2], "next_cursor": "b"},
        "b": {"revision": 7, "rows": [3], "next_cursor": "c"},
        "c": {"revision": 7, "rows": [], "next_cursor": None},
    }
    asked: list[Any] = []

    def rest(method: str, path: str, *, query: dict[str, Any], headers: dict[str, str], **_: Any) -> Any:
        asked.append((method, path, query, headers))
        return pages[query.get("cursor")]

    monkeypatch.setattr(asking, "rest", rest)
    server = Asking(None, None, Output.HUMAN, break_glass=True)
    assert server.whole("/v1/x", "rows") == {"revision": 7, "rows": [1, 2, 3], "next_cursor": None}
    glass = {"gatehouse-break-glass": "1"}
    assert asked == [("GET", "/v1/x", query, glass) for query in ({}, {"cursor": "b"}, {"cursor": "c"})]


def test_a_list_of_an_older_server_has_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "rest", lambda *_, **__: {"rows": [1]})
    assert Asking(None, None, Output.HUMAN).whole("/v1/x", "rows")["rows"] == [1]
