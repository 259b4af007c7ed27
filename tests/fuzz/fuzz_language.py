"""Fuzz targets around the Rego parser: policies of OPA's Envoy plugin, and annotations above rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from control_plane.core.errors import InvalidInput
from policies.envoy_input import rewrite_modules
from policies.language.diagnostics import Diagnostics
from policies.language.syntax.annotations import to_json
from policies.language.syntax.parser import parse_module


def fuzz_envoy_input(data: bytes) -> bool:
    """A policy for the plugin: rewritten to what parses, or told why not."""
    with contextlib.suppress(Diagnostics, InvalidInput):
        rewrite = rewrite_modules({"policy.rego": data.decode("utf-8", "replace")})
        for remark in rewrite.remarks:
            assert remark.to_json()
        for name, text in rewrite.modules.items():
            parse_module(text, name)
        return True
    return False


def fuzz_annotations(data: bytes) -> bool:
    """What stands in a block of metadata, above a package and above a rule."""
    lines = data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    block = "# METADATA\n" + "".join(f"# {line}\n" for line in lines)
    accepted = False
    for text in (f"{block}package p\n", f"package p\n\n{block}allow := true\n"):
        with contextlib.suppress(Diagnostics):
            module = parse_module(text)
            for found in (*module.annotations, *(one for rule in module.rules for one in rule.annotations)):
                assert to_json(found)
                accepted = True
    return accepted


_HEAD: Final = "package envoy.authz\n\nimport input.attributes.request.http as http_request\n\n"
_POLICIES: Final = (
    'default allow := false\nallow if {\n\thttp := input.attributes.request.http\n\thttp.method == "GET"\n'
    '\tstartswith(http.path, "/a")\n}\n',
    'allow if {\n\tinput.parsed_path == ["a", "b"]\n\tinput.attributes.source.principal == "spiffe://a/b"\n}\n',
    'allow if http_request.headers["x-a"] == "1"\n\nallow if http_request.headers[":path"] == "/b"\n',
    'allow if object.get(http_request.headers, "x", "") == "a"\n\np if data.envoy.authz.allow\n',
    'allow := {"allowed": true, "headers": {"a": "b"}}\n',
    "allow if {\n\tsome name in input.parsed_query.a\n\tname == input.parsed_body.a\n}\n",
    "allow if input.attributes.destination.address.socketAddress.portValue == 80\n",
)
_BLOCKS: Final = (
    "title: Who may\ndescription: all\nscope: document\nentrypoint: true\norganizations: [a]\n",
    "authors:\n- name: Ada\n  email: a@b\n- Bob <b@c>\nrelated_resources:\n- ref: https://a\n- https://b\n",
    "schemas:\n- input: schema.input\n- data.a: {type: object}\ncustom: {a: [1, 2.5, null]}\n",
    "scope: subpackages\ncompile: {unknowns: [input.a], mask_rule: a}\nlabels: {a: b}\n",
)

SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "envoy_input": lambda: [f"{_HEAD}{policy}".encode() for policy in _POLICIES],
    "annotations": lambda: [block.encode() for block in _BLOCKS],
}
