"""Whether some request to a workload satisfies a formula, and one that does."""

from policies.formula import Formula, Request
from policies.inventory import Inventory, Workload
from policies.proof import space as sp
from policies.proof.dimensions import Dimensions
from policies.proof.question import QuestionMeaning
from policies.proof.verdict import claim_shapes, concrete


def request_for(formula: Formula, workload: Workload, inventory: Inventory) -> Request | None:
    """A shortest request that satisfies a formula, None where none can.

    Raises Unimplemented or ResourceExhausted where it can't be decided.
    """
    space = sp.Space()
    dimensions = Dimensions.of(strict=True, claim_shapes=claim_shapes(inventory))
    meaning = QuestionMeaning(space, dimensions, inventory, workload).of(formula)
    witness = space.difference(meaning, sp.FALSE)
    return None if witness is None else concrete(witness, workload, inventory)[0]
