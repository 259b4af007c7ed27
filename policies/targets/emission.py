"""What a target returns, and what it may be asked to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policies.formula import Formula, Question, atoms_of
from policies.inventory import ClaimShape, Inventory, Workload
from policies.targets.manifest import Manifest
from policies.targets.shortfall import Shortfall, Step


@dataclass(frozen=True, slots=True)
class Options:
    """`exact_only` refuses what isn't said exactly; `custom_provider` names the agent's ext_authz.

    `by_mode` leaves out workloads that the inventory guards in another way than the target's.
    """

    exact_only: bool = False
    custom_provider: str = ""
    by_mode: bool = False


@dataclass(frozen=True, slots=True)
class Emission:
    """Objects and what they fall short of. Objects of a refused workload aren't there."""

    manifests: tuple[Manifest, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()

    @property
    def refused(self) -> tuple[Shortfall, ...]:
        """What stops the compilation."""
        return tuple(one for one in self.shortfalls if one.step is Step.REFUSED)


def joined(emissions: Iterable[Emission]) -> Emission:
    """Several emissions as one, in stable order."""
    found = list(emissions)
    manifests = sorted((one for each in found for one in each.manifests), key=Manifest.file_name)
    return Emission(tuple(manifests), tuple(one for each in found for one in each.shortfalls))


def refusal(target: str, workload: Workload, reason: str) -> Emission:
    """Nothing but a refusal."""
    return Emission((), (Shortfall(target, workload.key, Step.REFUSED, reason, ()),))


def shared_claim_shapes(inventory: Inventory) -> Mapping[tuple[str, ...], ClaimShape]:
    """Top-level claims whose shape every issuer promises alike."""
    found: dict[tuple[str, ...], ClaimShape] = {}
    if inventory.issuers:
        for name, shape in inventory.issuers[0].claims.items():
            if all(one.claims.get(name) is shape for one in inventory.issuers):
                found[(name,)] = shape
    return found


def uses_claims(question: Question) -> bool:
    """Whether a token's claims matter to the question."""
    return any(_reads_claims(one.formula) for one in (*question.allow.disjuncts, *question.deny.disjuncts))


def _reads_claims(formula: Formula) -> bool:
    return any(atom.attribute.name == "jwt.claims" for atom in atoms_of(formula))
