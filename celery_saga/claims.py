"""Who may run a step: the one rule, which every store keeps."""

from __future__ import annotations

from celery_saga.execution import Claim, SagaExecution, Slot, evolved


def claimed(execution: SagaExecution, slot: Slot, claim: Claim) -> SagaExecution | None:
    """The execution with ``claim`` on ``slot``, or ``None`` if the slot is not to be had.

    The slot must be the one that was dispatched last; a free slot
    is taken unless a later Celery retry is awaited, one's own claim is confirmed (a lost reply),
    and a message with more Celery retries takes over, because Celery sends it only when the
    earlier attempt has ended.
    """
    step = execution.at_step(slot)
    if step is None or execution.slot(slot.step) != slot:
        return None
    held = step.claim
    if held is not None and held.token == claim.token:
        return execution
    if claim.retries < step.retries or (held is not None and claim.retries == step.retries):
        return None
    taken = execution.with_step(slot.step, claim=claim, retries=claim.retries)
    return evolved(taken, revision=execution.revision + 1)
