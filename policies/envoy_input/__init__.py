"""Policies written for OPA's Envoy plugin, rewritten to our input, with every difference told.

    rewrite = rewrite_modules(texts)   -> Rewrite: the new texts, remarks by line, what is assumed of Envoy

`input.attributes` is Envoy's CheckRequest as the plugin shows it (opa-envoy-plugin, envoyauth/request.go);
ours is `policies/language/schema`. A line that reads what we have no counterpart for is refused: what a mesh
can't see (bodies, queries) no manifest can say. Not here: reading folders and printing (`gatehouse policy`).
"""

from policies.envoy_input.report import Difference, Kind, Remark, Rewrite
from policies.envoy_input.rewrite import rewrite_modules

__all__ = ["Difference", "Kind", "Remark", "Rewrite", "rewrite_modules"]
