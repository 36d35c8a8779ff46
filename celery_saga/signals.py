"""Signals of Celery's own kind that are sent in the process that saved a change of a saga.

::

    from celery_saga.signals import saga_stuck

    @saga_stuck.connect
    def page_operator(sender, saga_id, step, reason, **fields):
        ...

``sender`` is the saga's name, so that ``connect(sender="checkout")`` selects one saga. The other
arguments are those of :class:`celery_saga.core.views.notice.Notice`: ``saga_id``, ``saga_name``,
``step`` and ``reason`` (texts, empty: none), ``attempt`` (from 1; 0: none) and ``status``.

A receiver is called after the save, by the worker or caller that made it: it must be quick, and an
error of it is logged by Celery and changes nothing. If that process dies in between, the signal is
not sent.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = [
    "saga_compensated",
    "saga_compensating",
    "saga_completed",
    "saga_deadline",
    "saga_orphan_effect",
    "saga_started",
    "saga_step_failed",
    "saga_step_succeeded",
    "saga_stuck",
]

_FIELDS = ["saga_id", "saga_name", "step", "attempt", "status", "reason"]


def _signal(name: str) -> Signal:
    return Signal(name=name, providing_args=_FIELDS)


#: A saga was started.
saga_started = _signal("saga_started")
#: The forward task of a step has ended as its saga needs it.
saga_step_succeeded = _signal("saga_step_succeeded")
#: A step failed, its outcome is unknown, or its compensation failed: ``status`` says which.
saga_step_failed = _signal("saga_step_failed")
#: A saga's rollback began, or continues after a pause or a repair.
saga_compensating = _signal("saga_compensating")
#: A saga has ended; the effect of every step exists.
saga_completed = _signal("saga_completed")
#: A saga has ended; every effect was compensated.
saga_compensated = _signal("saga_compensated")
#: A saga needs an operator.
saga_stuck = _signal("saga_stuck")
#: A step took effect after its saga was compensated, or deleted: see ``reason``.
saga_orphan_effect = _signal("saga_orphan_effect")
#: The deadline of a saga passed behind its pivot, so that it is not rolled back.
saga_deadline = _signal("saga_deadline")
