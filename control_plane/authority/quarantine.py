"""An authority that is cut off for a while, and may come back: steps between states, as in `state`.

Cut off, it signs nothing more; another one signs from the same moment on. It is marked as tainted, so that
agents replace what it signed at once, and after `GRACE_SECONDS` it is withheld from the bundle: then what it
signed is refused everywhere. The time between is for agents, which have to come with a certificate that
counts to get a new one; a key that is in wrong hands is withheld at once.

A release brings it back into the bundle, untainted: what it signed and is still valid counts again. It
doesn't sign again, since authorities go forward only; one that was prepared is prepared again. What can't be
undone: SVIDs that were replaced stay replaced, and an agent that held one of its certificates when it was
withheld, and can't attest again by itself, needs a new join token.
"""

from dataclasses import replace
from typing import Final

from control_plane.authority import steps
from control_plane.authority.state import AuthorityState, CutOff, Kind, Slot, Status
from control_plane.core.errors import FailedPrecondition

GRACE_SECONDS: Final = 30


def quarantine(
    state: AuthorityState,
    kind: Kind,
    authority_id: str,
    cut_off: CutOff,
    spare: Slot | None,
) -> AuthorityState:
    """Cuts an authority off; one that is cut off already stays so, and may be withheld at once now.

    If it is the active one, the prepared one signs from now on; where none is prepared, it is `spare`, of
    which agents only hear in the same moment. Raises FailedPrecondition without a spare then, and for what
    is revoked.
    """
    slot = state.find(kind, authority_id)
    if slot.revoked:
        raise FailedPrecondition(f"{kind} authority {authority_id} is revoked, and counts nowhere any more")
    if slot.cut_off is not None:
        if slot.cut_off.withheld or not cut_off.withheld:
            return state
        return withhold(state, kind, authority_id)
    if slot.status is Status.ACTIVE:
        state = _with_another(state, kind, slot, cut_off.at, spare)
        slot = state.find(kind, authority_id)
    return steps.changed(state, kind, replace(slot, cut_off=cut_off))


def withhold(state: AuthorityState, kind: Kind, authority_id: str) -> AuthorityState:
    """Takes an authority that is cut off out of the bundle."""
    slot = state.find(kind, authority_id)
    if slot.cut_off is None:
        raise FailedPrecondition(f"{kind} authority {authority_id} isn't cut off, so it stays in the bundle")
    return steps.changed(state, kind, replace(slot, cut_off=replace(slot.cut_off, withheld=True)))


def release(state: AuthorityState, kind: Kind, authority_id: str) -> AuthorityState:
    """Lets an authority count again; one that isn't cut off stays as it is."""
    slot = state.find(kind, authority_id)
    if slot.cut_off is None:
        return state
    other = state.with_status(kind, Status.PREPARED)
    if slot.status is Status.PREPARED and other is not None:
        raise FailedPrecondition(
            f"{kind} authority {authority_id} was prepared, and so is {other.authority_id} by now",
            hint="activate or revoke that one first",
        )
    return steps.changed(state, kind, replace(slot, cut_off=None))


def due(state: AuthorityState, kind: Kind, now: int) -> str | None:
    """The authority that is to be withheld now, if there is one."""
    return next(
        (
            slot.authority_id
            for slot in state.slots(kind)
            if slot.cut_off is not None
            and not (slot.cut_off.withheld or slot.revoked)
            and now >= slot.cut_off.at + GRACE_SECONDS
        ),
        None,
    )


def _with_another(
    state: AuthorityState, kind: Kind, active: Slot, now: int, spare: Slot | None
) -> AuthorityState:
    prepared = state.with_status(kind, Status.PREPARED)
    if prepared is None and spare is None:
        raise FailedPrecondition(
            f"{kind} authority {active.authority_id} is the active one, and none is prepared: "
            "nothing would sign any more",
            hint=f"gatehouse authority {kind} prepare, and repeat; --force makes one that signs at once",
        )
    if prepared is None:
        assert spare is not None
        state = steps.prepare(state, spare, now)
        prepared = spare
    return steps.activate(state, kind, prepared.authority_id, now)
