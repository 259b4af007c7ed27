"""Why a policy decides as it does about one input: the rules in order, with the values that they read.

    explanation = explain(compiled_modules, input_document, data)   -> Explanation, a value to print or log

The concrete evaluator is asked small questions (a few statements, a term), so an explanation can't say other
than what is enforced. Not here: how it looks in a terminal (`gatehouse policy explain`), all requests at once
(`policies.reach`). Rules behind `with` are not followed: they were asked about another input.
"""

from policies.explain.decision import explain
from policies.explain.document import explanation_document
from policies.explain.trace import Condition, DocumentTrace, Explanation, Nearest, Outcome, Read, RuleTrace

__all__ = [
    "Condition",
    "DocumentTrace",
    "Explanation",
    "Nearest",
    "Outcome",
    "Read",
    "RuleTrace",
    "explain",
    "explanation_document",
]
