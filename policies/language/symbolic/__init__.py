"""The symbolic evaluator: what a Rego rule means for every request at once."""

from policies.language.symbolic.evaluate import SymbolicEvaluator
from policies.language.symbolic.input import PartialInput
from policies.language.symbolic.machine import Limits
from policies.language.symbolic.memory import Memory

__all__ = ["Limits", "Memory", "PartialInput", "SymbolicEvaluator"]
