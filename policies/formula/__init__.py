"""A decision as a formula over typed atoms: what the Rego evaluator produces and the targets consume."""

from policies.formula.atoms import (
    Atom,
    Between,
    Cidr,
    Contains,
    Equal,
    Glob,
    In,
    Member,
    Opaque,
    Prefix,
    Present,
    Regex,
    Suffix,
)
from policies.formula.attributes import (
    DESTINATION_IP,
    HOST,
    HTTP_ONLY,
    METHOD,
    MTLS,
    NAMESPACE,
    PATH,
    PORT,
    SERVICE_ACCOUNT,
    SNI,
    SOURCE_ID,
    SOURCE_IDENTITY,
    SOURCE_IP,
    TRUST_DOMAIN,
    Attribute,
    Domain,
    Value,
    claim,
    header,
    label,
)
from policies.formula.build import (
    between,
    contains,
    differs,
    ends_with,
    equals,
    has_member,
    in_network,
    matches,
    matches_glob,
    one_of,
    opaque,
    present,
    starts_with,
)
from policies.formula.codec import (
    formula_from_json,
    formula_to_json,
    policy_set_from_json,
    policy_set_to_json,
)
from policies.formula.decision import Decision, Disjunct, Origin, PolicySet, Question, WorkloadPolicy
from policies.formula.expression import (
    FALSE,
    TRUE,
    Formula,
    all_of,
    any_of,
    atoms_of,
    evaluate,
    ground,
    literal,
    negate,
    render,
    substitute,
)
from policies.formula.factored import any_of_all
from policies.formula.request import Request

__all__ = [
    "DESTINATION_IP", "FALSE", "HOST", "HTTP_ONLY", "METHOD", "MTLS", "NAMESPACE", "PATH", "PORT",
    "SERVICE_ACCOUNT", "SNI", "SOURCE_ID", "SOURCE_IDENTITY", "SOURCE_IP", "TRUE", "TRUST_DOMAIN",
    "Atom", "Attribute", "Between", "Cidr", "Contains", "Decision", "Disjunct", "Domain", "Equal",
    "Formula", "Glob", "In", "Member", "Opaque", "Origin", "PolicySet", "Prefix", "Present", "Question",
    "Regex", "Request", "Suffix", "Value", "WorkloadPolicy", "all_of", "any_of", "any_of_all", "atoms_of",
    "between", "claim", "contains", "differs", "ends_with", "equals", "evaluate", "formula_from_json",
    "formula_to_json", "ground", "has_member", "header", "in_network", "label", "literal", "matches",
    "matches_glob", "negate", "one_of", "opaque", "policy_set_from_json", "policy_set_to_json",
    "present", "render", "starts_with", "substitute",
]  # fmt: skip
