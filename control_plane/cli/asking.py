"""The management API as one command asks it: by whoever its flags name, its lists to their ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from control_plane.cli.caller import caller_headers
from control_plane.cli.options import Output
from control_plane.cli.remote import rest

TIMEOUT_SECONDS = 30.0


class Asking:
    """Requests of one command. Each gives the answer's JSON; what fails ends the program with one line."""

    def __init__(
        self, token_file: Path | None, data_dir: Path | None, output: Output, *, break_glass: bool = False
    ) -> None:
        self.headers = caller_headers(token_file, output, break_glass=break_glass)
        self.output = output
        self._data_dir = data_dir

    def get(self, path: str, **query: Any) -> Any:
        """What is there."""
        return rest(
            "GET",
            path,
            data_dir=self._data_dir,
            output=self.output,
            query=query,
            headers=self.headers,
            timeout_seconds=TIMEOUT_SECONDS,
        )

    def whole(self, path: str, rows: str) -> Any:
        """A list with all of its pages: the answer of the first, with the rows of the others in `rows`."""
        answer = page = self.get(path)
        while page.get("next_cursor") is not None:
            page = self.get(path, cursor=page["next_cursor"])
            answer[rows] += page[rows]
        return {**answer, "next_cursor": None}

    def post(self, path: str, body: dict[str, Any], *, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        """One change."""
        return rest(
            "POST",
            path,
            data_dir=self._data_dir,
            output=self.output,
            body=body,
            headers=self.headers,
            timeout_seconds=timeout_seconds,
        )
